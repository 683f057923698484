"""Fast operations beside their formulas in float64, within a bound derived from rounding.

Hypothesis draws sizes around those of a register tile: one row, one column, one head, widths that
are not multiples of a vector, rows with one token and padding. ``CPU`` and ``BFLOAT16_CPU`` are
what the tests of fast operations test; the tests of mutants put other kernels there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from electra_ref import rng
from electra_ref.backends import Backend, cpu, reference
from electra_ref.backends.cpu import bfloat16
from electra_ref.gradient import GradientSum
from electra_ref.rng import Purpose, RandomStream
from tests.operation_cases import Case, Sizes
from tests.rounding_bounds import SECOND_ORDER, TINY, Float64

CPU: Backend = cpu
BFLOAT16_CPU: Backend = bfloat16
REFERENCE: Backend = reference
PARAMETERS = {"linear": 2, "layer_norm": 2, "dropout_add_layer_norm": 2, "embed": 3}

SIZES = st.builds(
    Sizes,
    batch=st.integers(1, 3),
    length=st.one_of(st.just(1), st.integers(2, 40)),
    heads=st.integers(1, 3),
    head_width=st.one_of(st.just(1), st.integers(2, 40)),
    width=st.one_of(st.integers(4, 70), st.just(64)),
    outputs=st.one_of(st.just(1), st.integers(2, 70), st.just(32)),
    slots=st.integers(1, 20),
    rate=st.sampled_from([0.0, 1 / 65536, 0.1, 0.5, 0.999995]),
)
POWERS = 2.0 ** np.arange(-6, 3)  # to scale rows by, exactly: small variances, large scores


def draw(random: np.random.Generator, *shapes: tuple[int, ...]) -> list[Float64]:
    """Return arrays of float64 whose numbers float32 holds exactly."""
    return [as_float32(random.standard_normal(shape)) for shape in shapes]


def as_float32(x: npt.NDArray[Any]) -> Float64:
    """Return ``x`` rounded to float32, in float64."""
    rounded: Float64 = np.asarray(x, np.float32).astype(np.float64)
    return rounded


def as_bfloat16(x: Float64) -> Float64:
    """Return ``x`` with 8 significant bits; a tie never occurs in numbers drawn at random."""
    mantissa, exponent = np.frexp(x)
    rounded: Float64 = np.ldexp(np.round(mantissa * 256.0), exponent - 8)
    return rounded


def draw_stream(random: np.random.Generator) -> RandomStream:
    seed, step, first_example = (int(number) for number in random.integers(1 << 31, size=3))
    return RandomStream(seed, Purpose.DROPOUT + 5, step, first_example)


def scales_of(stream: RandomStream, examples: int, count: int, rate: float) -> Float64:
    """Return the factors 0 or 1 / (1 - p) of dropout, (examples, count)."""
    threshold = min(round(rate * 65536), 65535)
    scale = 65536 / (65536 - threshold)
    return np.where(rng.dropout_bits(stream, examples, count) >= threshold, scale, 0.0)


def assert_within(
    name: str,
    inputs: Sequence[Float64],
    dy: Float64,
    bounds: Sequence[Any],
    arguments: Callable[[Any], tuple[Any, ...]] = lambda _: (),
    fast_backend: Backend | None = None,
) -> None:
    """Compare ``name`` of both backends; ``arguments`` gives what follows the float arrays."""

    def case_of(backend: Backend) -> Case:
        operation, more = getattr(backend, name), arguments(backend)
        return Case(
            list(inputs),
            lambda *arrays: operation(*arrays, *more),
            getattr(backend, name + "_backward"),
            PARAMETERS.get(name, 0),
        )

    assert_case_within(case_of, dy, bounds, fast_backend or CPU)


def given_to_all(labels: Any, weights: Any, _: Backend) -> tuple[Any, ...]:
    """Return what follows the logits of a cross entropy, for any backend."""
    return labels, weights


def assert_case_within(
    case_of: Callable[[Backend], Case],
    dy: Float64,
    bounds: Sequence[Any],
    fast_backend: Backend,
    starts: Sequence[Float64] = (),
) -> None:
    """Compare the result and the gradients of a case, as both backends compute them.

    ``starts`` is what the sums hold that the gradients of the parameters are added to; without
    it they are empty.
    """
    fast = run(case_of(fast_backend), dy, starts, np.float32)
    exact = run(case_of(REFERENCE), dy, starts, np.float64)
    assert [array.dtype for array in fast] == [np.dtype(np.float32)] * len(exact)
    for number, (got, wanted, bound) in enumerate(zip(fast, exact, bounds, strict=True)):
        assert got.shape == wanted.shape
        excess = np.abs(got - wanted) - (SECOND_ORDER * bound + TINY)
        assert excess.max(initial=0.0) <= 0.0, f"result {number}: {excess.max()}"


def run(case: Case, dy: Float64, starts: Sequence[Float64], dtype: Any) -> list[npt.NDArray[Any]]:
    """Return the result and the gradients, computed in ``dtype``; no argument may change."""
    arrays = [array.astype(dtype) for array in case.inputs]
    cotangent: Any = dy.astype(dtype) if dy.ndim else float(dy)
    sums = [GradientSum(start.astype(dtype), is_empty=False) for start in starts]
    y, cache = case.forward(*arrays)
    y = np.array(y)
    gradients = case.gradients(cotangent, cache, sums or case.empty_sums(dtype))
    for after, before in zip((*arrays, cotangent), (*case.inputs, dy), strict=True):
        np.testing.assert_array_equal(after, before)
    return [y, *gradients]
