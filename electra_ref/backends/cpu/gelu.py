"""The exact Gaussian error linear unit, and its derivative: ``backends.reference.gelu``.

    gelu(x) = x Phi(x),   gelu'(x) = Phi(x) + x phi(x)

Fused: Phi and phi come from one exponential, so the backward pass computes both again instead of
reading them. Memory traffic: forward x is read and y written, backward x and dy are read and dx
is written.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.arguments import expect
from electra_ref.backends.cpu.exponential import normal_distribution
from electra_ref.compilation import jit


class GeluCache(NamedTuple):
    """Kept for the backward pass: a reference, nothing is copied."""

    x: Float32  # (N, F)


def gelu(x: Float32) -> tuple[Float32, GeluCache]:
    """Apply the unit to every element of ``x`` (N, F).

    Raises ValueError if ``x`` is not float32.
    """
    expect(x.shape, x)
    y = np.empty_like(x)
    _gelu(x, y)
    return y, GeluCache(x)


def gelu_backward(dy: Float32, cache: GeluCache) -> Float32:
    """Return dx (N, F) for ``dy`` (N, F).

    Raises ValueError if shapes or types do not fit.
    """
    expect(cache.x.shape, dy)
    dx = np.empty_like(dy)
    _gelu_backward(dy, cache.x, dx)
    return dx


@jit(parallel=True)
def _gelu(x: Float32, y: Float32) -> None:
    for row in numba.prange(x.shape[0]):
        for i in range(x.shape[1]):
            distribution, _ = normal_distribution(x[row, i])
            y[row, i] = x[row, i] * distribution


@jit(parallel=True)
def _gelu_backward(dy: Float32, x: Float32, dx: Float32) -> None:
    for row in numba.prange(x.shape[0]):
        for i in range(x.shape[1]):
            distribution, density = normal_distribution(x[row, i])
            dx[row, i] = dy[row, i] * (distribution + x[row, i] * density)
