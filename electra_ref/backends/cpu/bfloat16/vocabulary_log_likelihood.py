"""Log-likelihood of one word a row, with factors in bfloat16.

    logits = x tableᵀ + bias,   dx = dlogits table,   dtable = dlogitsᵀ x

The products take factors rounded to bfloat16; all else is as in ``cpu.vocabulary_log_likelihood``.
The table is rounded and packed once for all parts, dlogits once for two products and dbias.

Peak memory beyond arguments and results: ROWS_AT_A_TIME x V numbers, V x E of bfloat16 forward;
backward half as many numbers again and 2 V x E of bfloat16, for any N. Memory traffic: for each
part the packed table is read and the logits are written and read twice; backward the packed table
is read twice, the sum for dtable is read and written, the logits are written and read, and dlogits,
in their place, is written, read, and once written and read in bfloat16.
"""

from __future__ import annotations

import numpy as np

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.bfloat16.matrix_product import multiply, multiply_and_pack
from electra_ref.backends.cpu.bfloat16.packing import pack
from electra_ref.backends.cpu.softmax_cross_entropy import reduce_rows
from electra_ref.backends.cpu.vocabulary_log_likelihood import (
    Integers,
    VocabularyLogLikelihoodCache,
    check_arguments,
    expect_gradients,
    room_for_logits,
    to_gradient,
)
from electra_ref.backends.reference.vocabulary_log_likelihood import ROWS_AT_A_TIME, parts_of
from electra_ref.gradient import GradientSum


def vocabulary_log_likelihood(
    x: Float32, table: Float32, bias: Float32, labels: Integers
) -> tuple[Float32, VocabularyLogLikelihoodCache]:
    """Return log softmax(``x`` tableᵀ + ``bias``)[label] of each row: (N,).

    ``x`` is (N, E), ``table`` (V, E), ``bias`` (V,), ``labels`` (N,). Raises ValueError if shapes
    or types do not fit, and IndexError if a label is not in [0, V).
    """
    check_arguments(x, table, bias, labels)
    largest, sums, label_logits = np.empty((3, x.shape[0]), np.float32)
    room, columns = room_for_logits(x, table), pack(table.T)
    for rows in parts_of(x.shape[0], ROWS_AT_A_TIME):
        logits = room[: rows.stop - rows.start]
        multiply(x[rows], columns, logits, start=bias)
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
    columns, words, column_sums = pack(table.T), pack(table), np.empty_like(bias)
    for rows in parts_of(x.shape[0], ROWS_AT_A_TIME):
        dlogits = room[: rows.stop - rows.start]
        multiply(x[rows], columns, dlogits, start=bias)
        to_gradient(dlogits, dlog_likelihood[rows], largest[rows], sums[rows], labels[rows])
        packed = multiply_and_pack(dlogits, words, dx[rows], column_sums=column_sums)
        start = None if dtable.is_empty else dtable.array
        multiply(packed, x[rows], dtable.array, start=start)
        dbias.add(column_sums)
        dtable, dbias = dtable._replace(is_empty=False), dbias._replace(is_empty=False)
    return dx
