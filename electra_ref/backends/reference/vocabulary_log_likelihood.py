"""Log-likelihood of one word a row under a softmax over the vocabulary, and its gradient.

    logits = x tableᵀ + bias
    log_likelihood[n] = logits[n, label_n] - log sum over v of exp(logits[n, v])

    dlogits[n, v] = dlog_likelihood[n] ([v = label_n] - softmax(logits[n])_v)
    dx = dlogits table,   dtable = dlogitsᵀ x,   dbias = sum of dlogits over the rows

``linear`` and a loss would hold the logits of all N rows. Here they exist for ``ROWS_AT_A_TIME``
rows at a time. They are not kept: the backward pass computes them again.

Peak memory beyond arguments and results: ROWS_AT_A_TIME x V numbers, and backward V x E more, for
any N. Source: chain rule; computing activations again is section 3 of Chen et al. 2016,
arXiv:1604.06174, "Training Deep Nets with Sublinear Memory Cost".
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.arrays import Array, get_xp
from electra_ref.gradient import GradientSum

# At V = 30,522 and E = 128 the logits of 256 rows take 30 MiB in float32. Each part reads the table
# again: with 32 rows at a time ``cpu`` takes 1.7 times as long, with 128 1.1 times, with 512 0.97
# times (2,048 rows, forward and backward, one thread of an Intel Xeon at 2.8 GHz).
ROWS_AT_A_TIME = 256


class VocabularyLogLikelihoodCache(NamedTuple):
    """Kept for the backward pass: references, nothing is copied."""

    x: Array  # (N, E)
    table: Array  # (V, E)  the parameter itself
    bias: Array  # (V,)
    labels: Array  # (N,)


def vocabulary_log_likelihood(
    x: Array, table: Array, bias: Array, labels: Array
) -> tuple[Array, VocabularyLogLikelihoodCache]:
    """Return log softmax(``x`` tableᵀ + ``bias``)[label] of each row: (N,).

    ``x`` is (N, E), ``table`` (V, E), ``bias`` (V,), ``labels`` (N,) in [0, V). Raises ValueError
    if the shapes do not fit.
    """
    check_shapes(x, table, bias, labels)
    xp, parts = get_xp(x), []
    for rows in parts_of(x.shape[0], ROWS_AT_A_TIME):
        shifted = _shifted_logits(x[rows], table, bias)
        label_logits = shifted[xp.arange(shifted.shape[0]), labels[rows]]
        sums = xp.exp(shifted, out=shifted).sum(axis=-1)
        parts.append(label_logits - xp.log(sums))
    cache = VocabularyLogLikelihoodCache(x, table, bias, labels)
    return xp.concatenate(parts), cache


def vocabulary_log_likelihood_backward(
    dlog_likelihood: Array,
    cache: VocabularyLogLikelihoodCache,
    dtable: GradientSum,
    dbias: GradientSum,
) -> Array:
    """Return dx (N, E) for ``dlog_likelihood`` (N,).

    Adds to ``dtable`` (V, E) and ``dbias`` (V,).
    """
    x, table, bias, labels = cache
    xp, parts = get_xp(x), []
    for rows in parts_of(x.shape[0], ROWS_AT_A_TIME):
        factors = dlog_likelihood[rows]
        dlogits = _shifted_logits(x[rows], table, bias)
        xp.exp(dlogits, out=dlogits)
        dlogits *= (-factors / dlogits.sum(axis=-1))[:, None]
        dlogits[xp.arange(dlogits.shape[0]), labels[rows]] += factors
        parts.append(dlogits @ table)
        dtable.add(dlogits.T @ x[rows])
        dbias.add(dlogits.sum(axis=0))
        dtable, dbias = dtable._replace(is_empty=False), dbias._replace(is_empty=False)
    dx: Array = xp.concatenate(parts)
    return dx


def _shifted_logits(x: Array, table: Array, bias: Array) -> Array:
    """Return the logits (n, V) of some rows ``x`` (n, E), less the largest of each row."""
    logits: Array = x @ table.T
    logits += bias
    logits -= logits.real.max(axis=-1, keepdims=True)  # .real: for the complex step
    return logits


def parts_of(count: int, size: int) -> list[slice]:
    """Cut ``count`` rows into parts of ``size``, the last one shorter; no rows are one part."""
    return [slice(first, min(first + size, count)) for first in range(0, max(count, 1), size)]


def check_shapes(x: Array, table: Array, bias: Array, labels: Array) -> None:
    """Raise ValueError for arguments of ``vocabulary_log_likelihood`` that do not fit."""
    if (x.shape[1:], bias.shape, labels.shape) != (table.shape[1:], table.shape[:1], x.shape[:1]):
        raise ValueError(
            f"x {x.shape}, table {table.shape}, bias {bias.shape} and labels {labels.shape} "
            "do not fit"
        )
