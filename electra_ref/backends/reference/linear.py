"""Affine map of every row, and its gradient.

    y = x W + b
    dx = dy Wᵀ + dx',   dW = xᵀ dy,   db = sum of dy over the rows

dx' is the gradient from another use of x: a residual block reads x twice. Weights are stored
(inputs, outputs); PyTorch and Hugging Face store the transpose. The generator's output layer is
this map with W = Eᵀ, the table that also embeds its input (Press and Wolf 2017, arXiv:1608.05859).
Source: chain rule; google-research/electra model/modeling.py uses ``tf.layers.dense`` throughout.
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.arrays import Array
from electra_ref.gradient import GradientSum


class LinearCache(NamedTuple):
    """Kept for the backward pass: two references, nothing is copied."""

    x: Array  # (N, I)
    weight: Array  # (I, O)  the parameter itself, or its transpose


def linear(x: Array, weight: Array, bias: Array) -> tuple[Array, LinearCache]:
    """Map ``x`` (N, I) to (N, O) with ``weight`` (I, O) and ``bias`` (O,).

    Raises ValueError if the shapes do not fit.
    """
    if (x.shape[1], *bias.shape) != weight.shape:
        raise ValueError(f"x {x.shape}, weight {weight.shape} and bias {bias.shape} do not fit")
    y = x @ weight
    y += bias  # in place: y is ours
    return y, LinearCache(x, weight)


def linear_backward(
    dy: Array,
    cache: LinearCache,
    dweight: GradientSum,
    dbias: GradientSum,
    dx_elsewhere: Array | None = None,
) -> Array:
    """Return dx (N, I) for ``dy`` (N, O); add to ``dweight`` (I, O) and ``dbias`` (O,).

    ``dx_elsewhere`` (N, I) is added to dx; None is zero.
    """
    x, weight = cache
    dweight.add(x.T @ dy)
    dbias.add(dy.sum(axis=0))
    dx: Array = dy @ weight.T
    if dx_elsewhere is not None:
        dx += dx_elsewhere  # in place: dx is ours
    return dx
