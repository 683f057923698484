"""Affine map of every row with factors in bfloat16, and its gradient.

    y = x W + b
    dx = dy Wᵀ,   dW = xᵀ dy,   db = sum of dy over the rows

Fused: the bias is where the sums of the product start, and db is summed while dy is packed for dW.
Memory traffic: that of the three products, see ``matrix_product``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.bfloat16.matrix_product import multiply


class LinearCache(NamedTuple):
    """Kept for the backward pass: references, nothing is copied."""

    x: Float32  # (N, I)
    weight: Float32  # (I, O)  the parameter itself


def linear(x: Float32, weight: Float32, bias: Float32) -> tuple[Float32, LinearCache]:
    """Map ``x`` (N, I) to (N, O) with ``weight`` (I, O) and ``bias`` (O,).

    Raises ValueError if the shapes do not fit.
    """
    if (x.shape[1], *bias.shape) != weight.shape:
        raise ValueError(f"x {x.shape}, weight {weight.shape} and bias {bias.shape} do not fit")
    y = np.empty((x.shape[0], weight.shape[1]), np.float32)
    multiply(x, weight, y, start=bias)
    return y, LinearCache(x, weight)


def linear_backward(dy: Float32, cache: LinearCache) -> tuple[Float32, Float32, Float32]:
    """Return (dx (N, I), dweight (I, O), dbias (O,)) for ``dy`` (N, O)."""
    x, weight = cache
    dx, dweight, dbias = np.empty_like(x), np.empty_like(weight), np.empty(dy.shape[1:], np.float32)
    multiply(dy, weight.T, dx)
    multiply(x.T, dy, dweight, column_sums=dbias)
    return dx, dweight, dbias
