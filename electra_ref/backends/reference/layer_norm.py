"""Layer normalization over the last axis, and its gradient, derived line by line.

    y = gamma * xhat + beta,   xhat = (x - mean x) * rstd,   rstd = (var x + eps)^(-1/2)

With g = gamma * dy:

    dx = rstd * (g - mean g - xhat * mean(g * xhat))
    dgamma = sum over the rows of dy * xhat,   dbeta = sum over the rows of dy

The gradients of the other operations are found in the same way. Name every value between x and the
loss L. Then go from L back to x: dL/da is the sum of dL/db db/da over all values b in whose formula
a stands. For one row of C numbers, with means and sums over the row, and i, j from 1 to C:

    m = mean x      c_i = x_i - m      v = mean c^2      r = (v + eps)^(-1/2)
    xhat_i = c_i r      y_i = gamma_i xhat_i + beta_i

    gamma_i, beta_i are in the y_i of every row: sum dy_i xhat_i and dy_i over the rows
    xhat_i is in y_i:          dL/dxhat_i = dy_i gamma_i = g_i
    r is in every xhat_j:      dL/dr = sum_j g_j c_j = sum(g xhat) / r           since c = xhat / r
    v is in r:                 dr/dv = -1/2 (v + eps)^(-3/2) = -r^3 / 2
                               dL/dv = -r^2 / 2 sum(g xhat) = -r^2 / 2 C mean(g xhat)
    c_i is in xhat_i and v:    dxhat_i/dc_i = r,   dv/dc_i = 2 c_i / C = 2 xhat_i / (r C)
                               dL/dc_i = g_i r + dL/dv 2 xhat_i / (r C)
                                       = r (g_i - xhat_i mean(g xhat))
    m is in every c_j:         dc_j/dm = -1,   dL/dm = -sum_j dL/dc_j
                                       = -r C (mean g - mean xhat mean(g xhat))
                                       = -r C mean g             since mean c = 0, so mean xhat = 0
    x_i is in c_i and m:       dc_i/dx_i = 1,   dm/dx_i = 1 / C
                               dL/dx_i = dL/dc_i + dL/dm / C
                                       = r (g_i - mean g - xhat_i mean(g xhat))

dc_i/dx_i is 1 and not 1 - 1/C, because the path through the mean is counted under m. eps is a
constant and stands in r alone, so the formula is exact for every eps.

Source: Ba et al. 2016, arXiv:1607.06450, equations 3-4; ELECTRA's eps of 1e-12 is that of
``tf.contrib.layers.layer_norm``, which google-research/electra model/modeling.py calls.
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.arrays import Array, get_xp
from electra_ref.gradient import GradientSum


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


def layer_norm_backward(
    dy: Array, cache: LayerNormCache, dgamma: GradientSum, dbeta: GradientSum
) -> Array:
    """Return dx (N, C) for ``dy`` (N, C); add to ``dgamma`` and ``dbeta`` (C,)."""
    xhat, rstd, gamma = cache
    dgamma.add((dy * xhat).sum(axis=0))
    dbeta.add(dy.sum(axis=0))
    g = gamma * dy
    dx: Array = g - g.mean(axis=-1, keepdims=True)
    dx -= xhat * (g * xhat).mean(axis=-1, keepdims=True)
    dx *= rstd
    return dx
