"""Every backward function against derivatives computed from the forward function alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from electra_ref.backends import Backend, reference
from tests.gradient_checks import Array, check_vjp, complex_step, finite_difference
from tests.operation_cases import (
    CASES,
    ELECTRA_EPS,
    SEEDS,
    SIZES,
    SMOOTH_EPS,
    STRAIGHT_THROUGH,
    Case,
    Sizes,
)

BACKEND: Backend = reference
every_operation = pytest.mark.parametrize("operation", CASES)


def test_no_operation_is_left_out() -> None:
    differentiable = {name for name in vars(Backend) if name + "_backward" in vars(Backend)}
    assert differentiable == {case.partition(" ")[0] for case in CASES}


@pytest.mark.parametrize("operation", [name for name in CASES if name != STRAIGHT_THROUGH])
@given(sizes=SIZES, seed=SEEDS)
def test_backward_matches_finite_differences(operation: str, sizes: Sizes, seed: int) -> None:
    random = np.random.default_rng(seed)
    case = CASES[operation](BACKEND, sizes, random, SMOOTH_EPS)
    check_vjp(finite_difference, case.forward, case.backward, case.inputs, random)


@every_operation
@given(sizes=SIZES, seed=SEEDS)
def test_backward_matches_the_complex_step(operation: str, sizes: Sizes, seed: int) -> None:
    random = np.random.default_rng(seed)
    case = CASES[operation](BACKEND, sizes, random, ELECTRA_EPS)
    check_vjp(complex_step, case.forward, case.backward, case.inputs, random)


@every_operation
@given(sizes=SIZES, seed=SEEDS)
def test_memory_layout_changes_nothing(operation: str, sizes: Sizes, seed: int) -> None:
    """Strided views and transposed arrays give what contiguous arrays give (to rounding)."""
    random = np.random.default_rng(seed)
    case = CASES[operation](BACKEND, sizes, random, ELECTRA_EPS)
    dy = random.standard_normal(case.forward(*case.inputs)[0].shape)
    expected = results(case, case.inputs, dy)
    for layout in (strided, transposed):
        got = results(case, [layout(x) for x in case.inputs], layout(dy))
        for array, wanted in zip(got, expected, strict=True):
            np.testing.assert_allclose(array, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


@every_operation
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(sizes=SIZES, seed=SEEDS)
def test_float_type_is_kept(operation: str, dtype: Any, sizes: Sizes, seed: int) -> None:
    """No constant, mask or weight promotes float32, and float32 says what float64 says."""
    random = np.random.default_rng(seed)
    case = CASES[operation](BACKEND, sizes, random, SMOOTH_EPS)
    dy = random.standard_normal(case.forward(*case.inputs)[0].shape)
    exact = results(case, case.inputs, dy)
    rounded = results(case, [x.astype(dtype) for x in case.inputs], dy.astype(dtype))
    assert [array.dtype for array in rounded] == [np.dtype(dtype)] * len(exact)
    largest = max(np.abs(array).max() for array in (*exact, *case.inputs))
    for array, wanted in zip(rounded, exact, strict=True):
        np.testing.assert_allclose(array, wanted, rtol=0, atol=2e-5 * largest)


@every_operation
def test_the_check_rejects_a_scaled_gradient(operation: str) -> None:
    """A test of the test: two parts in a billion, in one gradient, must show."""
    random = np.random.default_rng(0)
    sizes = Sizes(2, 5, 2, 3, 6, 5, 2, 0.1)
    case = CASES[operation](BACKEND, sizes, random, ELECTRA_EPS)

    def slightly_wrong(dy: Array, cache: Any) -> tuple[Array, ...]:
        first, *others = case.backward(dy, cache)
        return first * (1 + 2e-9), *others

    with pytest.raises(AssertionError, match="by hand"):
        check_vjp(complex_step, case.forward, slightly_wrong, case.inputs, random)


def results(case: Case, inputs: list[Array], dy: Array) -> list[Array]:
    """Return the output of an operation at ``inputs``, and all its gradients."""
    y, cache = case.forward(*inputs)
    return [y, *case.backward(dy, cache)]


def strided(array: Array) -> Array:
    """Return a read-only view of every second element of an array twice as large."""
    view = np.repeat(array[..., None], 2, axis=-1)[..., 0]
    view.flags.writeable = False
    return view


def transposed(array: Array) -> Array:
    """Return the same numbers in Fortran's order, read-only."""
    view = np.asfortranarray(array).view()
    view.flags.writeable = False
    return view.reshape(array.shape) if array.ndim == 0 else view
