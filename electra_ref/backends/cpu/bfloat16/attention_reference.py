"""What the kernels of ``attention`` compute, in NumPy: for processors without the instructions.

The same formulas and the same roundings to bfloat16, all heads side by side; products in float64.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Array, Float32
from electra_ref.backends.cpu.bfloat16.packing import Bits, round_to_bfloat16, widen
from electra_ref.backends.cpu.dropout import Dropout, draw
from electra_ref.backends.reference.attention import PADDING_SCORE

SIGN = np.uint16(0x8000)


def attention_reference(
    query_key_value: Float32,
    exponentials: Bits,
    reciprocals: Float32,
    scale: np.float32,
    attention_mask: npt.NDArray[np.bool_],
    dropout: Dropout,
    context: Float32,
) -> None:
    """Fill ``exponentials`` (B, H, T, T or more), ``reciprocals`` and ``context`` (N, C)."""
    batch, heads, length, _ = exponentials.shape
    query, key, value = split_heads(query_key_value, batch, 3, heads)
    factor = np.float32(1.0 / math.sqrt(query.shape[-1]))
    padding = np.where(attention_mask, 0.0, PADDING_SCORE)[:, None, None, :]
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):  # nor do the kernels warn
        scores = multiply(query * factor, key.swapaxes(-1, -2)) + padding
        scores -= scores.max(axis=-1, keepdims=True)
        weights = round_to_bfloat16(np.exp(scores).astype(np.float32))
        drop = draw(dropout, weights.shape)
        keep = drop.bits >= drop.threshold
        exponentials[..., :length] = np.where(keep, weights, weights | SIGN)
        exponentials[..., length:] = 0
        reciprocals[...] = 1.0 / widen(weights).sum(axis=-1)
        sums = multiply(np.where(keep, widen(weights), np.float32(0.0)), value)
        sums *= (reciprocals * scale)[..., None]
    context[...] = merge_heads(sums)


def attention_backward_reference(
    dcontext: Float32,
    query_key_value: Float32,
    exponentials: Bits,
    reciprocals: Float32,
    scale: np.float32,
    dquery_key_value: Float32,
) -> None:
    """Write ``dquery_key_value`` (N, 3C)."""
    batch, heads, length, _ = exponentials.shape
    query, key, value = split_heads(query_key_value, batch, 3, heads)
    (gradient,) = split_heads(dcontext, batch, 1, heads)
    factor = np.float32(1.0 / math.sqrt(query.shape[-1]))
    bits = exponentials[..., :length]
    weights, keep = widen(bits & ~SIGN), bits < SIGN
    reciprocal = reciprocals[..., None]
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        gradient = gradient * (reciprocal * scale)
        dweights = np.where(keep, multiply(gradient, value.swapaxes(-1, -2)), 0.0)
        dscores = weights * (
            dweights - reciprocal * (weights * dweights).sum(axis=-1, keepdims=True)
        )
        gradients = (
            multiply(dscores, key) * factor,
            multiply(dscores.swapaxes(-1, -2), query * factor),
            multiply(np.where(keep, weights, np.float32(0.0)).swapaxes(-1, -2), gradient),
        )
    dquery_key_value[...] = np.concatenate([merge_heads(part) for part in gradients], axis=1)


def multiply(a: Array, b: Array) -> npt.NDArray[np.float64]:
    """Return the products (..., n, m) of matrices rounded to bfloat16."""
    left, right = (
        widen(round_to_bfloat16(x.astype(np.float32))).astype(np.float64) for x in (a, b)
    )
    product: npt.NDArray[np.float64] = left @ right
    return product


def split_heads(x: Float32, batch: int, parts: int, heads: int) -> Float32:
    """Return ``parts`` of (B, H, T, D) that lie side by side in ``x`` (N, parts C)."""
    length = x.shape[0] // batch
    return x.reshape(batch, length, parts, heads, -1).transpose(2, 0, 3, 1, 4)


def merge_heads(x: Array) -> Array:
    """Lay the heads of (B, H, T, D) side by side: (N, C)."""
    batch, heads, length, width = x.shape
    return x.swapaxes(1, 2).reshape(batch * length, heads * width)
