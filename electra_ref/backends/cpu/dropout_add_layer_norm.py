"""Dropout, residual sum and layer norm in one pass over each row, and the gradients.

The formulas are those of the reference:

    y = layer_norm(residual + dropout(x))
    dresidual = layer_norm'(dy),   dx = dropout'(dresidual)

Fused: the row stays in the first-level cache from the sum to y, and in the backward pass from dy
to dx.

Memory traffic: forward x, residual and bits are read, xhat and y are written (y alone where no
backward pass follows, and no bits are read where nothing is dropped); backward dy, xhat and
bits are read, dresidual and dx are written.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.arguments import expect
from electra_ref.backends.cpu.dropout import Bits16, Dropout, DropoutBits, draw
from electra_ref.backends.cpu.layer_norm import (
    CHUNK,
    LayerNormCache,
    add_chunks,
    add_parameter_gradients,
    check_widths,
    chunk_sums,
    normalize_row,
    normalize_row_backward,
    scale_and_shift,
)
from electra_ref.compilation import jit
from electra_ref.gradient import GradientSum


class DropoutAddLayerNormCache(NamedTuple):
    """Kept for the backward pass: where the random bits are, and what layer norm keeps."""

    dropout: Dropout
    layer_norm: LayerNormCache


def dropout_add_layer_norm(
    x: Float32,
    residual: Float32,
    gamma: Float32,
    beta: Float32,
    bits: DropoutBits | None,
    rate: float,
    eps: float,
    with_cache: bool = True,
) -> tuple[Float32, DropoutAddLayerNormCache | None]:
    """Drop from ``x`` (N, C), add ``residual`` (N, C), normalize with ``gamma``, ``beta`` (C,).

    ``bits`` (B, N C / B) and ``rate`` are dropout's, ``eps`` is layer norm's. The cache is
    None unless ``with_cache``.
    Raises ValueError if ``gamma`` or ``beta`` is not (C,), or if other shapes or types do not fit.
    """
    check_widths(x, gamma, beta)
    expect(x.shape, residual)
    dropout = Dropout(bits, rate)
    y, xhat, rstd = np.empty_like(x), x[:0], np.empty(x.shape[:1], np.float32)
    if with_cache:
        xhat = np.empty_like(x)
    drop = draw(dropout, (x if bits is not None else gamma[None]).shape)
    _dropout_add_layer_norm(
        x, residual, gamma, beta, *drop, np.float32(eps), with_cache, y, xhat, rstd
    )
    cache = DropoutAddLayerNormCache(dropout, LayerNormCache(xhat, rstd, gamma))
    return y, cache if with_cache else None


def dropout_add_layer_norm_backward(
    dy: Float32, cache: DropoutAddLayerNormCache, dgamma: GradientSum, dbeta: GradientSum
) -> tuple[Float32, Float32]:
    """Return (dx, dresidual), (N, C) each, for ``dy`` (N, C); add to ``dgamma``, ``dbeta`` (C,).

    Raises ValueError if shapes or types do not fit.
    """
    expect(cache.layer_norm.xhat.shape, dy)
    dx, dresidual, partial = np.empty_like(dy), np.empty_like(dy), chunk_sums(dy)
    drop = draw(cache.dropout, dy.shape)
    _dropout_add_layer_norm_backward(dy, *cache.layer_norm, *drop, dx, dresidual, partial)
    add_chunks(partial, dgamma, dbeta)
    return dx, dresidual


@jit(parallel=True)
def _dropout_add_layer_norm(
    x: Float32,
    residual: Float32,
    gamma: Float32,
    beta: Float32,
    bits: Bits16,
    threshold: int,
    scale: np.float32,
    eps: np.float32,
    keeps: bool,
    y: Float32,
    xhat: Float32,
    rstd: Float32,
) -> None:
    """Compute ``y``, ``rstd`` and, if it ``keeps`` them, ``xhat``.

    ``bits`` has a row for each of x, or one for all.
    """
    for chunk in numba.prange(-(-x.shape[0] // CHUNK)):
        room = np.empty(x.shape[1], np.float32)
        for n in range(chunk * CHUNK, min((chunk + 1) * CHUNK, x.shape[0])):
            drawn = bits[n % bits.shape[0]]
            for i in range(x.shape[1]):
                kept = scale if drawn[i] >= threshold else np.float32(0.0)
                y[n, i] = residual[n, i] + x[n, i] * kept
            normalized = xhat[n] if keeps else room
            rstd[n] = normalize_row(y[n], eps, normalized)
            scale_and_shift(normalized, gamma, beta, y[n])


@jit(parallel=True)
def _dropout_add_layer_norm_backward(
    dy: Float32,
    xhat: Float32,
    rstd: Float32,
    gamma: Float32,
    bits: Bits16,
    threshold: int,
    scale: np.float32,
    dx: Float32,
    dresidual: Float32,
    partial: Float32,
) -> None:
    for chunk in numba.prange(partial.shape[0]):
        partial[chunk] = 0.0
        for n in range(chunk * CHUNK, min((chunk + 1) * CHUNK, dy.shape[0])):
            normalize_row_backward(dy[n], xhat[n], rstd[n], gamma, dresidual[n])
            add_parameter_gradients(dy[n], xhat[n], partial[chunk])
            for i in range(dy.shape[1]):
                kept = scale if bits[n, i] >= threshold else np.float32(0.0)
                dx[n, i] = dresidual[n, i] * kept
