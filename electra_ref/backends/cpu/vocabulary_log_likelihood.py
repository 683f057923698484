"""Log-likelihood of one word a row: ``backends.reference.vocabulary_log_likelihood``.

    logits = x tableᵀ + bias
    log_likelihood[n] = logits[n, label_n] - log sum over v of exp(logits[n, v])

    dlogits[n, v] = dlog_likelihood[n] ([v = label_n] - softmax(logits[n])_v)
    dx = dlogits table,   dtable = dlogitsᵀ x,   dbias = sum of dlogits over the rows

The logits exist for ``ROWS_AT_A_TIME`` rows at a time, in one array that all parts share, and are
computed again backward. Two numbers a row are kept, so that softmax does not look for the largest
logit again. Parts come one after the other, so every sum has the same order on any number of
threads.

Peak memory beyond arguments and results: ROWS_AT_A_TIME x V numbers, and V x E in the products, for
any N. Memory traffic: for each part the table is read and packed once, the logits are written and
read twice; backward the table is read and packed twice, the sum for dtable is read and written, the
logits are written and read, and dlogits, in their place, is written and read three times.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.arguments import expect, expect_ids
from electra_ref.backends.cpu.matrix_product import multiply
from electra_ref.backends.cpu.softmax_cross_entropy import reduce_rows, write_probabilities
from electra_ref.backends.reference.vocabulary_log_likelihood import (
    ROWS_AT_A_TIME,
    check_shapes,
    parts_of,
)
from electra_ref.gradient import GradientSum

Integers = npt.NDArray[np.integer]


class VocabularyLogLikelihoodCache(NamedTuple):
    """Kept for the backward pass: references, and two numbers a row."""

    x: Float32  # (N, E)
    table: Float32  # (V, E)  the parameter itself
    bias: Float32  # (V,)
    labels: Integers  # (N,)
    largest: Float32  # (N,)  the largest logit of each row
    sums: Float32  # (N,)  sum of exp(logit - largest)


def vocabulary_log_likelihood(
    x: Float32, table: Float32, bias: Float32, labels: Integers
) -> tuple[Float32, VocabularyLogLikelihoodCache]:
    """Return log softmax(``x`` tableᵀ + ``bias``)[label] of each row: (N,).

    ``x`` is (N, E), ``table`` (V, E), ``bias`` (V,), ``labels`` (N,). Raises ValueError if shapes
    or types do not fit, and IndexError if a label is not in [0, V).
    """
    check_arguments(x, table, bias, labels)
    largest, sums, label_logits = np.empty((3, x.shape[0]), np.float32)
    room = room_for_logits(x, table)
    for rows in parts_of(x.shape[0], ROWS_AT_A_TIME):
        logits = room[: rows.stop - rows.start]
        multiply(x[rows], table.T, logits, start=bias)
        reduce_rows(logits, largest[rows], sums[rows])
        label_logits[rows] = logits[np.arange(logits.shape[0]), labels[rows]]
    cache = VocabularyLogLikelihoodCache(x, table, bias, labels, largest, sums)
    return (label_logits - largest) - np.log(sums), cache


def vocabulary_log_likelihood_backward(
    dlog_likelihood: Float32,
    cache: VocabularyLogLikelihoodCache,
    dtable: GradientSum,
    dbias: GradientSum,
) -> Float32:
    """Return dx (N, E) for ``dlog_likelihood`` (N,); add to ``dtable`` (V, E) and ``dbias`` (V,).

    Raises ValueError if shapes or types do not fit.
    """
    x, table, bias, labels, largest, sums = cache
    expect_gradients(dlog_likelihood, x, dtable, dbias)
    dx, room = np.empty(x.shape, np.float32), room_for_logits(x, table)
    for rows in parts_of(x.shape[0], ROWS_AT_A_TIME):
        dlogits = room[: rows.stop - rows.start]
        multiply(x[rows], table.T, dlogits, start=bias)
        to_gradient(dlogits, dlog_likelihood[rows], largest[rows], sums[rows], labels[rows])
        multiply(dlogits, table, dx[rows])
        start = None if dtable.is_empty else dtable.array
        multiply(dlogits.T, x[rows], dtable.array, start=start)
        dbias.add(dlogits.sum(axis=0))
        dtable, dbias = dtable._replace(is_empty=False), dbias._replace(is_empty=False)
    return dx


def check_arguments(x: Float32, table: Float32, bias: Float32, labels: Integers) -> None:
    """Raise ValueError or IndexError for arguments that a kernel must not see."""
    check_shapes(x, table, bias, labels)
    expect(x.shape, x)
    expect(table.shape, table)
    expect(bias.shape, bias)
    expect_ids(labels, table.shape[0])


def expect_gradients(
    dlog_likelihood: Float32, x: Float32, dtable: GradientSum, dbias: GradientSum
) -> None:
    """Raise ValueError for gradients that do not fit ``x`` (N, E) and each other."""
    expect(x.shape[:1], dlog_likelihood)
    expect((dbias.array.size, x.shape[1]), dtable.array)
    expect((dbias.array.size,), dbias.array)


def room_for_logits(x: Float32, table: Float32) -> Float32:
    """Return new memory for the logits of the longest part of ``x`` (N, E)."""
    return np.empty((min(x.shape[0], ROWS_AT_A_TIME), table.shape[0]), np.float32)


def to_gradient(
    logits: Float32,
    dlog_likelihood: Float32,
    largest: Float32,
    sums: Float32,
    labels: Integers,
) -> None:
    """Write dlogits in place of the ``logits`` (n, V) of some rows; the others are (n,)."""
    write_probabilities(logits, largest, -dlog_likelihood / sums, logits)
    logits[np.arange(labels.size), labels] += dlog_likelihood
