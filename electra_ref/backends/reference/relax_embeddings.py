"""The embedding of a relaxed sample instead of a drawn token (Gumbel-softmax), and its gradient.

    p = softmax((logits + noise) / temperature)
    delta[r] = sum over v of p[r, v] table[v] - table[sampled[r]]

    dp = ddelta tableᵀ,   dlogits = p (dp - sum over v of p dp) / temperature
    dtable = pᵀ ddelta - scatter of ddelta to the sampled rows

delta is what must be added to the embedding of the sampled token to get the mixture of all word
embeddings. With Gumbel noise, p comes closer to one drawn token as the temperature falls.

Straight-through, the value is that of the drawn token, so delta is zero, but the gradient of the
logits is that of the mixture. The table has no gradient from here then: the lookup of the drawn
token has one. No real function has zeros as its value and this derivative. So complex logits carry
it in the imaginary part: with q = p - Re p, delta = q Re table.

Source: Jang et al. 2017, arXiv:1611.01144, section 2; Maddison et al. 2017, arXiv:1611.00712.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from electra_ref.arrays import Array, get_xp, sum_rows_by_index
from electra_ref.gradient import GradientSum


class RelaxEmbeddingsCache(NamedTuple):
    """Kept for the backward pass: the probabilities, the size of the logits."""

    probabilities: Array  # (R, V)
    table: Array  # (V, E)  the parameter itself
    sampled_ids: Array  # (R,)
    temperature: float


def relax_embeddings(
    logits: Array,
    noise: Array,
    temperature: float,
    table: Array,
    sampled_ids: Array,
    straight_through: bool,
) -> tuple[Array, RelaxEmbeddingsCache]:
    """Return delta (R, E) for ``logits`` and ``noise`` (R, V) and the tokens ``sampled_ids`` (R,).

    ``noise`` has the float type of ``logits``; ``table`` is (V, E). ``straight_through`` makes
    delta zero and leaves the gradient as it is.

    Raises ValueError if shapes or types do not fit, or if ``temperature`` is not positive and
    finite.
    """
    check_relaxation(logits, noise, temperature, table, sampled_ids)
    xp = get_xp(logits)
    shifted = logits + noise
    shifted -= shifted.real.max(axis=-1, keepdims=True)  # .real: for the complex step
    shifted /= temperature
    probabilities = xp.exp(shifted, out=shifted)
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    cache = RelaxEmbeddingsCache(probabilities, table, sampled_ids, temperature)
    if not straight_through:
        return probabilities @ table - table[sampled_ids], cache
    if probabilities.dtype.kind == "c":
        return (probabilities - probabilities.real) @ table.real, cache
    return xp.zeros((logits.shape[0], table.shape[1]), probabilities.dtype), cache


def relax_embeddings_backward(
    ddelta: Array, cache: RelaxEmbeddingsCache, dtable: GradientSum | None
) -> Array:
    """Return dlogits (R, V) for ``ddelta`` (R, E); add to ``dtable`` (V, E) unless it is None.

    It must be None if delta was straight-through.
    """
    probabilities, table, sampled_ids, temperature = cache
    if dtable is not None:
        part = probabilities.T @ ddelta
        part -= sum_rows_by_index(ddelta, sampled_ids, table.shape[0])
        dtable.add(part)
    dlogits: Array = ddelta @ table.T  # of the probabilities, so far
    dlogits -= (probabilities * dlogits).sum(axis=-1, keepdims=True)
    dlogits *= probabilities
    dlogits /= temperature
    return dlogits


def check_relaxation(
    logits: Array, noise: Array, temperature: float, table: Array, sampled_ids: Array
) -> None:
    """Raise ValueError for arguments of ``relax_embeddings`` that do not fit."""
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    rows, words = logits.shape
    shapes = noise.shape, sampled_ids.shape, table.shape[:1]
    if shapes != ((rows, words), (rows,), (words,)) or noise.dtype != logits.real.dtype:
        raise ValueError(
            f"logits {logits.dtype} {logits.shape}, noise {noise.dtype} {noise.shape}, "
            f"table {table.shape} and sampled ids {sampled_ids.shape} do not fit"
        )
