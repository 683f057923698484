"""Affine map of every row, and its gradient.

    y = x W + b
    dx = dy Wᵀ,   dW = xᵀ dy,   db = sum of dy over the rows

Weights are stored (inputs, outputs); PyTorch and Hugging Face store the transpose.
Source: chain rule; google-research/electra model/modeling.py uses ``tf.layers.dense`` throughout.
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.arrays import Array


class LinearCache(NamedTuple):
    """Kept for the backward pass: two references, nothing is copied."""

    x: Array  # (N, I)
    weight: Array  # (I, O)  the parameter itself


def linear(x: Array, weight: Array, bias: Array) -> tuple[Array, LinearCache]:
    """Map ``x`` (N, I) to (N, O) with ``weight`` (I, O) and ``bias`` (O,).

    Raises ValueError if the shapes do not fit.
    """
    if (x.shape[1], *bias.shape) != weight.shape:
        raise ValueError(f"x {x.shape}, weight {weight.shape} and bias {bias.shape} do not fit")
    y = x @ weight
    y += bias  # in place: y is ours
    return y, LinearCache(x, weight)


def linear_backward(dy: Array, cache: LinearCache) -> tuple[Array, Array, Array]:
    """Return (dx (N, I), dweight (I, O), dbias (O,)) for ``dy`` (N, O)."""
    x, weight = cache
    return dy @ weight.T, x.T @ dy, dy.sum(axis=0)
