"""Layer normalization over the last axis, a row at a time: ``backends.reference.layer_norm``.

    y = gamma * xhat + beta,   xhat = (x - mean x) * rstd,   rstd = (var x + eps)^(-1/2)
    dx = rstd * (g - mean g - xhat * mean(g * xhat)),   g = gamma * dy

Fused: a row stays in the first-level cache from its mean to y, and from g to dx. dgamma and dbeta
are summed over chunks of ``CHUNK`` rows, then over the chunks, so their bits do not depend on the
number of threads.

Memory traffic: forward x is read, xhat and y are written; backward dy and xhat are read and dx is
written.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.arguments import expect
from electra_ref.compilation import jit
from electra_ref.gradient import GradientSum

CHUNK = 32  # rows whose parameter gradients are summed by one thread
SUM = frozenset({"contract", "reassoc"})  # lets the sums over a row fill vector registers


class LayerNormCache(NamedTuple):
    """Kept for the backward pass: one array the size of x, one number a row."""

    xhat: Float32  # (N, C)
    rstd: Float32  # (N,)
    gamma: Float32  # (C,)  the parameter itself


def layer_norm(
    x: Float32, gamma: Float32, beta: Float32, eps: float
) -> tuple[Float32, LayerNormCache]:
    """Normalize each row of ``x`` (N, C), scale by ``gamma`` (C,), shift by ``beta`` (C,).

    The variance is biased (divided by C); ``eps`` has the unit of ``x`` squared.
    Raises ValueError if ``gamma`` or ``beta`` is not (C,), or if types do not fit.
    """
    check_widths(x, gamma, beta)
    y, xhat, rstd = np.empty_like(x), np.empty_like(x), np.empty(x.shape[:1], np.float32)
    _layer_norm(x, gamma, beta, np.float32(eps), y, xhat, rstd)
    return y, LayerNormCache(xhat, rstd, gamma)


def layer_norm_backward(
    dy: Float32, cache: LayerNormCache, dgamma: GradientSum, dbeta: GradientSum
) -> Float32:
    """Return dx (N, C) for ``dy`` (N, C); add to ``dgamma`` and ``dbeta`` (C,).

    Raises ValueError if shapes or types do not fit.
    """
    expect(cache.xhat.shape, dy)
    dx, partial = np.empty_like(dy), chunk_sums(dy)
    _layer_norm_backward(dy, *cache, dx, partial)
    add_chunks(partial, dgamma, dbeta)
    return dx


def check_widths(x: Float32, gamma: Float32, beta: Float32) -> None:
    """Raise ValueError unless ``x`` is float32 and ``gamma`` and ``beta`` have the width of it."""
    if not gamma.shape == beta.shape == x.shape[-1:]:
        raise ValueError(f"gamma {gamma.shape} and beta {beta.shape} must be {x.shape[-1:]}")
    expect(x.shape, x)
    expect(gamma.shape, gamma, beta)


def chunk_sums(dy: Float32) -> Float32:
    """Return room for the sums of dgamma and dbeta over each chunk of rows."""
    return np.empty((-(-dy.shape[0] // CHUNK), 2, dy.shape[1]), np.float32)


def add_chunks(partial: Float32, dgamma: GradientSum, dbeta: GradientSum) -> None:
    """Add what ``chunk_sums`` had room for to ``dgamma`` and ``dbeta`` (C,), chunk after chunk."""
    expect(partial.shape[2:], dgamma.array, dbeta.array)
    of_gamma, of_beta = partial.sum(axis=0)
    dgamma.add(of_gamma)
    dbeta.add(of_beta)


@jit(parallel=True)
def _layer_norm(
    x: Float32,
    gamma: Float32,
    beta: Float32,
    eps: np.float32,
    y: Float32,
    xhat: Float32,
    rstd: Float32,
) -> None:
    for n in numba.prange(x.shape[0]):
        rstd[n] = normalize_row(x[n], eps, xhat[n])
        scale_and_shift(xhat[n], gamma, beta, y[n])


@jit(parallel=True)
def _layer_norm_backward(
    dy: Float32, xhat: Float32, rstd: Float32, gamma: Float32, dx: Float32, partial: Float32
) -> None:
    for chunk in numba.prange(partial.shape[0]):
        partial[chunk] = 0.0
        for n in range(chunk * CHUNK, min((chunk + 1) * CHUNK, dy.shape[0])):
            normalize_row_backward(dy[n], xhat[n], rstd[n], gamma, dx[n])
            add_parameter_gradients(dy[n], xhat[n], partial[chunk])


@jit(fastmath=SUM)
def normalize_row(x: Float32, eps: np.float32, xhat: Float32) -> np.float32:
    """Write (x - mean x) * rstd to ``xhat`` (C,) and return rstd."""
    total = np.float32(0.0)
    for i in range(x.size):
        total += x[i]
    mean = total / np.float32(x.size)
    squares = np.float32(0.0)
    for i in range(x.size):
        squares += (x[i] - mean) * (x[i] - mean)
    rstd = np.float32(1.0) / np.sqrt(squares / np.float32(x.size) + eps)
    for i in range(x.size):
        xhat[i] = (x[i] - mean) * rstd
    return np.float32(rstd)


@jit(fastmath={"contract"})
def scale_and_shift(xhat: Float32, gamma: Float32, beta: Float32, y: Float32) -> None:
    for i in range(xhat.size):
        y[i] = gamma[i] * xhat[i] + beta[i]


@jit(fastmath=SUM)
def normalize_row_backward(
    dy: Float32, xhat: Float32, rstd: np.float32, gamma: Float32, dx: Float32
) -> None:
    """Write rstd * (g - mean g - xhat * mean(g * xhat)) to ``dx`` (C,)."""
    total, projection = np.float32(0.0), np.float32(0.0)
    for i in range(dy.size):
        g = gamma[i] * dy[i]
        total += g
        projection += g * xhat[i]
    mean, slope = total / np.float32(dy.size), projection / np.float32(dy.size)
    for i in range(dy.size):
        dx[i] = rstd * (gamma[i] * dy[i] - mean - xhat[i] * slope)


@jit(fastmath={"contract"})
def add_parameter_gradients(dy: Float32, xhat: Float32, sums: Float32) -> None:
    for i in range(dy.size):
        sums[0, i] += dy[i] * xhat[i]
        sums[1, i] += dy[i]
