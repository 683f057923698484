"""Affine map of every row, and its gradient: ``backends.reference.linear``.

    y = x W + b
    dx = dy Wᵀ + dx',   dW = xᵀ dy,   db = sum of dy over the rows

Fused: b, dx' and the sum for dW are where the sums of the products start, and db is summed while dy
is packed for dW. Where the sum for dW is stored by columns, as that of a transposed table is, dWᵀ =
dyᵀ x is computed in its place, and db in a pass of its own.
Memory traffic: that of the three products, see ``matrix_product``; for a transposed table dy is
read once more.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.arguments import expect, is_transpose
from electra_ref.backends.cpu.matrix_product import multiply
from electra_ref.gradient import GradientSum


class LinearCache(NamedTuple):
    """Kept for the backward pass: references, nothing is copied."""

    x: Float32  # (N, I)
    weight: Float32  # (I, O)  the parameter itself, or its transpose


def linear(x: Float32, weight: Float32, bias: Float32) -> tuple[Float32, LinearCache]:
    """Map ``x`` (N, I) to (N, O) with ``weight`` (I, O) and ``bias`` (O,).

    Raises ValueError if shapes or types do not fit.
    """
    if (x.shape[1], *bias.shape) != weight.shape:
        raise ValueError(f"x {x.shape}, weight {weight.shape} and bias {bias.shape} do not fit")
    y = np.empty((x.shape[0], weight.shape[1]), np.float32)
    multiply(x, weight, y, start=bias)
    return y, LinearCache(x, weight)


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
    multiply(dy, weight.T, dx, start=dx_elsewhere)
    if is_transpose(dweight.array):
        dtable = dweight.array.T
        multiply(dy.T, x, dtable, start=None if dweight.is_empty else dtable)
        np.sum(dy, axis=0, out=column_sums)
    else:
        start = None if dweight.is_empty else dweight.array
        multiply(x.T, dy, dweight.array, start=start, column_sums=column_sums)
    dbias.add(column_sums)
    return dx
