"""The embedding of a relaxed sample: ``backends.reference.relax_embeddings``.

    p = softmax((logits + noise) / temperature),   q[r, v] = p[r, v] - [v = sampled[r]]
    delta = q table

    dp = ddelta tableᵀ,   dlogits = p (dp - sum over v of p dp) / temperature
    dtable = qᵀ ddelta

Fused: a row of logits stays in the cache until it is a row of q. Only q is kept, and p of the
sampled token, whose digits q may have lost. With q the product gives delta itself, not the
difference of a mixture and an embedding that may be almost equal, and dtable includes the scatter
to the sampled rows.

Memory traffic: forward logits and noise are read, q is written and read once. Backward q is read
twice, dp is written and read, dlogits takes its place. And that of the products, see
``matrix_product``. Straight-through, two of the three products are left out.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.arguments import expect, expect_ids
from electra_ref.backends.cpu.exponential import exp_of_negative
from electra_ref.backends.cpu.matrix_product import multiply
from electra_ref.backends.reference.relax_embeddings import check_relaxation
from electra_ref.compilation import jit
from electra_ref.gradient import GradientSum

Integers = npt.NDArray[np.integer]
SUM = frozenset({"contract", "reassoc"})


class RelaxEmbeddingsCache(NamedTuple):
    """Kept for the backward pass: one array of the size of the logits, one number a row."""

    excess: Float32  # (R, V)  q: the probabilities, less 1 for the sampled token
    at_sampled: Float32  # (R,)  the probability of the sampled token
    table: Float32  # (V, E)  the parameter itself
    sampled_ids: Integers  # (R,)
    temperature: float


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
    if dtable is not None:
        start = None if dtable.is_empty else dtable.array
        expect(cache.table.shape, dtable.array)
        multiply(cache.excess.T, ddelta, dtable.array, start=start)
    dlogits = np.empty(cache.excess.shape, np.float32)
    multiply(ddelta, cache.table.T, dlogits)
    pass_softmax(dlogits, cache)
    return dlogits


def relax(
    logits: Float32, noise: Float32, temperature: float, table: Float32, sampled_ids: Integers
) -> RelaxEmbeddingsCache:
    """Check the arguments of ``relax_embeddings`` and return its cache."""
    check_relaxation(logits, noise, temperature, table, sampled_ids)
    expect(logits.shape, logits)
    expect(table.shape, table)
    expect_ids(sampled_ids, table.shape[0])
    excess = np.empty(logits.shape, np.float32)
    _relax(logits, noise, np.float32(1.0 / temperature), excess)
    rows = np.arange(sampled_ids.size)
    at_sampled = excess[rows, sampled_ids]
    excess[rows, sampled_ids] = at_sampled - np.float32(1.0)
    return RelaxEmbeddingsCache(excess, at_sampled, table, sampled_ids, temperature)


def pass_softmax(gradient: Float32, cache: RelaxEmbeddingsCache) -> None:
    """Turn ``gradient`` (R, V), that of the probabilities, into that of the logits, in place."""
    rate = np.float32(1.0 / cache.temperature)
    _pass_softmax(cache.excess, cache.at_sampled, cache.sampled_ids, rate, gradient)


@jit(parallel=True)
def _relax(logits: Float32, noise: Float32, rate: np.float32, probabilities: Float32) -> None:
    for r in numba.prange(logits.shape[0]):
        _relax_row(logits[r], noise[r], rate, probabilities[r])


@jit(fastmath=SUM)
def _relax_row(logits: Float32, noise: Float32, rate: np.float32, out: Float32) -> None:
    """Write the probabilities of one row to ``out`` (V,)."""
    largest = logits[0] + noise[0]
    for v in range(out.size):
        out[v] = logits[v] + noise[v]
        largest = max(largest, out[v])
    total = np.float32(0.0)
    for v in range(out.size):
        out[v] = exp_of_negative((out[v] - largest) * rate)
        total += out[v]
    for v in range(out.size):
        out[v] /= total


@jit(parallel=True)
def _pass_softmax(
    excess: Float32,
    at_sampled: Float32,
    sampled_ids: Integers,
    rate: np.float32,
    gradient: Float32,
) -> None:
    for r in numba.prange(excess.shape[0]):
        _pass_softmax_row(excess[r], at_sampled[r], sampled_ids[r], rate, gradient[r])


@jit(fastmath=SUM)
def _pass_softmax_row(
    excess: Float32,
    at_sampled: np.float32,
    sampled: np.integer,
    rate: np.float32,
    gradient: Float32,
) -> None:
    """Write the gradient of one row; the sampled token is left out of the loops."""
    of_sampled = gradient[sampled]
    gradient[sampled] = 0.0
    mean = at_sampled * of_sampled
    for v in range(gradient.size):
        mean += excess[v] * gradient[v]
    for v in range(gradient.size):
        gradient[v] = excess[v] * (gradient[v] - mean) * rate
    gradient[sampled] = at_sampled * (of_sampled - mean) * rate
