"""The Gaussian error linear unit in its exact form, and its derivative.

    gelu(x) = x Phi(x),   Phi(x) = (1 + erf(x / sqrt 2)) / 2
    gelu'(x) = Phi(x) + x phi(x),   phi(x) = exp(-x^2 / 2) / sqrt(2 pi)

Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2; google-research/electra
model/modeling.py (``gelu``) uses this form too, not the tanh approximation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from electra_ref.arrays import Array, erf, get_xp


class GeluCache(NamedTuple):
    """Kept for the backward pass: erf is the costly part, so Phi is kept, not computed again."""

    x: Array  # (N, F)
    phi_integral: Array  # (N, F)  Phi(x), the normal distribution function


def gelu(x: Array) -> tuple[Array, GeluCache]:
    """Apply the unit to every element of ``x`` (N, F)."""
    phi_integral = erf(x * math.sqrt(0.5))
    phi_integral += 1.0  # in place: the array is ours
    phi_integral *= 0.5
    return x * phi_integral, GeluCache(x, phi_integral)


def gelu_backward(dy: Array, cache: GeluCache) -> Array:
    """Return dx (N, F) for ``dy`` (N, F)."""
    x, phi_integral = cache
    derivative: Array = get_xp(x).exp(x * x * -0.5)
    derivative *= x * (1.0 / math.sqrt(2.0 * math.pi))
    derivative += phi_integral
    derivative *= dy
    return derivative
