"""The embedding of a relaxed sample, with factors in bfloat16.

    delta = q table,   dp = ddelta tableᵀ,   dtable = qᵀ ddelta

The three products take factors rounded to bfloat16; all else is that of ``cpu.relax_embeddings``.
q is rounded, not the probabilities: what is near 1 there is near 0 in q, and keeps its digits.
Memory traffic: as there; ddelta is read once in float32, and once written and read in bfloat16.
"""

from __future__ import annotations

import numpy as np

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.arguments import expect
from electra_ref.backends.cpu.bfloat16.matrix_product import multiply, multiply_and_pack
from electra_ref.backends.cpu.relax_embeddings import (
    Integers,
    RelaxEmbeddingsCache,
    pass_softmax,
    relax,
)
from electra_ref.gradient import GradientSum


def relax_embeddings(
    logits: Float32,
    noise: Float32,
    temperature: float,
    table: Float32,
    sampled_ids: Integers,
    straight_through: bool,
) -> tuple[Float32, RelaxEmbeddingsCache]:
    """Return delta (R, E) for ``logits`` and ``noise`` (R, V) and the tokens ``sampled_ids`` (R,).

    ``table`` is (V, E). ``straight_through`` makes delta zero and leaves the gradient as it is.

    Raises ValueError if shapes or types do not fit, or if ``temperature`` is not positive and
    finite, and IndexError if an id is not below V.
    """
    cache = relax(logits, noise, temperature, table, sampled_ids)
    delta = np.zeros((logits.shape[0], table.shape[1]), np.float32)
    if not straight_through:
        multiply(cache.excess, table, delta)
    return delta, cache


def relax_embeddings_backward(
    ddelta: Float32, cache: RelaxEmbeddingsCache, dtable: GradientSum | None
) -> Float32:
    """Return dlogits (R, V) for ``ddelta`` (R, E); add to ``dtable`` (V, E) unless it is None.

    It must be None if delta was straight-through. Raises ValueError if shapes or types do not fit.
    """
    expect((cache.excess.shape[0], cache.table.shape[1]), ddelta)
    dlogits = np.empty(cache.excess.shape, np.float32)
    packed = multiply_and_pack(ddelta, cache.table.T, dlogits)
    if dtable is not None:
        start = None if dtable.is_empty else dtable.array
        expect(cache.table.shape, dtable.array)
        multiply(cache.excess.T, packed, dtable.array, start=start)
    pass_softmax(dlogits, cache)
    return dlogits
