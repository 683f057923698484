"""What the kernels of bfloat16 compute, in NumPy: obviously right, and slow.

The same formulas and the same roundings to bfloat16 at the same places; products and their sums are
float64. ``test_bfloat16_product`` and ``test_bfloat16_attention`` hold the kernels against them.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Array, Float32
from electra_ref.backends.cpu.arguments import expect_matrix, starting_sums
from electra_ref.backends.cpu.bfloat16.attention import AttentionCache
from electra_ref.backends.cpu.bfloat16.packing import Bits, Panels, Words, empty_panels, in_panels
from electra_ref.backends.cpu.bfloat16.tile import PANEL_COLUMNS
from electra_ref.backends.cpu.dropout import Dropout, DropoutBits, draw
from electra_ref.backends.reference.attention import PADDING_SCORE

SMALLEST_NORMAL = 2.0**-126
SIGN = np.uint16(0x8000)


def round_to_bfloat16(x: Float32) -> Bits:
    """Return the bits of the bfloat16 nearest to each number of ``x``, any shape.

    Raises ValueError for other types than float32.
    """
    if x.dtype != np.float32:
        raise ValueError(f"expected float32, got {x.dtype}")
    bits = np.ascontiguousarray(x).view(np.uint32).reshape(x.shape)
    upper = bits >> 16
    # In 64 bits: the carry out of a NaN's mantissa and sign would be lost, with a warning.
    nearest = (bits.astype(np.uint64) + 0x7FFF + (upper & 1)) >> 16
    denormal = np.abs(x) < SMALLEST_NORMAL
    rounded = np.select([np.isnan(x), denormal], [upper | 0x40, upper & 0x8000], nearest)
    return rounded.astype(np.uint16)


def widen(bits: Bits) -> Float32:
    """Return the float32 equal to the bfloat16 ``bits``, any shape."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(x: Array) -> npt.NDArray[np.float64]:
    """Return ``x``, any shape, rounded to float32 and then to bfloat16."""
    return widen(round_to_bfloat16(x.astype(np.float32))).astype(np.float64)


def pack(matrix: Float32) -> Panels:
    """Return ``matrix`` (K, M) packed."""
    panels = empty_panels(*matrix.shape)
    panels.words[...] = _words(matrix, panels.words.shape)
    return panels


def _words(matrix: Float32, shape: tuple[int, ...]) -> Words:
    count, pairs, _ = shape
    padded = np.zeros((2 * pairs, count * PANEL_COLUMNS), np.uint32)
    padded[: matrix.shape[0], : matrix.shape[1]] = round_to_bfloat16(matrix)
    side_by_side = padded.reshape(pairs, 2, count, PANEL_COLUMNS)
    words = side_by_side[:, 0] | side_by_side[:, 1] << np.uint32(16)
    return words.swapaxes(0, 1)


def unpack(panels: Panels) -> Float32:
    """Return the rounded matrix (K, M) that ``panels`` hold."""
    count, pairs, _ = panels.words.shape
    halves = np.stack([panels.words & 0xFFFF, panels.words >> 16], axis=2).astype(np.uint16)
    matrix = halves.transpose(1, 2, 0, 3).reshape(2 * pairs, count * PANEL_COLUMNS)
    return widen(matrix[: panels.shape[0], : panels.shape[1]])


def multiply(
    a: Float32 | Panels, b: Float32 | Panels, out: Float32, *, start: Float32 | None = None
) -> None:
    """Do what ``matrix_product.multiply`` does."""
    expect_matrix(out)
    (first_sums, _) = starting_sums(start, out.shape)
    left = unpack(a).T if isinstance(a, Panels) else rounded(a)
    right = unpack(b) if isinstance(b, Panels) else rounded(b)
    out[...] = left.astype(np.float64) @ right + first_sums


def multiply_and_pack(
    a: Float32,
    b: Float32 | Panels,
    out: Float32,
    *,
    start: Float32 | None = None,
    column_sums: Float32 | None = None,
) -> Panels:
    """Do what ``matrix_product.multiply_and_pack`` does."""
    multiply(a, b, out, start=start)
    if column_sums is not None:
        column_sums[...] = a.sum(axis=0, dtype=np.float64)
    return pack(a)


def attention(
    query_key_value: Float32,
    attention_mask: npt.NDArray[np.bool_],
    num_attention_heads: int,
    bits: DropoutBits | None,
    rate: float,
) -> tuple[Float32, AttentionCache]:
    """Do what ``bfloat16.attention`` does."""
    batch, length = attention_mask.shape
    query, key, value = split_heads(query_key_value, batch, 3, num_attention_heads)
    padding = np.where(attention_mask, 0.0, PADDING_SCORE)[:, None, None, :]
    scores = rounded(query * factor_of(query)) @ rounded(key).swapaxes(-1, -2) + padding
    scores -= scores.max(axis=-1, keepdims=True)
    weights = round_to_bfloat16(np.exp(scores).astype(np.float32))
    drop = draw(Dropout(bits, rate), weights.shape)
    keep = drop.bits >= drop.threshold
    exponentials = np.zeros((*weights.shape[:-1], in_panels(length)), np.uint16)
    exponentials[..., :length] = np.where(keep, weights, weights | SIGN)
    reciprocals = (1.0 / widen(weights).sum(axis=-1)).astype(np.float32)
    sums = np.where(keep, widen(weights), np.float32(0.0)) @ rounded(value)
    sums *= (reciprocals * drop.scale)[..., None]
    cache = AttentionCache(query_key_value, exponentials, reciprocals, drop.scale)
    return merge_heads(sums).astype(np.float32), cache


def attention_backward(dcontext: Float32, cache: AttentionCache) -> Float32:
    """Do what ``bfloat16.attention_backward`` does."""
    query_key_value, exponentials, reciprocals, scale, _ = cache
    batch, heads, length, _ = exponentials.shape
    query, key, value = split_heads(query_key_value, batch, 3, heads)
    (gradient,) = split_heads(dcontext, batch, 1, heads)
    bits = exponentials[..., :length]
    weights, keep = widen(bits & ~SIGN), bits < SIGN
    kept = np.where(keep, weights, np.float32(0.0))
    reciprocal = reciprocals[..., None]
    gradient = gradient * (reciprocal * scale)
    dweights = np.where(keep, rounded(gradient) @ rounded(value).swapaxes(-1, -2), 0.0)
    dscores = weights * (dweights - reciprocal * (weights * dweights).sum(axis=-1, keepdims=True))
    factor = factor_of(query)
    gradients = (
        rounded(dscores) @ rounded(key) * factor,
        rounded(dscores).swapaxes(-1, -2) @ rounded(query * factor),
        kept.swapaxes(-1, -2) @ rounded(gradient),
    )
    return np.concatenate([merge_heads(part) for part in gradients], axis=1).astype(np.float32)


def factor_of(query: Float32) -> np.float32:
    """Return 1 / sqrt D of heads (..., D)."""
    return np.float32(1.0 / math.sqrt(query.shape[-1]))


def split_heads(x: Float32, batch: int, parts: int, heads: int) -> Float32:
    """Return ``parts`` of (B, H, T, D) that lie side by side in ``x`` (N, parts C)."""
    length = x.shape[0] // batch
    return x.reshape(batch, length, parts, heads, -1).transpose(2, 0, 3, 1, 4)


def merge_heads(x: Array) -> Array:
    """Lay the heads of (B, H, T, D) side by side: (N, C)."""
    batch, heads, length, width = x.shape
    return x.swapaxes(1, 2).reshape(batch * length, heads * width)
