"""Affine map of every row with factors in bfloat16, and its gradient.

    y = x W + b
    dx = dy Wᵀ,   dW = xᵀ dy,   db = sum of dy over the rows

Fused: the bias is where the sums of the product start; x and dy are packed for dW, and dy summed
for db, where their rows are rounded for the other product. Memory traffic: x and dy are read once
in float32, and once written and read in bfloat16; that of the products, see ``matrix_product``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.bfloat16.matrix_product import multiply, multiply_and_pack
from electra_ref.backends.cpu.bfloat16.packing import Panels


class LinearCache(NamedTuple):
    """Kept for the backward pass: half the memory of ``x``, which may be freed."""

    x: Panels  # (N, I)
    weight: Float32  # (I, O)  the parameter itself


def linear(x: Float32, weight: Float32, bias: Float32) -> tuple[Float32, LinearCache]:
    """Map ``x`` (N, I) to (N, O) with ``weight`` (I, O) and ``bias`` (O,).

    Raises ValueError if the shapes do not fit.
    """
    if (x.shape[1], *bias.shape) != weight.shape:
        raise ValueError(f"x {x.shape}, weight {weight.shape} and bias {bias.shape} do not fit")
    y = np.empty((x.shape[0], weight.shape[1]), np.float32)
    packed_x = multiply_and_pack(x, weight, y, start=bias)
    return y, LinearCache(packed_x, weight)


def linear_backward(dy: Float32, cache: LinearCache) -> tuple[Float32, Float32, Float32]:
    """Return (dx (N, I), dweight (I, O), dbias (O,)) for ``dy`` (N, O)."""
    x, weight = cache
    dx, dweight, dbias = (
        np.empty(shape, np.float32) for shape in (x.shape, weight.shape, weight.shape[1:])
    )
    packed_dy = multiply_and_pack(dy, weight.T, dx, column_sums=dbias)
    multiply(x, packed_dy, dweight)
    return dx, dweight, dbias
