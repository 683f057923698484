"""Matrix products on the CPU, in float32 and bfloat16, against their formula in float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.backends import Backend
from electra_ref.gradient import GradientSum
from tests import fast_operations as tested
from tests import rounding_bounds
from tests.fast_operations import SIZES, as_bfloat16, assert_case_within, assert_within, draw
from tests.operation_cases import SEEDS, Case, Sizes
from tests.rounding_bounds import BFLOAT16


@given(sizes=SIZES, seed=SEEDS)
def test_linear(sizes: Sizes, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, width, outputs = sizes.batch * sizes.length, sizes.width, sizes.outputs
    inputs = draw(random, (rows, width), (width, outputs), (outputs,))
    (dy,) = draw(random, (rows, outputs))
    assert_within("linear", inputs, dy, rounding_bounds.linear(inputs, dy))


@given(sizes=SIZES, seed=SEEDS)
def test_linear_with_factors_in_bfloat16(sizes: Sizes, seed: int) -> None:
    """Each factor is rounded once to bfloat16; sums are those of float32."""
    random = np.random.default_rng(seed)
    rows, width, outputs = sizes.batch * sizes.length, sizes.width, sizes.outputs
    inputs = draw(random, (rows, width), (width, outputs), (outputs,))
    (dy,) = draw(random, (rows, outputs))
    bounds = rounding_bounds.linear(inputs, dy, BFLOAT16)
    assert_within("linear", inputs, dy, bounds, fast_backend=tested.BFLOAT16_CPU)


@given(sizes=SIZES, seed=SEEDS)
def test_linear_with_factors_that_bfloat16_holds(sizes: Sizes, seed: int) -> None:
    """Then nothing is lost by rounding them, and the result is that of float32 but for order."""
    random = np.random.default_rng(seed)
    rows, width, outputs = sizes.batch * sizes.length, sizes.width, sizes.outputs
    inputs = [as_bfloat16(x) for x in draw(random, (rows, width), (width, outputs), (outputs,))]
    dy = as_bfloat16(*draw(random, (rows, outputs)))
    bounds = rounding_bounds.linear(inputs, dy)
    assert_within("linear", inputs, dy, bounds, fast_backend=tested.BFLOAT16_CPU)


@given(depth=st.sampled_from([255, 256, 257, 600]), seed=SEEDS)
def test_linear_over_several_blocks_of_rows(depth: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    inputs = draw(random, (depth, 9), (9, 33), (33,))
    (dy,) = draw(random, (depth, 33))
    assert_within("linear", inputs, dy, rounding_bounds.linear(inputs, dy))
    inputs = draw(random, (9, depth), (depth, 33), (33,))
    (dy,) = draw(random, (9, 33))
    assert_within("linear", inputs, dy, rounding_bounds.linear(inputs, dy))


@given(sizes=SIZES, seed=SEEDS)
def test_linear_of_a_transposed_table(sizes: Sizes, seed: int) -> None:
    """The gradient of the table is written by the rows of the table."""
    random = np.random.default_rng(seed)
    slots, width, words = sizes.slots, sizes.width, sizes.outputs
    inputs = draw(random, (slots, width), (words, width), (words,))
    (dy,) = draw(random, (slots, words))
    starts = draw(random, (words, width), (words,))
    for backend, error in ((tested.CPU, 0.0), (tested.BFLOAT16_CPU, BFLOAT16)):
        for start in ([], starts):
            bounds = rounding_bounds.linear(
                [inputs[0], inputs[1].T, inputs[2]],
                dy,
                error,
                (0.0, start[0].T, start[1]) if start else (0.0, 0.0, 0.0),
            )
            bounds[2] = bounds[2].T
            assert_case_within(
                lambda backend: Case(
                    inputs,
                    lambda x, table, bias: backend.linear(x, table.T, bias),
                    lambda dy, cache, dtable, dbias: backend.linear_backward(
                        dy, cache, dtable.transpose(), dbias
                    ),
                    parameters=2,
                ),
                dy,
                bounds,
                backend,
                start,
            )


@given(sizes=SIZES, seed=SEEDS)
def test_linear_of_a_gradient_that_is_a_transpose(sizes: Sizes, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, width, outputs = sizes.batch * sizes.length, sizes.width, sizes.outputs
    inputs = draw(random, (rows, width), (width, outputs), (outputs,))
    (dy,) = draw(random, (rows, outputs))

    def case_of(backend: Backend) -> Case:
        def backward_into(dy: Any, cache: Any, dweight: GradientSum, dbias: GradientSum) -> Any:
            return backend.linear_backward(np.asfortranarray(dy), cache, dweight, dbias)

        return Case(inputs, backend.linear, backward_into, parameters=2)

    for backend, error in ((tested.CPU, 0.0), (tested.BFLOAT16_CPU, BFLOAT16)):
        assert_case_within(case_of, dy, rounding_bounds.linear(inputs, dy, error), backend)


@given(sizes=SIZES, seed=SEEDS)
def test_linear_that_adds_to_what_is_there(sizes: Sizes, seed: int) -> None:
    """To the other part of dx, and to sums that are not empty."""
    random = np.random.default_rng(seed)
    rows, width, outputs = sizes.batch * sizes.length, sizes.width, sizes.outputs
    inputs = draw(random, (rows, width), (width, outputs), (outputs,))
    dy, elsewhere = draw(random, (rows, outputs), (rows, width))
    starts = draw(random, (width, outputs), (outputs,))

    def case_of(backend: Backend) -> Case:
        def backward_into(dy: Any, cache: Any, dweight: GradientSum, dbias: GradientSum) -> Any:
            other = elsewhere.astype(dy.dtype)
            dx = backend.linear_backward(dy, cache, dweight, dbias, other)
            np.testing.assert_array_equal(other, elsewhere)
            return dx

        return Case(inputs, backend.linear, backward_into, parameters=2)

    for backend, error in ((tested.CPU, 0.0), (tested.BFLOAT16_CPU, BFLOAT16)):
        bounds = rounding_bounds.linear(inputs, dy, error, (elsewhere, *starts))
        assert_case_within(case_of, dy, bounds, backend, starts)


def test_what_products_cannot_write_into_is_refused() -> None:
    x, weight, dy = np.ones((6, 4), "f4"), np.ones((4, 5), "f4"), np.ones((6, 5), "f4")
    sealed = np.ones((4, 5), "f4")
    sealed.flags.writeable = False
    wrong: dict[str, tuple[Any, Any]] = {
        "stored by rows": (np.ones((4, 9), "f4")[:, 2:7], None),
        "read-only": (sealed, None),
        r"float32 \(6, 4\)": (np.ones((4, 5), "f4"), dy),
        r"float32 \(4,\)": (np.ones((4, 5), "f4"), dy[0]),
        r"got float64": (np.ones((4, 5), "f4"), x.astype(float)),
    }
    for backend in (tested.CPU, tested.BFLOAT16_CPU):
        _, cache = backend.linear(x, weight, weight[0])
        for message, (array, dx_elsewhere) in wrong.items():
            sums = GradientSum(array, is_empty=True), GradientSum(np.ones(5, "f4"), is_empty=True)
            with pytest.raises(ValueError, match=message):
                backend.linear_backward(dy, cache, *sums, dx_elsewhere)


def test_a_product_of_one_number() -> None:
    for backend in (tested.CPU, tested.BFLOAT16_CPU):
        x, weight, bias = (np.full(shape, 2.0, "f4") for shape in ((1, 3), (3, 1), 1))
        y, _ = backend.linear(x, weight, bias)
        np.testing.assert_array_equal(y, [[14.0]])


def test_sums_of_nothing_are_zero() -> None:
    """A product over no rows or no columns leaves nothing in new memory as it was."""
    shapes = (0, 3), (5, 0)
    for backend, (rows, width) in itertools.product((tested.CPU, tested.BFLOAT16_CPU), shapes):
        x, weight, bias = np.ones((rows, width), "f4"), np.ones((width, 4), "f4"), np.ones(4, "f4")
        y, cache = backend.linear(x, weight, bias)
        np.testing.assert_array_equal(y, np.ones((rows, 4)))
        dweight, dbias = (GradientSum(np.full_like(p, np.nan), True) for p in (weight, bias))
        dx = backend.linear_backward(np.ones((rows, 4), np.float32), cache, dweight, dbias)
        np.testing.assert_array_equal(dx, 4.0 * np.ones((rows, width)))
        np.testing.assert_array_equal(dweight.array, np.zeros((width, 4)))
        np.testing.assert_array_equal(dbias.array, rows * np.ones(4))
