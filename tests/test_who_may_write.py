"""Who may write where: the rules of ``electra_ref.backends``, for every operation and backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from electra_ref.backends import Backend, cpu, reference
from electra_ref.backends.cpu import bfloat16
from electra_ref.gradient import GradientSum
from tests.gradient_checks import Array
from tests.operation_cases import CASES, SEEDS, SIZES, SMOOTH_EPS, Case, Sizes

BACKENDS: dict[str, Backend] = {"reference": reference, "cpu": cpu, "bfloat16": bfloat16}
MARGIN, MARK = 64, 7.0  # numbers between the sums of two parameters, and what they hold
every_operation = pytest.mark.parametrize("operation", CASES)
every_backend = pytest.mark.parametrize("name", BACKENDS)


def draw(name: str, operation: str, sizes: Sizes, seed: int) -> tuple[Case, Array]:
    """Return a case in float32, and a gradient of its result."""
    random = np.random.default_rng(seed)
    case = CASES[operation](BACKENDS[name], sizes, random, SMOOTH_EPS)
    case = case._replace(inputs=[x.astype(np.float32) for x in case.inputs])
    shape = np.shape(case.forward(*case.inputs)[0])
    return case, np.asarray(random.standard_normal(shape), np.float32)


def arrays_of(value: Any) -> Iterator[Array]:
    """Yield all arrays in a value, be it an array, a cache or a list of them."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from arrays_of(part)


def bits_of(value: Any) -> list[bytes]:
    return [array.tobytes() for array in arrays_of(value)]


@every_backend
@every_operation
@given(sizes=SIZES, seed=SEEDS)
def test_nothing_that_an_operation_took_or_returned_is_written(
    operation: str, name: str, sizes: Sizes, seed: int
) -> None:
    """And so each function gives the same bits again. NumPy refuses what the formulas may not."""
    case, dy = draw(name, operation, sizes, seed)
    forward = case.forward(*case.inputs)
    known = [*case.inputs, dy, *forward]
    if name == "reference":
        for array in arrays_of(known):
            array.flags.writeable = False
    before = bits_of(known)
    assert bits_of(case.forward(*case.inputs)) == bits_of(forward)
    gradients = case.backward(dy, forward[1])
    once = bits_of(gradients)
    assert bits_of(case.backward(dy, forward[1])) == once
    assert bits_of(gradients) == once
    assert bits_of(known) == before


@every_backend
@every_operation
@given(sizes=SIZES, seed=SEEDS)
def test_the_gradient_of_a_parameter_is_added_to_what_is_there_and_nowhere_else(
    operation: str, name: str, sizes: Sizes, seed: int
) -> None:
    """An empty sum holds NaN, which must not show; the sums are parts of one vector."""
    case, dy = draw(name, operation, sizes, seed)
    _, cache = case.forward(*case.inputs)
    expected = case.backward(dy, cache)
    assert all(np.isfinite(gradient).all() for gradient in expected)
    parameters = case.inputs[len(case.inputs) - case.parameters :]
    vector = np.full(MARGIN + sum(x.size + MARGIN for x in parameters), MARK, np.float32)
    sums, is_margin, start = [], np.ones(vector.size, bool), MARGIN
    for x in parameters:
        view = vector[start : start + x.size].reshape(x.shape)
        view[...] = x
        sums.append(GradientSum(view, is_empty=False))
        is_margin[start : start + x.size] = False
        start += x.size + MARGIN
    gradients = case.gradients(dy, cache, sums)
    assert (vector[is_margin] == MARK).all()
    for number, (got, alone) in enumerate(zip(gradients, expected, strict=True)):
        added = number - (len(case.inputs) - case.parameters)
        wanted = alone + parameters[added] if added >= 0 else alone
        size = np.abs(alone).max(initial=0.0) + np.abs(wanted).max(initial=0.0)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * size if added >= 0 else 0.0)


@every_backend
def test_the_optimizer_writes_into_parameters_and_moments(name: str) -> None:
    backend, random = BACKENDS[name], np.random.default_rng(0)
    gradients, part, parameters, first, second = random.random((5, 1000)).astype(np.float32)
    before = bits_of([gradients, part])
    total = gradients.copy()
    backend.add_gradients(total, part)
    np.testing.assert_array_equal(total, gradients + part)
    norm = backend.global_norm(gradients)
    backend.adamw(
        parameters,
        gradients,
        first,
        second,
        gradient_scale=float(0.5 / norm),
        learning_rate=0.1,
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-6,
        weight_decay=0.01,
    )
    assert bits_of([gradients, part]) == before
