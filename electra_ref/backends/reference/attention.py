"""Multi-head scaled dot-product attention with a padding mask, and its gradient.

For one head of width D, with q, k, v (T, D):

    S = q kᵀ / sqrt D + mask,   P = softmax(S) by rows,   A = dropout(P),   context = A v

    dv = Aᵀ dcontext,   dA = dcontext vᵀ,   dP = dropout'(dA)
    dS = P * (dP - row sum of P * dP)            (softmax)
    dq = dS k / sqrt D,   dk = dSᵀ q / sqrt D

The mask adds -10000 to the score of every padded key, as google-research/electra
model/modeling.py (``attention_layer``) does; exp of it is exactly 0 in every float type, so what
padding holds changes nothing, bit for bit. Padded queries are computed and never used. Where
padding has no rows, zeros take their place here.
Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1 and section 3.2.2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from electra_ref.arrays import Array, get_xp, spread_rows
from electra_ref.backends.reference.dropout import DropoutCache, dropout, dropout_backward

PADDING_SCORE = -10000.0


class AttentionCache(NamedTuple):
    """Kept for the backward pass: q, k, v and two T x T matrices a head."""

    query: Array  # (B, H, T, D)
    key: Array  # (B, H, T, D)
    value: Array  # (B, H, T, D)
    probabilities: Array  # (B, H, T, T)  P
    dropped: Array  # (B, H, T, T)  A = dropout(P); P itself in evaluation
    dropout: DropoutCache
    tokens: Array | None  # (n,)  the numbers of the rows that there are; None: all


def attention(
    query_key_value: Array,
    attention_mask: Array,
    num_attention_heads: int,
    bits: Array | None,
    rate: float,
    with_cache: bool = True,
) -> tuple[Array, AttentionCache | None]:
    """Return the context (N, C) of every token: a mean over the values of its sequence.

    ``query_key_value`` (N, 3C) holds q, k and v side by side, each with its heads side by side;
    ``attention_mask`` (B, T) is True for tokens; ``bits`` (B, H T T) and ``rate`` are dropout's.
    N is B T, or the number of tokens, where padding has no rows. The cache is None unless
    ``with_cache``. Raises ValueError if the heads do not divide C, or for another number of rows.
    """
    batch, length = attention_mask.shape
    tokens = token_rows(query_key_value.shape[0], attention_mask)
    if tokens is not None:
        query_key_value = spread_rows(query_key_value, tokens, batch * length)
    width = query_key_value.shape[1] // 3
    if width % num_attention_heads:
        raise ValueError(f"{num_attention_heads} heads do not divide the width {width}")
    heads = query_key_value.reshape(batch, length, 3, num_attention_heads, -1)
    query, key, value = heads.transpose(2, 0, 3, 1, 4)  # (B, H, T, D) each
    scores = query @ key.swapaxes(-1, -2)
    scores *= 1.0 / math.sqrt(width // num_attention_heads)
    scores += ((~attention_mask) * PADDING_SCORE).astype(scores.dtype)[:, None, None, :]
    probabilities = _softmax(scores)
    dropped, dropout_cache = dropout(probabilities, bits, rate)
    context = _merge_heads(dropped @ value)
    context = context if tokens is None else context[tokens]
    cache = AttentionCache(query, key, value, probabilities, dropped, dropout_cache, tokens)
    return context, cache if with_cache else None


def attention_backward(dcontext: Array, cache: AttentionCache) -> Array:
    """Return dquery_key_value (N, 3C) for ``dcontext`` (N, C)."""
    query, key, value, probabilities, dropped, dropout_cache, tokens = cache
    batch, heads, length, head_width = query.shape
    if tokens is not None:
        dcontext = spread_rows(dcontext, tokens, batch * length)
    dcontext = dcontext.reshape(batch, length, heads, head_width).swapaxes(1, 2)
    dvalue = dropped.swapaxes(-1, -2) @ dcontext
    dprobabilities = dropout_backward(dcontext @ value.swapaxes(-1, -2), dropout_cache)
    dscores = dprobabilities * probabilities
    dscores -= probabilities * dscores.sum(axis=-1, keepdims=True)
    dscores *= 1.0 / math.sqrt(head_width)
    dquery = dscores @ key
    dkey = dscores.swapaxes(-1, -2) @ query
    merged = [_merge_heads(gradient) for gradient in (dquery, dkey, dvalue)]
    dquery_key_value: Array = get_xp(dcontext).concatenate(merged, axis=1)
    return dquery_key_value if tokens is None else dquery_key_value[tokens]


def token_rows(count: int, attention_mask: Array) -> Array | None:
    """Return the numbers (n,) of the rows that there are of all B T; None where all are there.

    Raises ValueError unless ``count`` is B T or the number of tokens in ``attention_mask`` (B, T).
    """
    if count == attention_mask.size:
        return None
    tokens: Array = get_xp(attention_mask).flatnonzero(attention_mask)
    if tokens.size != count:
        raise ValueError(
            f"{count} rows are neither the {attention_mask.size} of the batch nor those of its "
            f"{tokens.size} tokens"
        )
    return tokens


def _softmax(scores: Array) -> Array:
    """Turn ``scores`` (..., T) into probabilities, in place."""
    scores -= scores.real.max(axis=-1, keepdims=True)  # .real: the complex step perturbs a path
    probabilities: Array = get_xp(scores).exp(scores, out=scores)
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    return probabilities


def _merge_heads(context: Array) -> Array:
    """Lay the heads of (B, H, T, D) side by side: (N, C)."""
    batch, heads, length, head_width = context.shape
    return context.swapaxes(1, 2).reshape(batch * length, heads * head_width)
