"""exp and the normal distribution of the kernels against float64: the constants of the bounds.

``rounding_bounds`` takes its EXP and PHI from here. The default test looks where the errors are
largest, the slow test at every float.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import ndtr

from electra_ref.arrays import Float32
from electra_ref.backends.cpu import exponential
from electra_ref.compilation import jit
from tests.rounding_bounds import EXP, PHI, U

SMALLEST = np.float32(-87.0)
FLOATS_AT_A_TIME = 1 << 24


def exp_error(x: Float32, y: Float32) -> float:
    """Return the largest relative error of ``y`` as exp of ``x``."""
    exact = np.exp(x.astype(np.float64))
    return float((np.abs(y - exact) / exact).max())


def distribution_errors(x: Float32, distribution: Float32, density: Float32) -> tuple[float, float]:
    """Return the largest absolute error of Phi and, in roundings that count, of phi."""
    wide = x.astype(np.float64)
    exact = np.exp(-0.5 * wide**2) / math.sqrt(2.0 * math.pi)
    allowed = EXP + (2 + 0.5 * wide**2) * U  # the argument of exp, the constant and its product
    relative = np.abs(density - exact) / exact / allowed
    return float(np.abs(distribution - ndtr(wide)).max()), float(relative.max())


def hard_arguments(count: int) -> Float32:
    """Return arguments of exp: ends of each reduction to [-0.35, 0.35], and others in between."""
    random = np.random.default_rng(0)
    ends = (np.arange(-125, 0) + 0.5) * math.log(2.0)
    near = ends[:, None] * (1.0 + random.uniform(-1e-4, 1e-4, (ends.size, count)))
    spread = -87.0 * random.random(10 * count) ** 3
    return np.concatenate([near.ravel(), spread, [-87.0, -1e-30, 0.0]]).astype(np.float32)


def values(x: Float32) -> Iterator[tuple[np.float32, np.float32, np.float32]]:
    """Yield what the functions return for each number."""
    for number in x:
        distribution, density = exponential.normal_distribution(number)
        yield exponential.exp_of_negative(-abs(number)), distribution, density


def test_exp_and_the_normal_distribution_are_as_exact_as_the_bounds_say() -> None:
    x = hard_arguments(count=4)
    exp, *_ = np.array(list(values(x)), np.float32).T
    assert exp_error(x, exp) <= EXP
    x = np.concatenate([np.sqrt(-2.0 * x), -np.sqrt(-2.0 * x)])[np.abs(np.tile(x, 2)) < 86.9]
    _, distribution, density = np.array(list(values(x)), np.float32).T
    error, roundings = distribution_errors(x, distribution, density)
    assert error <= PHI
    assert roundings <= 1.0


def test_what_is_beyond_float32_is_zero_and_nan_stays_nan() -> None:
    beyond = np.array([np.nextafter(SMALLEST, np.float32(-88)), -1e4, -3e38, -np.inf], np.float32)
    for x in beyond:
        assert exponential.exp_of_negative(x) == 0.0
        assert list(exponential.normal_distribution(x)) == [0.0, 0.0]
        assert list(exponential.normal_distribution(-x)) == [1.0, 0.0]
    assert exponential.exp_of_negative(np.float32(-0.0)) == 1.0
    assert exponential.normal_distribution(np.float32(0.0))[0] == pytest.approx(0.5, abs=PHI)
    assert math.isnan(exponential.exp_of_negative(np.float32(np.nan)))
    assert all(math.isnan(y) for y in exponential.normal_distribution(np.float32(np.nan)))


@jit()
def _compute(x: Float32, exp: Float32, distribution: Float32, density: Float32) -> None:
    for i in range(x.size):
        exp[i] = exponential.exp_of_negative(-abs(x[i]))
        distribution[i], density[i] = exponential.normal_distribution(x[i])


def floats_between(low: float, high: float) -> Iterator[Float32]:
    """Yield all positive floats from ``low`` to ``high``, many at a time."""
    first, last = (int(np.float32(end).view(np.int32)) for end in (low, high))
    for start in range(first, last + 1, FLOATS_AT_A_TIME):
        bits: npt.NDArray[np.int32] = np.arange(
            start, min(start + FLOATS_AT_A_TIME, last + 1), dtype=np.int32
        )
        yield bits.view(np.float32)


@pytest.mark.slow
def test_every_float() -> None:
    """Below 2**-13, exp(-x) is 1 - x and Phi is 0.5 + 0.4 x; nothing happens there."""
    for x in floats_between(2.0**-13, 87.0):
        exp, distribution, density = (np.empty_like(x) for _ in range(3))
        _compute(x, exp, distribution, density)
        assert exp_error(-x, exp) <= EXP
        part = slice(np.searchsorted(x, np.float32(13.18)))
        for sign in (1, -1) if part.stop else ():  # there is nothing left of phi beyond
            if sign < 0:
                _compute(-x, exp, distribution, density)
            errors = distribution_errors(sign * x[part], distribution[part], density[part])
            assert x[part].size == 0 or (errors[0] <= PHI and errors[1] <= 1.0)
