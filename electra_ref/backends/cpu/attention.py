"""Multi-head attention, one head at a time in the second-level cache: see the reference.

The formulas are those of ``backends.reference.attention``; for one head of width D:

    S = q kᵀ / sqrt D + mask,   P = softmax(S) by rows,   A = dropout(P),   context = A v
    dv = Aᵀ dcontext,   dP = dropout'(dcontext vᵀ),   dS = P * (dP - row sum of P * dP) / sqrt D
    dq = dS k,   dk = dSᵀ q

Fused: a thread computes one head of one example, some queries at a time, from their scores to their
context. Only P is kept for the backward pass, and nothing where none follows. The sign of P, which
a probability does not need, is minus where dropout dropped it. Rows of scores end with a whole
panel; what is beyond the last key gets the probability 0. So no tile reaches beyond an edge, and
loops over a row fill vector registers.

Memory traffic: forward q, k, v and the bits are read, P (T x T a head) and context are written;
backward q, k, v, P and dcontext are read, dq, dk, dv are written. Two T x T matrices a thread stay
in its cache.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.arguments import expect
from electra_ref.backends.cpu.dropout import Bits16, Dropout, DropoutBits, draw
from electra_ref.backends.cpu.exponential import exp_of_negative
from electra_ref.backends.cpu.largest import largest_number
from electra_ref.backends.cpu.matrix_product import (
    empty_panels,
    multiply_columns,
    multiply_rows,
)
from electra_ref.backends.cpu.panels import copy_columns, transpose_panel
from electra_ref.backends.cpu.register_tile import COLUMNS, ROWS
from electra_ref.backends.reference.attention import PADDING_SCORE, token_rows
from electra_ref.compilation import jit

QUERIES = 8 * ROWS  # of one turn: their scores stay in the cache
PADDING = np.float32(PADDING_SCORE)
SUM = frozenset({"contract", "reassoc"})


Borders = npt.NDArray[np.int64]  # (B, 2)  the first and behind the last row of each example


class AttentionCache(NamedTuple):
    """Kept for the backward pass: the argument, and one T x T matrix a head."""

    query_key_value: Float32  # (N, 3C)
    probabilities: Float32  # (B, H, T, T)  negative where dropped
    scale: np.float32  # of what was not dropped: 1 / (1 - p)
    borders: Borders  # (B, 2)


def attention(
    query_key_value: Float32,
    attention_mask: npt.NDArray[np.bool_],
    num_attention_heads: int,
    bits: DropoutBits | None,
    rate: float,
    with_cache: bool = True,
) -> tuple[Float32, AttentionCache | None]:
    """Let every token of a row of the batch gather from all tokens of its row: (N, C).

    ``query_key_value`` (N, 3C) holds q, k and v side by side, each with its heads side by side;
    ``attention_mask`` (B, T) is True for tokens; ``bits`` (B, H T T) and ``rate`` are dropout's.
    N is B T, or the number of tokens, where padding has no rows. The cache is None unless
    ``with_cache``. Raises ValueError if the heads do not divide C, or if other shapes or types do
    not fit.
    """
    batch, length = attention_mask.shape
    width = query_key_value.shape[1] // 3
    if width % num_attention_heads:
        raise ValueError(f"{num_attention_heads} heads do not divide the width {width}")
    rows = query_key_value.shape[0]
    expect((rows, 3 * width), query_key_value)
    is_there = np.ones_like(attention_mask)
    if token_rows(rows, attention_mask) is not None:
        is_there = attention_mask
    ends = np.cumsum(is_there.sum(axis=1), dtype=np.int64)
    borders = np.stack([ends - is_there.sum(axis=1), ends], axis=1)
    keeps = with_cache or bits is not None
    shape = (batch, num_attention_heads, length, length) if keeps else (1, 1, 0, 0)
    probabilities = np.empty(shape, np.float32)
    context = np.empty((rows, width), np.float32)
    drop = draw(Dropout(bits, rate), shape)
    if bits is not None:
        _move_bits(drop.bits, is_there)
    padding = _padding_scores(attention_mask, is_there)
    _attention(
        query_key_value, borders, padding, *drop, num_attention_heads, keeps, probabilities, context
    )  # fmt: skip
    cache = AttentionCache(query_key_value, probabilities, drop.scale, borders)
    return context, cache if with_cache else None


def attention_backward(dcontext: Float32, cache: AttentionCache) -> Float32:
    """Return dquery_key_value (N, 3C) for ``dcontext`` (N, C).

    Raises ValueError if shapes or types do not fit.
    """
    rows, width = cache.query_key_value.shape
    expect((rows, width // 3), dcontext)
    dquery_key_value = np.empty(cache.query_key_value.shape, np.float32)
    _attention_backward(np.ascontiguousarray(dcontext), *cache, dquery_key_value)
    return dquery_key_value


def _padding_scores(
    attention_mask: npt.NDArray[np.bool_], is_there: npt.NDArray[np.bool_]
) -> Float32:
    """Return what is added to the scores of all keys (B, whole panels): -inf beyond the row.

    ``is_there`` (B, T) is True where there is a row; these come first.
    """
    batch, length = attention_mask.shape
    scores = np.full((batch, -(-length // COLUMNS) * COLUMNS), np.float32(-np.inf))
    for b in range(batch):
        is_token = attention_mask[b, is_there[b]]
        scores[b, : is_token.size] = np.where(is_token, np.float32(0.0), PADDING)
    return scores


def _move_bits(bits: Bits16, is_there: npt.NDArray[np.bool_]) -> None:
    """Move the bits (B, H, T, T) of the rows that there are to the front, in place."""
    has_gap = (is_there[:, 1:] & ~is_there[:, :-1]).any(axis=1)
    for b in np.flatnonzero(has_gap):
        places = np.flatnonzero(is_there[b])
        bits[b, :, : places.size, : places.size] = bits[b][:, places[:, None], places]


@jit(parallel=True)
def _attention(
    query_key_value: Float32,
    borders: Borders,
    padding: Float32,
    bits: Bits16,
    threshold: int,
    scale: np.float32,
    heads: int,
    keeps: bool,
    probabilities: Float32,
    context: Float32,
) -> None:
    """Compute ``context`` (N, C) and, if it ``keeps`` them, the probabilities."""
    for task in numba.prange(borders.shape[0] * heads):
        b, h = task // heads, task % heads
        rows = slice(borders[b, 0], borders[b, 1])
        q, k, v = _split_head(query_key_value[rows], h, heads)
        out = _head(context[rows], h, heads)
        kept = probabilities[b, h] if keeps else probabilities[0, 0]
        drawn = bits[b, h] if keeps else bits[0, 0]
        _attend(q, k, v, padding[b], drawn, threshold, scale, keeps, kept, out)


@jit()
def _head(x: Float32, h: int, heads: int) -> Float32:
    """Return the columns of head ``h`` of ``x`` (T, C): (T, D)."""
    head_width = x.shape[1] // heads
    return x[:, h * head_width : (h + 1) * head_width]


@jit()
def _split_head(query_key_value: Float32, h: int, heads: int) -> tuple[Float32, Float32, Float32]:
    """Return q, k and v of head ``h``, (T, D) each, of ``query_key_value`` (T, 3C)."""
    return (
        _head(query_key_value, h, 3 * heads),
        _head(query_key_value, heads + h, 3 * heads),
        _head(query_key_value, 2 * heads + h, 3 * heads),
    )


@jit()
def _attend(
    query: Float32,
    key: Float32,
    value: Float32,
    padding: Float32,
    bits: Bits16,
    threshold: int,
    scale: np.float32,
    keeps: bool,
    probabilities: Float32,
    context: Float32,
) -> None:
    """Compute ``context`` (T, D) of one head and, if it ``keeps`` them, the probabilities."""
    length, head_width = query.shape
    factor = np.float32(1.0 / math.sqrt(head_width))
    keys, values = _pack_transpose(key), _pack(value)
    width = keys.shape[0] * COLUMNS
    scores = np.empty((min(QUERIES, length), width), np.float32)
    zeros = _zeros(max(width, head_width))
    for first in range(0, length, QUERIES):
        count = min(QUERIES, length - first)
        rows = slice(first, first + count)
        multiply_rows(query[rows], keys, zeros[:count], scores[:count])
        for i in range(count):
            _softmax_row(scores[i], factor, padding[:width])
            if keeps:
                kept = probabilities[first + i, :length]
                _drop_row(scores[i], bits[first + i], threshold, scale, kept)
        multiply_rows(scores[:count, :length], values, zeros[:count], context[rows])


@jit(fastmath=SUM)
def _softmax_row(scores: Float32, factor: np.float32, padding: Float32) -> None:
    """Turn ``scores`` (T,) into probabilities, in place."""
    for i in range(scores.size):
        scores[i] = scores[i] * factor + padding[i]
    largest = largest_number(scores)
    total = np.float32(0.0)
    for i in range(scores.size):
        scores[i] = exp_of_negative(scores[i] - largest)
        total += scores[i]
    for i in range(scores.size):
        scores[i] /= total


@jit()
def _drop_row(
    scores: Float32, bits: Bits16, threshold: int, scale: np.float32, probabilities: Float32
) -> None:
    """Write ``scores`` (T,) to ``probabilities``, marked where dropped, and drop from them."""
    for i in range(probabilities.size):
        p = scores[i]
        keep = bits[i] >= threshold
        scores[i] = p * scale if keep else np.float32(0.0)
        probabilities[i] = p if keep else -p


@jit(parallel=True)
def _attention_backward(
    dcontext: Float32,
    query_key_value: Float32,
    probabilities: Float32,
    scale: np.float32,
    borders: Borders,
    dquery_key_value: Float32,
) -> None:
    batch, heads, _, _ = probabilities.shape
    for task in numba.prange(batch * heads):
        b, h = task // heads, task % heads
        rows = slice(borders[b, 0], borders[b, 1])
        q, k, v = _split_head(query_key_value[rows], h, heads)
        dq, dk, dv = _split_head(dquery_key_value[rows], h, heads)
        dout = _head(dcontext[rows], h, heads)
        _attend_backward(dout, q, k, v, probabilities[b, h], scale, dq, dk, dv)


@jit()
def _attend_backward(
    dcontext: Float32,
    query: Float32,
    key: Float32,
    value: Float32,
    probabilities: Float32,
    scale: np.float32,
    dquery: Float32,
    dkey: Float32,
    dvalue: Float32,
) -> None:
    """Compute ``dquery``, ``dkey`` and ``dvalue`` (T, D) of one head."""
    length, head_width = query.shape
    factor = np.float32(1.0 / math.sqrt(head_width))
    keys, values = _pack(key), _pack_transpose(value)
    zeros = _zeros(max(values.shape[0] * COLUMNS, head_width))
    dropped = np.empty((length, length), np.float32)
    dscores = np.empty((length, values.shape[0] * COLUMNS), np.float32)
    for first in range(0, length, QUERIES):
        rows = slice(first, min(first + QUERIES, length))
        multiply_rows(dcontext[rows], values, zeros[: rows.stop - first], dscores[rows])
        for t in range(first, rows.stop):
            _softmax_row_backward(probabilities[t, :length], scale, factor, dscores[t], dropped[t])
        multiply_rows(dscores[rows, :length], keys, zeros[: rows.stop - first], dquery[rows])
    queries, dcontexts = _pack(query), _pack(dcontext)
    for first in range(0, length, QUERIES):
        rows = slice(first, min(first + QUERIES, length))
        multiply_columns(dropped[:, rows], dcontexts, zeros[: rows.stop - first], dvalue[rows])
        multiply_columns(dscores[:, rows], queries, zeros[: rows.stop - first], dkey[rows])


@jit(fastmath=SUM)
def _softmax_row_backward(
    probabilities: Float32, scale: np.float32, factor: np.float32, ds: Float32, dropped: Float32
) -> None:
    """Turn dA into dS in the first T of ``ds``, and write A to ``dropped`` (T,)."""
    total = np.float32(0.0)
    for i in range(dropped.size):
        kept = scale if probabilities[i] >= 0.0 else np.float32(0.0)
        p = abs(probabilities[i])
        dropped[i] = p * kept
        ds[i] = p * (ds[i] * kept)
        total += ds[i]
    for i in range(dropped.size):
        ds[i] = (ds[i] - abs(probabilities[i]) * total) * factor


@jit()
def _pack(matrix: Float32) -> Float32:
    """Return ``matrix`` (K, N) in panels."""
    panels = empty_panels(matrix.shape[0], matrix.shape[1])
    for j in range(panels.shape[0]):
        copy_columns(matrix[:, j * COLUMNS : (j + 1) * COLUMNS], panels[j])
    return panels


@jit()
def _pack_transpose(matrix: Float32) -> Float32:
    """Return the transpose of ``matrix`` (N, K) in panels."""
    panels = empty_panels(matrix.shape[1], matrix.shape[0])
    for j in range(panels.shape[0]):
        transpose_panel(matrix[j * COLUMNS : (j + 1) * COLUMNS], panels[j])
    return panels


@jit()
def _zeros(width: int) -> Float32:
    """Return (QUERIES, width) zeros: where sums start."""
    return np.zeros((QUERIES, width), np.float32)
