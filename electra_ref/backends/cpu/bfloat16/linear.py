"""Affine map of every row with factors in bfloat16, and its gradient.

    y = x W + b
    dx = dy Wᵀ + dx',   dW = xᵀ dy,   db = sum of dy over the rows

Fused: b, dx' and the sum for dW are where the sums of the products start; x and dy are packed for
dW, and dy summed for db, where their rows are rounded for the other product. Where the sum for dW
is stored by columns, as that of a transposed table is, dWᵀ = dyᵀ x is computed in its place.
Memory traffic: x and dy are read once in float32, and once written and read in bfloat16; that of
the products, see ``matrix_product``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.arguments import expect, is_transpose
from electra_ref.backends.cpu.bfloat16.matrix_product import multiply, multiply_and_pack
from electra_ref.backends.cpu.bfloat16.packing import Panels
from electra_ref.gradient import GradientSum


class LinearCache(NamedTuple):
    """Kept for the backward pass: half the memory of ``x``, which may be freed."""

    x: Panels  # (N, I)
    weight: Float32  # (I, O)  the parameter itself, or its transpose


def linear(x: Float32, weight: Float32, bias: Float32) -> tuple[Float32, LinearCache]:
    """Map ``x`` (N, I) to (N, O) with ``weight`` (I, O) and ``bias`` (O,).

    Raises ValueError if shapes or types do not fit.
    """
    if (x.shape[1], *bias.shape) != weight.shape:
        raise ValueError(f"x {x.shape}, weight {weight.shape} and bias {bias.shape} do not fit")
    y = np.empty((x.shape[0], weight.shape[1]), np.float32)
    packed_x = multiply_and_pack(x, weight, y, start=bias)
    return y, LinearCache(packed_x, weight)


def linear_backward(
    dy: Float32,
    cache: LinearCache,
    dweight: GradientSum,
    dbias: GradientSum,
    dx_elsewhere: Float32 | None = None,
) -> Float32:
    """Return dx (N, I) for ``dy`` (N, O); add to ``dweight`` (I, O) and ``dbias`` (O,).

    ``dx_elsewhere`` (N, I) is added to dx; None is zero. Raises ValueError if shapes or types do
    not fit, or if the array of ``dweight`` is stored neither by rows nor by columns.
    """
    x, weight = cache
    expect(weight.shape, dweight.array)
    expect(weight.shape[1:], dbias.array)
    dx, column_sums = np.empty(x.shape, np.float32), np.empty(weight.shape[1], np.float32)
    packed_dy = multiply_and_pack(dy, weight.T, dx, start=dx_elsewhere, column_sums=column_sums)
    if is_transpose(dweight.array):
        left, right, out = packed_dy, x, dweight.array.T
    else:
        left, right, out = x, packed_dy, dweight.array
    multiply(left, right, out, start=None if dweight.is_empty else out)
    dbias.add(column_sums)
    return dx
