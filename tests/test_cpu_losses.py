"""Losses, relaxed embeddings and likelihoods of words on the CPU against their formulas."""

from __future__ import annotations

import functools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.backends import Backend
from tests import fast_operations as tested
from tests import rounding_bounds
from tests.fast_operations import (
    POWERS,
    SIZES,
    as_bfloat16,
    as_float32,
    assert_case_within,
    assert_within,
    draw,
    given_to_all,
)
from tests.operation_cases import SEEDS, Case, Sizes
from tests.rounding_bounds import BFLOAT16, Float64


@given(sizes=SIZES, seed=SEEDS)
def test_softmax_cross_entropy(sizes: Sizes, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, sizes.outputs, sizes.slots)
    logits, (dy,) = 4 * draw(random, (sizes.slots, sizes.outputs))[0], draw(random, ())
    logits *= np.resize([64.0, 1.0, 0.25], (sizes.slots, 1))  # 64: exp of them overflows
    for weights in (random.random(sizes.slots) < 0.8, *draw(random, (sizes.slots,))):
        bounds = rounding_bounds.softmax_cross_entropy([logits], dy, labels, weights.astype(float))
        more = functools.partial(given_to_all, labels, weights)
        assert_within("softmax_cross_entropy", [logits], dy, bounds, more)


@given(sizes=SIZES, seed=SEEDS)
def test_binary_cross_entropy(sizes: Sizes, seed: int) -> None:
    random = np.random.default_rng(seed)
    weights = random.random(sizes.width) < 0.8
    logits, (dy,) = 4 * draw(random, (sizes.width,))[0], draw(random, ())
    bounds = rounding_bounds.binary_cross_entropy([logits], dy, weights.astype(float))
    for labels in (random.random(sizes.width) < 0.5, as_float32(random.random(sizes.width))):
        more = functools.partial(given_to_all, labels, weights)
        assert_within("binary_cross_entropy", [logits], dy, bounds, more)


@given(sizes=SIZES, seed=SEEDS)
def test_relax_embeddings(sizes: Sizes, seed: int) -> None:
    random = np.random.default_rng(seed)
    assert_relaxation(random, sizes)
    assert_relaxation(random, sizes, shift=400.0)  # exp of it overflows


def assert_relaxation(random: np.random.Generator, sizes: Sizes, shift: float = 0.0) -> None:
    """Compare relaxed embeddings of logits that ``shift`` moves up or down."""
    rows, words, width = sizes.slots, sizes.outputs, sizes.width
    logits, noise, table, ddelta = draw(random, *[(rows, words)] * 2, (words, width), (rows, width))
    logits *= np.resize([64.0, 1.0, 0.25], (rows, 1))  # 64: exp of them overflows
    logits = as_float32(logits + np.resize([-shift, shift], (rows, 1)))
    ids = random.integers(0, words, rows)
    temperature = float(random.choice([0.3, 1.0, 2.5]))
    (start,) = draw(random, (words, width))

    def soft(backend: Backend) -> Case:
        return Case(
            [logits, table],
            lambda logits, table: backend.relax_embeddings(
                logits, noise.astype(logits.dtype), temperature, table, ids, False
            ),
            backend.relax_embeddings_backward,
            parameters=1,
        )

    def straight_through(backend: Backend) -> Case:
        return Case(
            [logits],
            lambda logits: backend.relax_embeddings(
                *(logits, noise.astype(logits.dtype), temperature),
                *(table.astype(logits.dtype), ids, True),
            ),
            lambda ddelta, cache: backend.relax_embeddings_backward(ddelta, cache, None),
        )

    for backend, error in ((tested.CPU, 0.0), (tested.BFLOAT16_CPU, BFLOAT16)):
        for starts in ([], [start]):
            bounds = rounding_bounds.relax_embeddings(
                [logits, table], ddelta, noise, temperature, ids, error, *starts
            )
            assert_case_within(soft, ddelta, bounds, backend, starts)
        delta, dlogits, _ = bounds
        assert_case_within(straight_through, ddelta, [0.0 * delta, dlogits], backend)


@given(sizes=SIZES, seed=SEEDS)
def test_relax_embeddings_with_factors_that_bfloat16_holds(sizes: Sizes, seed: int) -> None:
    """Equal logits of four words have probabilities of 1/4: nothing is lost by rounding them."""
    random = np.random.default_rng(seed)
    rows, width = sizes.slots, sizes.width
    table, ddelta = (as_bfloat16(x) for x in draw(random, (4, width), (rows, width)))
    logits, ids = np.zeros((rows, 4)), random.integers(0, 4, rows)

    def case_of(backend: Backend) -> Case:
        return Case(
            [logits, table],
            lambda logits, table: backend.relax_embeddings(
                logits, np.zeros_like(logits), 0.5, table, ids, False
            ),
            backend.relax_embeddings_backward,
            parameters=1,
        )

    bounds = rounding_bounds.relax_embeddings([logits, table], ddelta, logits, 0.5, ids)
    assert_case_within(case_of, ddelta, bounds, tested.BFLOAT16_CPU)


@given(sizes=SIZES, seed=SEEDS)
def test_vocabulary_log_likelihood_with_factors_that_bfloat16_holds(
    sizes: Sizes, seed: int
) -> None:
    """Forward those of any x; backward equal logits of four words, from an x of zeros."""
    random = np.random.default_rng(seed)
    rows, width = sizes.slots, sizes.width
    x, table = (as_bfloat16(x) for x in draw(random, (rows, width), (4, width)))
    labels, bias = random.integers(0, 4, rows), np.zeros(4)
    dy = random.choice(POWERS, rows) * random.choice([-1.0, 1.0], rows)  # 3/4 of them is exact

    def case_of(x: Float64, backend: Backend) -> Case:
        return Case(
            [x, table, bias],
            lambda x, table, bias: backend.vocabulary_log_likelihood(x, table, bias, labels),
            backend.vocabulary_log_likelihood_backward,
            parameters=2,
        )

    for inputs in ([0.125 * x, table, bias], [0.0 * x, table, bias]):
        bounds = rounding_bounds.vocabulary_log_likelihood(inputs, dy, labels)
        if inputs[0].any():
            rounded = rounding_bounds.vocabulary_log_likelihood(inputs, dy, labels, BFLOAT16)
            bounds[1:] = rounded[1:]
        case = functools.partial(case_of, inputs[0])
        assert_case_within(case, dy, bounds, tested.BFLOAT16_CPU)


@given(sizes=SIZES, seed=SEEDS)
def test_vocabulary_log_likelihood(sizes: Sizes, seed: int) -> None:
    random = np.random.default_rng(seed)
    assert_log_likelihood(random, sizes.batch * sizes.length, sizes.outputs, sizes.width)
    assert_log_likelihood(random, sizes.slots, sizes.outputs, sizes.width, scale=16.0)


@given(depth=st.sampled_from([255, 256, 257, 600]), seed=SEEDS)
def test_vocabulary_log_likelihood_over_several_parts(depth: int, seed: int) -> None:
    assert_log_likelihood(np.random.default_rng(seed), depth, words=9, width=5)


def assert_log_likelihood(
    random: np.random.Generator, rows: int, words: int, width: int, scale: float = 1.0
) -> None:
    """Compare the likelihoods of ``rows`` labels, and sums that are empty or are not.

    Logits are about as large as ``scale``, in bfloat16 at most 1, lest a bound be no bound.
    """
    inputs = draw(random, (rows, width), (words, width), (words,))
    labels = random.integers(0, words, rows)
    (dy,) = draw(random, (rows,))
    starts = draw(random, (words, width), (words,))
    inputs[0] *= 0.125

    def case_of(backend: Backend) -> Case:
        return Case(
            inputs,
            lambda x, table, bias: backend.vocabulary_log_likelihood(x, table, bias, labels),
            backend.vocabulary_log_likelihood_backward,
            parameters=2,
        )

    for backend, error in ((tested.BFLOAT16_CPU, BFLOAT16), (tested.CPU, 0.0)):
        if not error:
            inputs[0] *= scale
        for start in ([], starts):
            bounds = rounding_bounds.vocabulary_log_likelihood(
                inputs, dy, labels, error, start or (0.0, 0.0)
            )
            assert_case_within(case_of, dy, bounds, backend, start)


@given(sizes=SIZES, seed=SEEDS)
def test_copy_gate_cross_entropy(sizes: Sizes, seed: int) -> None:
    random = np.random.default_rng(seed)
    gates, likelihoods, weights = draw(random, *[(sizes.width,)] * 3)
    gates, likelihoods = 4 * gates, -4 * np.abs(likelihoods)
    is_copy, (dy,) = random.random(sizes.width) < 0.5, draw(random, ())
    weights *= random.random(sizes.width) < 0.8
    inputs = [gates, likelihoods]
    bounds = rounding_bounds.copy_gate_cross_entropy(inputs, dy, is_copy, weights)
    assert_within("copy_gate_cross_entropy", inputs, dy, bounds, lambda _: (is_copy, weights))
