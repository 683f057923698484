"""Multi-head attention whose products take factors in bfloat16, one head at a time in the cache.

The formulas are those of ``backends.reference.attention``. For one head of width D, with s = 1 /
(1 - p) of dropout and keep its bits:

    S = q kᵀ / sqrt D + mask,   E = exp(S - max),   r = 1 / row sum of E,   P = r E
    context = s r (keep E) v

    g = s r dcontext,   dv = (keep E)ᵀ g,   G = keep (g vᵀ)
    dS = E (G - r row sum of E G)
    dq = dS k / sqrt D,   dk = dSᵀ q / sqrt D

q / sqrt D, k, v, E, g and dS are rounded to bfloat16 where a product takes them; softmax and every
sum are float32. E is rounded before it is summed, so that the rounded P sums to 1 and dS to 0.

Fused: a thread computes one head of one example, ``QUERIES`` of its rows at a time, from their
scores to their context. The sums of q kᵀ start at the mask, and random bits are drawn where they
are used. Only E and r are kept for the backward pass. E is bfloat16; its sign, which an exponential
does not need, is minus where dropout dropped it.

Memory traffic: forward q, k, v are read, E (T x T a head, 2 bytes each) and context are written;
backward q, k, v, E and dcontext are read, dq, dk, dv are written.

Source: one factor a row in place of a normalised P, as in section 3.1 of Dao 2023,
"FlashAttention-2". That paper computes E again in the backward pass; here, this takes longer than
reading it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Float32, spread_rows
from electra_ref.backends.cpu.arguments import expect
from electra_ref.backends.cpu.bfloat16.dropout_runs import draw_run, locate, words_of_run
from electra_ref.backends.cpu.bfloat16.head_products import (
    fetch_row,
    in_tiles,
    multiply_head,
    pack_pairs_of_rows,
    pack_transpose,
    room_for_panels,
    round_rows,
    write_rows,
)
from electra_ref.backends.cpu.bfloat16.packing import Bits, Index, Words, in_panels
from electra_ref.backends.cpu.bfloat16.tile import LANES, round_number, widen_number
from electra_ref.backends.cpu.dropout import Dropout, DropoutBits
from electra_ref.backends.cpu.exponential import exp_of_negative
from electra_ref.backends.cpu.largest import largest_number
from electra_ref.backends.reference.attention import PADDING_SCORE, token_rows
from electra_ref.compilation import jit
from electra_ref.rng import StreamWords

QUERIES = 32  # of one turn forward: their scores stay in the first-level cache
QUERIES_BACKWARD = 64  # of one turn backward: the sums of dk and dv are loaded once a turn
DROPPED = np.uint16(0x8000)  # the sign of a bfloat16
PADDING = np.float32(PADDING_SCORE)
SUM = frozenset({"contract", "reassoc"})


class AttentionCache(NamedTuple):
    """Kept for the backward pass: the argument, and one T x T matrix a head."""

    query_key_value: Float32  # (N, 3C)
    exponentials: Bits  # (B, H, T, T rounded up to 32): E, negative where dropped
    reciprocals: Float32  # (B, H, T): r
    scale: np.float32  # s
    tokens: npt.NDArray[np.int64] | None = None  # (n,)  the rows that there are; None: all


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
    N is B T, or the number of tokens, where padding has no rows: zeros take their place here. The
    cache is None unless ``with_cache``. Raises ValueError if the heads do not divide C, or if other
    shapes or types do not fit.
    """
    batch, length = attention_mask.shape
    tokens = token_rows(query_key_value.shape[0], attention_mask)
    if tokens is not None:
        query_key_value = spread_rows(query_key_value, tokens, batch * length)
    width = query_key_value.shape[1] // 3
    if width % num_attention_heads:
        raise ValueError(f"{num_attention_heads} heads do not divide the width {width}")
    expect((batch * length, 3 * width), query_key_value)
    heads = batch, num_attention_heads, length
    site = locate(Dropout(bits, rate), (*heads, length))
    cache = AttentionCache(
        np.ascontiguousarray(query_key_value),
        np.empty((*heads, in_panels(length)), np.uint16),
        np.empty(heads, np.float32),
        site.scale,
        tokens,
    )
    context = np.empty((query_key_value.shape[0], width), np.float32)
    _attention(*cache[:4], attention_mask, site.stream, site.threshold, context)
    context = context if tokens is None else context[tokens]
    return context, cache if with_cache else None


def attention_backward(dcontext: Float32, cache: AttentionCache) -> Float32:
    """Return dquery_key_value (N, 3C) for ``dcontext`` (N, C).

    Raises ValueError if shapes or types do not fit.
    """
    (rows, width), tokens = cache.query_key_value.shape, cache.tokens
    expect((rows if tokens is None else tokens.size, width // 3), dcontext)
    if tokens is not None:
        dcontext = spread_rows(dcontext, tokens, rows)
    dquery_key_value = np.empty(cache.query_key_value.shape, np.float32)
    _attention_backward(np.ascontiguousarray(dcontext), *cache[:4], dquery_key_value)
    return dquery_key_value if tokens is None else dquery_key_value[tokens]


@jit(parallel=True)
def _attention(
    query_key_value: Float32,
    exponentials: Bits,
    reciprocals: Float32,
    scale: np.float32,
    attention_mask: npt.NDArray[np.bool_],
    stream: StreamWords,
    threshold: int,
    context: Float32,
) -> None:
    batch, heads, _, _ = exponentials.shape
    for task in numba.prange(batch * heads):
        b, h = divmod(np.intp(task), heads)
        padding = _padding_scores(attention_mask[b], exponentials.shape[3])
        _attend(
            query_key_value, b, h, heads, padding, stream, np.uint16(threshold), scale,
            exponentials[b, h], reciprocals[b, h], context,
        )  # fmt: skip


@jit()
def _padding_scores(tokens: npt.NDArray[np.bool_], count: Index) -> Float32:
    """Return what is added to the scores of ``count`` keys: -inf for those beyond the row."""
    scores = np.full(count, np.float32(-np.inf))
    for t in range(tokens.size):
        scores[t] = np.float32(0.0) if tokens[t] else PADDING
    return scores


@jit()
def _attend(
    query_key_value: Float32,
    b: Index,
    h: Index,
    heads: int,
    padding: Float32,
    stream: StreamWords,
    threshold: np.uint16,
    scale: np.float32,
    exponentials: Bits,
    reciprocals: Float32,
    context: Float32,
) -> None:
    """Compute E (T, T), r (T,) and the context of head ``h`` of example ``b``."""
    length, keys_in_panels = exponentials.shape
    model_width = context.shape[1]
    width = model_width // heads
    width_in_panels = in_panels(width)
    row, column = b * length, h * width
    next_row, next_column = (row, column + width) if h + 1 < heads else (row + length, 0)

    ones = np.ones(length, np.float32)
    factors = np.full(length, np.float32(1.0 / math.sqrt(width)))
    queries = np.empty((keys_in_panels, width_in_panels // 2), np.uint32)
    rounded = np.empty((keys_in_panels, width_in_panels), np.uint16)
    keys = room_for_panels(width_in_panels, keys_in_panels)
    values = room_for_panels(keys_in_panels, width_in_panels)
    round_rows(query_key_value, (row, column), factors, width, queries.view(np.uint16))
    round_rows(query_key_value, (row, column + model_width), ones, width, rounded)
    pack_transpose(rounded, keys)
    round_rows(query_key_value, (row, column + 2 * model_width), ones, width, rounded)
    pack_pairs_of_rows(rounded, values)

    turn = in_tiles(min(QUERIES, length))
    zeros = np.zeros(width_in_panels, np.float32)
    scores = np.empty((turn, keys_in_panels), np.float32)
    kept = np.empty((turn, keys_in_panels // 2), np.uint32)
    sums = np.empty((turn, width_in_panels), np.float32)
    numbers_a_turn = turn * length + keys_in_panels  # the last row is drawn in whole panels as well
    words = np.empty(words_of_run(numbers_a_turn), np.uint32)
    bits = words.view(np.uint16)
    for first in range(0, length, QUERIES):
        count = min(QUERIES, length - first)
        multiply_head(queries[first : first + count], False, keys, padding, False, scores)
        if threshold > 0:
            bits = draw_run(stream, b, (h * length + first) * length, numbers_a_turn, words)
        for i in range(count):
            for part in range(3):
                place = next_row + first + i, next_column + part * model_width
                fetch_row(query_key_value, place, width)
            fetch_row(context, (row + first + i, column), width)
            total = _exponentiate(
                scores[i], bits[i * length :], threshold, exponentials[first + i],
                kept[i].view(np.uint16),
            )  # fmt: skip
            reciprocals[first + i] = np.float32(1.0) / total
        multiply_head(kept[:count], False, values, zeros, False, sums)
        factors = reciprocals[first : first + count] * scale
        write_rows(sums, factors, width, context, (row + first, column))


@jit(fastmath=SUM)
def _exponentiate(
    scores: Float32, bits: Bits, threshold: np.uint16, exponentials: Bits, kept: Bits
) -> np.float32:
    """Write a row of E, and what dropout keeps of it, from a row of S; return the sum of E."""
    largest = largest_number(scores)
    total = np.float32(0.0)
    for j in range(scores.size):
        exponential = round_number(exp_of_negative(scores[j] - largest))
        total += widen_number(exponential)
        keep = bits[j] >= threshold
        exponentials[j] = exponential if keep else exponential | DROPPED
        kept[j] = exponential if keep else np.uint16(0)
    return total


@jit(parallel=True)
def _attention_backward(
    dcontext: Float32,
    query_key_value: Float32,
    exponentials: Bits,
    reciprocals: Float32,
    scale: np.float32,
    dquery_key_value: Float32,
) -> None:
    batch, heads, _, _ = exponentials.shape
    for task in numba.prange(batch * heads):
        b, h = divmod(np.intp(task), heads)
        _attend_backward(
            dcontext, query_key_value, b, h, heads, exponentials[b, h], reciprocals[b, h], scale,
            dquery_key_value,
        )  # fmt: skip


@jit()
def _attend_backward(
    dcontext: Float32,
    query_key_value: Float32,
    b: Index,
    h: Index,
    heads: int,
    exponentials: Bits,
    reciprocals: Float32,
    scale: np.float32,
    dquery_key_value: Float32,
) -> None:
    """Compute the columns of ``dquery_key_value`` of head ``h`` of example ``b``."""
    length, keys_in_panels = exponentials.shape
    model_width = dcontext.shape[1]
    width = model_width // heads
    width_in_panels = in_panels(width)
    row, column = b * length, h * width
    next_row, next_column = (row, column + width) if h + 1 < heads else (row + length, 0)

    ones = np.ones(length, np.float32)
    factors = np.full(length, np.float32(1.0 / math.sqrt(width)))
    rounded = np.empty((keys_in_panels, width_in_panels), np.uint16)
    keys = room_for_panels(keys_in_panels, width_in_panels)
    values = room_for_panels(width_in_panels, keys_in_panels)
    round_rows(query_key_value, (row, column + model_width), ones, width, rounded)
    pack_pairs_of_rows(rounded, keys)
    round_rows(query_key_value, (row, column + 2 * model_width), ones, width, rounded)
    pack_transpose(rounded, values)

    turn = in_tiles(min(QUERIES_BACKWARD, length + 1))
    zeros = np.zeros(max(keys_in_panels, width_in_panels), np.float32)
    queries = np.empty((turn, width_in_panels), np.uint16)
    gradients = np.empty((turn, width_in_panels // 2), np.uint32)
    dweights = np.empty((turn, keys_in_panels), np.float32)
    dscores = np.empty((turn, keys_in_panels // 2), np.uint32)
    # Rows are some words longer, so that they do not begin in the same few sets of the cache.
    dscore_pairs = np.empty((turn // 2, keys_in_panels + LANES), np.uint32)
    kept_pairs = np.empty((turn // 2, keys_in_panels + LANES), np.uint32)
    dquery = np.empty((turn, width_in_panels), np.float32)
    dkey = np.empty((in_tiles(keys_in_panels), width_in_panels), np.float32)
    dvalue = np.empty((in_tiles(keys_in_panels), width_in_panels), np.float32)
    nothing = np.zeros(keys_in_panels, np.uint16)
    for first in range(0, length, QUERIES_BACKWARD):
        count = min(QUERIES_BACKWARD, length - first)
        corner = row + first, column
        round_rows(query_key_value, corner, factors[:count], width, queries)
        scales = reciprocals[first : first + count] * scale
        round_rows(dcontext, corner, scales, width, gradients.view(np.uint16))
        multiply_head(gradients[:count], False, values, zeros, False, dweights)
        for i in range(0, count, 2):
            t, u = first + i, first + i + 1
            for part in range(3):
                shift = part * model_width
                for n in (t, u):
                    fetch_row(query_key_value, (next_row + n, next_column + shift), width)
                    fetch_row(dquery_key_value, (row + n, column + shift), width)
            for n in (t, u):
                fetch_row(dcontext, (next_row + n, next_column), width)
            _differentiate(
                dweights[i : i + 2],
                exponentials[t],
                exponentials[u] if u < length else nothing,
                reciprocals[t],
                reciprocals[u] if u < length else np.float32(0.0),
                dscores[i : i + 2].view(np.uint16),
                dscore_pairs[i // 2],
                kept_pairs[i // 2],
            )
        multiply_head(dscores[:count], False, keys, zeros, False, dquery)
        write_rows(dquery, factors[:count], width, dquery_key_value, corner)
        packed = room_for_panels(count, width_in_panels)
        pack_pairs_of_rows(queries, packed)
        multiply_head(dscore_pairs, True, packed, zeros, first > 0, dkey)
        pack_pairs_of_rows(gradients.view(np.uint16), packed)
        multiply_head(kept_pairs, True, packed, zeros, first > 0, dvalue)
    write_rows(dkey, ones, width, dquery_key_value, (row, column + model_width))
    write_rows(dvalue, ones, width, dquery_key_value, (row, column + 2 * model_width))


@jit(fastmath=SUM)
def _differentiate(
    dweights: Float32,
    upper: Bits,
    lower: Bits,
    upper_reciprocal: np.float32,
    lower_reciprocal: np.float32,
    dscores: Bits,
    dscore_pairs: Words,
    kept_pairs: Words,
) -> None:
    """Write dS of two rows from g vᵀ (2, T), by rows and in pairs, and what was kept of E in pairs.

    ``upper`` and ``lower`` (T,) are the rows of E.
    """
    zero = np.float32(0.0)
    upper_total, lower_total = zero, zero
    for j in range(upper.size):
        upper_total += widen_number(upper[j]) * (dweights[0, j] if upper[j] < DROPPED else zero)
        lower_total += widen_number(lower[j]) * (dweights[1, j] if lower[j] < DROPPED else zero)
    upper_mean, lower_mean = upper_total * upper_reciprocal, lower_total * lower_reciprocal
    for j in range(upper.size):
        upper_kept = upper[j] < DROPPED
        lower_kept = lower[j] < DROPPED
        upper_dp = (dweights[0, j] if upper_kept else zero) - upper_mean
        lower_dp = (dweights[1, j] if lower_kept else zero) - lower_mean
        upper_ds = round_number(abs(widen_number(upper[j])) * upper_dp)
        lower_ds = round_number(abs(widen_number(lower[j])) * lower_dp)
        dscores[0, j] = upper_ds
        dscores[1, j] = lower_ds
        dscore_pairs[j] = np.uint32(upper_ds) | np.uint32(lower_ds) << 16
        upper_weight = upper[j] if upper_kept else np.uint16(0)
        lower_weight = lower[j] if lower_kept else np.uint16(0)
        kept_pairs[j] = np.uint32(upper_weight) | np.uint32(lower_weight) << 16
