"""Two ways to compute a derivative without any backward function.

For an operation y = f(x) with inputs x, directions v and a cotangent dy, the derivative along v is
J v, the backward function returns Jᵀ dy, and both must agree on the number <dy, J v> = <Jᵀ dy, v>.

* ``finite_difference``: J v by a fourth-order stencil. It works for any code, but loses half of the
  digits, and all of them if the function bends within one step.
* ``complex_step``: J v = Im f(x + i h v) / h. There is no difference, so nothing cancels and h can
  be 1e-30. It needs a forward function that works for complex numbers.

Source: Squire and Trapp 1998, SIAM Review 40(1), 110-112 (complex step); Abramowitz and Stegun
1964, table 25.2 (the stencil).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Forward = Callable[..., tuple[Array, Any]]
Backward = Callable[[Any, Any], tuple[Array, ...]]
Derivative = Callable[[Forward, Sequence[Array], Sequence[Array]], Array]

DIFFERENCE_STEP = 1e-5
COMPLEX_STEP = 1e-30
ROUNDING = 4 * float(np.finfo(np.float64).eps)  # of a number near 1, after a few operations


def finite_difference(
    forward: Forward, inputs: Sequence[Array], directions: Sequence[Array]
) -> Array:
    """Return the derivative of ``forward`` at ``inputs`` along ``directions``, from five points."""

    def moved(t: float) -> Array:
        return forward(*(x + t * v for x, v in zip(inputs, directions, strict=True)))[0]

    h = DIFFERENCE_STEP
    derivative: Array = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
    return derivative


def complex_step(forward: Forward, inputs: Sequence[Array], directions: Sequence[Array]) -> Array:
    """Return the derivative of ``forward`` at ``inputs`` along ``directions``, to rounding."""
    moved = [x + 1j * COMPLEX_STEP * v for x, v in zip(inputs, directions, strict=True)]
    derivative: Array = forward(*moved)[0].imag / COMPLEX_STEP
    return derivative


def check_vjp(
    derivative: Derivative,
    forward: Forward,
    backward: Backward,
    inputs: Sequence[Array],
    random: np.random.Generator,
) -> None:
    """Assert <dy, J v> = <Jᵀ dy, v> for a random dy and a random v through all ``inputs``.

    The tolerance is 1e-8 for differences and 1e-12 for the complex step, relative to the sum of
    |Jᵀ dy * v|: a direction in which the terms cancel cannot fail a right backward function. What
    the oracle itself loses to rounding is allowed on top, for saturated functions: there p - 1 is
    a small difference, and the difference of two losses a smaller one. dy is never all ones, which
    layer norm maps to (almost) zero whatever its backward function is.
    """
    for array in inputs:
        array.flags.writeable = False  # a function that writes into an argument raises here
    y, cache = forward(*inputs)
    dy = random.standard_normal(y.shape)
    dy.flags.writeable = False
    directions = [random.standard_normal(x.shape) for x in inputs]
    gradients = backward(dy, cache)
    assert [gradient.shape for gradient in gradients] == [x.shape for x in inputs]
    terms = [np.ravel(g * v) for g, v in zip(gradients, directions, strict=True)]
    by_hand, scale = np.concatenate(terms).sum(), np.abs(np.concatenate(terms)).sum()
    expected = np.sum(dy * derivative(forward, inputs, directions))
    differs = derivative is finite_difference
    tolerance, noise = (1e-8, ROUNDING / DIFFERENCE_STEP) if differs else (1e-12, ROUNDING)
    largest = max(1.0, *(float(np.abs(x).max()) for x in (y, *inputs)))
    allowed = tolerance * scale + noise * largest * np.abs(dy).sum()
    assert abs(by_hand - expected) <= allowed, (
        f"{by_hand} by hand, {expected} expected: {abs(by_hand - expected) / scale:.1e} relative"
    )
