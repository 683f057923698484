"""Values whose gradient is scaled or stopped on its way back.

    y = x,   dx = factor dy

The complex step sees the factor, too: a derivative travels in the imaginary part, so y is x with
its imaginary part scaled. With a factor of 0 only the real part is left. So one check proves the
gradient of a loss in which one network works against another, although no single number is
minimised there.
Source of the negative factor, gradient reversal: Ganin and Lempitsky 2015, arXiv:1409.7495.
"""

from __future__ import annotations

from electra_ref.arrays import Array


def stop_gradient(x: Array) -> Array:
    """Return ``x`` (any shape) as a constant."""
    return x.real


def scale_gradient(x: Array, factor: float) -> Array:
    """Return ``x`` (any shape); its gradient is ``factor`` times as large.

    The backward pass of the caller multiplies by the same factor.
    """
    if x.dtype.kind != "c":
        return x
    scaled: Array = x.real + factor * (x - x.real)
    return scaled
