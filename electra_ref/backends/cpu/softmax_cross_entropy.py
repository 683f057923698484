"""Cross entropy over the vocabulary: ``backends.reference.softmax_cross_entropy``.

    loss = sum over m of w_m (log sum over v of exp(logits[m, v]) - logits[m, label_m])
    dlogits[m, v] = dloss w_m (softmax(logits[m])_v - [v = label_m])

Fused: a row of logits stays in the cache from its maximum to its loss. The probabilities are not
kept: the logits and two numbers a row are enough to compute them again.

Memory traffic: forward the logits are read; backward they are read and dlogits is written.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Array, Float32
from electra_ref.backends.cpu.arguments import expect
from electra_ref.backends.cpu.exponential import exp_of_negative
from electra_ref.compilation import jit

SUM = frozenset({"contract", "reassoc"})


class SoftmaxCrossEntropyCache(NamedTuple):
    """Kept for the backward pass: a reference, and two numbers a row."""

    logits: Float32  # (M, V)
    largest: Float32  # (M,)  the largest logit of each row
    sums: Float32  # (M,)  sum of exp(logit - largest)
    labels: npt.NDArray[np.int32]  # (M,)
    weights: Float32  # (M,)


def softmax_cross_entropy(
    logits: Float32, labels: npt.NDArray[np.int32], weights: Array
) -> tuple[Float32, SoftmaxCrossEntropyCache]:
    """Return the sum () of the losses of ``logits`` (M, V) against ``labels`` (M,).

    ``weights`` (M,) are any real numbers: 1 for used slots and 0 for unused ones, whose sum the
    caller divides by, once, so that micro-batches add up; or what each slot is worth, which may be
    negative. Raises ValueError if ``logits`` is not float32, and IndexError if a label is not below
    V.
    """
    count = logits.shape[0]
    expect(logits.shape, logits)
    largest, sums = np.empty((count,), np.float32), np.empty((count,), np.float32)
    reduce_rows(logits, largest, sums)
    factors = weights.astype(np.float32)
    label_logits = logits[np.arange(count), labels] - largest
    loss = (factors * (np.log(sums) - label_logits)).sum()
    return loss, SoftmaxCrossEntropyCache(logits, largest, sums, labels, factors)


def softmax_cross_entropy_backward(dloss: float, cache: SoftmaxCrossEntropyCache) -> Float32:
    """Return dlogits (M, V) for the number ``dloss``."""
    logits, largest, sums, labels, weights = cache
    dlogits = np.empty_like(logits)
    factors = np.float32(dloss) * weights
    write_probabilities(logits, largest, factors / sums, dlogits)
    dlogits[np.arange(labels.size), labels] -= factors
    return dlogits


@jit(parallel=True)
def reduce_rows(logits: Float32, largest: Float32, sums: Float32) -> None:
    for m in numba.prange(logits.shape[0]):
        largest[m] = _row_maximum(logits[m])
        sums[m] = _sum_of_exponentials(logits[m], largest[m])


@jit(parallel=True)
def write_probabilities(logits: Float32, largest: Float32, factors: Float32, out: Float32) -> None:
    for m in numba.prange(logits.shape[0]):
        for v in range(logits.shape[1]):
            out[m, v] = exp_of_negative(logits[m, v] - largest[m]) * factors[m]


@jit(fastmath=SUM)
def _sum_of_exponentials(logits: Float32, largest: np.float32) -> np.float32:
    total = np.float32(0.0)
    for v in range(logits.size):
        total += exp_of_negative(logits[v] - largest)
    return np.float32(total)


@jit(fastmath=SUM)
def _row_maximum(logits: Float32) -> np.float32:
    largest = logits[0]
    for v in range(logits.size):
        largest = max(largest, logits[v])
    return np.float32(largest)
