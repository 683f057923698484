"""Layer normalization over the last axis, and its gradient.

    y = gamma * xhat + beta,   xhat = (x - mean x) * rstd,   rstd = (var x + eps)^(-1/2)

With g = gamma * dy:

    dx = rstd * (g - mean g - xhat * mean(g * xhat))
    dgamma = sum over the rows of dy * xhat,   dbeta = sum over the rows of dy

The two terms subtracted in dx project out the directions that normalization erased: a shift of
the row, and (but for eps) a stretch of it.
Source: Ba et al. 2016, arXiv:1607.06450, equations 3-4; ELECTRA's eps of 1e-12 is that of
``tf.contrib.layers.layer_norm``, which google-research/electra model/modeling.py calls.
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.arrays import Array, get_xp


class LayerNormCache(NamedTuple):
    """Kept for the backward pass: one array the size of x, one number a row."""

    xhat: Array  # (N, C)
    rstd: Array  # (N, 1)
    gamma: Array  # (C,)  the parameter itself


def layer_norm(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, LayerNormCache]:
    """Normalize each row of ``x`` (N, C), scale by ``gamma`` (C,), shift by ``beta`` (C,).

    The variance is biased (divided by C); ``eps`` has the unit of ``x`` squared.
    Raises ValueError if ``gamma`` or ``beta`` is not (C,).
    """
    if not gamma.shape == beta.shape == x.shape[-1:]:
        raise ValueError(f"gamma {gamma.shape} and beta {beta.shape} must be {x.shape[-1:]}")
    xhat = x - x.mean(axis=-1, keepdims=True)
    variance = (xhat * xhat).mean(axis=-1, keepdims=True)
    rstd = 1.0 / get_xp(x).sqrt(variance + eps)
    xhat *= rstd  # in place: xhat is ours
    return gamma * xhat + beta, LayerNormCache(xhat, rstd, gamma)


def layer_norm_backward(dy: Array, cache: LayerNormCache) -> tuple[Array, Array, Array]:
    """Return (dx (N, C), dgamma (C,), dbeta (C,)) for ``dy`` (N, C)."""
    xhat, rstd, gamma = cache
    g = gamma * dy
    dx = g - g.mean(axis=-1, keepdims=True)
    dx -= xhat * (g * xhat).mean(axis=-1, keepdims=True)
    dx *= rstd
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)
