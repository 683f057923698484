"""Every fast operation against its formula in float64, within a bound derived from rounding.

Hypothesis draws sizes around those of a register tile: one row, one column, one head, widths that
are not multiples of a vector, rows with one token and padding.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref import rng
from electra_ref.backends import Backend, cpu, reference
from electra_ref.backends.cpu import bfloat16
from electra_ref.gradient import GradientSum
from electra_ref.rng import Purpose, RandomStream
from tests import rounding_bounds
from tests.operation_cases import SEEDS, SMOOTH_EPS, Case, Sizes
from tests.rounding_bounds import BFLOAT16, SECOND_ORDER, TINY, Float64, U

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


def border_rate(stream: RandomStream, examples: int, count: int, offset: int) -> float:
    """Return the rate at which some element's bits just keep it (offset 0), or just do not (1)."""
    bits = rng.dropout_bits(stream, examples, count)
    return float(np.sort(bits, axis=None)[bits.size // 2] + offset) / 65536


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
    assert_within("linear", inputs, dy, bounds, fast_backend=BFLOAT16_CPU)


@given(sizes=SIZES, seed=SEEDS)
def test_linear_with_factors_that_bfloat16_holds(sizes: Sizes, seed: int) -> None:
    """Then nothing is lost by rounding them, and the result is that of float32 but for order."""
    random = np.random.default_rng(seed)
    rows, width, outputs = sizes.batch * sizes.length, sizes.width, sizes.outputs
    inputs = [as_bfloat16(x) for x in draw(random, (rows, width), (width, outputs), (outputs,))]
    dy = as_bfloat16(*draw(random, (rows, outputs)))
    bounds = rounding_bounds.linear(inputs, dy)
    assert_within("linear", inputs, dy, bounds, fast_backend=BFLOAT16_CPU)


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
    for backend, error in ((CPU, 0.0), (BFLOAT16_CPU, BFLOAT16)):
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

    for backend, error in ((CPU, 0.0), (BFLOAT16_CPU, BFLOAT16)):
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

    for backend, error in ((CPU, 0.0), (BFLOAT16_CPU, BFLOAT16)):
        bounds = rounding_bounds.linear(inputs, dy, error, (elsewhere, *starts))
        assert_case_within(case_of, dy, bounds, backend, starts)


@given(sizes=SIZES, seed=SEEDS)
def test_layer_norm(sizes: Sizes, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = sizes.batch * sizes.length, sizes.width
    inputs = draw(random, rows, rows[1:], rows[1:])
    inputs[0] *= random.choice(POWERS, (rows[0], 1))
    (dy,) = draw(random, rows)
    bounds = rounding_bounds.layer_norm(inputs, dy)
    assert_within("layer_norm", inputs, dy, bounds, lambda _: (SMOOTH_EPS,))


@given(sizes=SIZES, seed=SEEDS)
def test_dropout(sizes: Sizes, seed: int) -> None:
    """Number by number: the bits are those of ``rng.dropout_bits``, whatever draws them."""
    random = np.random.default_rng(seed)
    stream, count = draw_stream(random), sizes.length * sizes.width
    x, dy = draw(random, *[(sizes.batch * sizes.length, sizes.width)] * 2)
    scales = scales_of(stream, sizes.batch, count, sizes.rate).reshape(x.shape)
    bounds = [rounding_bounds.dropout(array, scales) for array in (x, dy)]
    assert_within(
        "dropout",
        [x],
        dy,
        bounds,
        lambda backend: (backend.dropout_bits(stream, sizes.batch, count), sizes.rate),
    )


@given(sizes=SIZES, seed=SEEDS)
def test_dropout_of_chosen_rows(sizes: Sizes, seed: int) -> None:
    """Their bits are those that they have among all rows."""
    random = np.random.default_rng(seed)
    stream, count = draw_stream(random), sizes.length * sizes.width
    all_rows = sizes.batch * sizes.length
    chosen = np.flatnonzero(random.random(all_rows) < 0.5)
    x, dy = draw(random, *[(chosen.size, sizes.width)] * 2)
    scales = scales_of(stream, sizes.batch, count, sizes.rate).reshape(all_rows, -1)[chosen]

    def dropped(backend: Backend) -> tuple[Any, ...]:
        bits = backend.dropout_bits(stream, sizes.batch, count)
        return backend.bits_of_rows(bits, chosen, all_rows), sizes.rate

    bounds = [rounding_bounds.dropout(array, scales) for array in (x, dy)]
    assert_within("dropout", [x], dy, bounds, dropped)


@given(sizes=SIZES, seed=SEEDS)
def test_dropout_add_layer_norm(sizes: Sizes, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, width = sizes.batch * sizes.length, sizes.width
    stream, count = draw_stream(random), sizes.length * width
    inputs = draw(random, (rows, width), (rows, width), (width,), (width,))
    powers = random.choice(POWERS, (rows, 1))
    inputs[0], inputs[1] = inputs[0] * powers, inputs[1] * powers
    (dy,) = draw(random, (rows, width))
    scales = scales_of(stream, sizes.batch, count, sizes.rate).reshape(rows, width)
    assert_within(
        "dropout_add_layer_norm",
        inputs,
        dy,
        rounding_bounds.dropout_add_layer_norm(inputs, dy, scales),
        lambda backend: (
            backend.dropout_bits(stream, sizes.batch, count),
            sizes.rate,
            SMOOTH_EPS,
        ),
    )


@pytest.mark.parametrize("offset", [0, 1])
@given(sizes=SIZES, seed=SEEDS)
def test_what_is_just_kept_and_what_is_not(offset: int, sizes: Sizes, seed: int) -> None:
    """The rate is that of one element's own bits: where it is dropped is exact."""
    random = np.random.default_rng(seed)
    stream, width = draw_stream(random), sizes.heads * sizes.head_width
    batch, length = sizes.batch, sizes.length
    count = length * width
    rate = border_rate(stream, batch, count, offset)
    x, residual, dy = draw(random, *[(batch * length, width)] * 3)
    parameters = draw(random, (width,), (width,))
    scales = scales_of(stream, batch, count, rate).reshape(x.shape)

    def dropped(backend: Backend) -> tuple[Any, ...]:
        return backend.dropout_bits(stream, batch, count), rate

    bounds = [rounding_bounds.dropout(array, scales) for array in (x, dy)]
    assert_within("dropout", [x], dy, bounds, dropped)
    inputs = [x, residual, *parameters]
    bounds = rounding_bounds.dropout_add_layer_norm(inputs, dy, scales)
    assert_within("dropout_add_layer_norm", inputs, dy, bounds, lambda b: (*dropped(b), SMOOTH_EPS))
    count = sizes.heads * length * length
    rate = border_rate(stream, batch, count, offset)
    assert_attention(random, sizes._replace(rate=rate), stream, np.full(batch, length))


def test_at_a_rate_next_to_one_the_highest_bits_are_kept() -> None:
    """Examples are looked for whose bits include the two highest numbers."""
    stream = RandomStream(0, Purpose.DROPOUT, 0)
    bits = rng.dropout_bits(stream, 40_000, 8)
    for highest in (65534, 65535):
        example = int(np.argmax((bits == highest).any(axis=1)))
        assert (bits[example] == highest).any()
        place = CPU.dropout_bits(stream._replace(first_example=example), 1, 8)
        y, _ = CPU.dropout(np.ones((1, 8), np.float32), place, 1.0 - 2.0**-20)
        np.testing.assert_array_equal(y, 65536.0 * (bits[[example]] == 65535))


@pytest.mark.parametrize("tokens", ["any number", "one"])
@given(sizes=SIZES, seed=SEEDS)
def test_attention(tokens: str, sizes: Sizes, seed: int) -> None:
    random = np.random.default_rng(seed)
    length = sizes.length
    different = 1 + np.resize(random.permutation(length), sizes.batch)
    used = np.ones_like(different) if tokens == "one" else different
    assert_attention(random, sizes, draw_stream(random), used)
    assert_attention(random, sizes, draw_stream(random), used, scale=16.0)  # scores that overflow


@given(sizes=SIZES, seed=SEEDS)
def test_attention_without_rows_for_padding(sizes: Sizes, seed: int) -> None:
    """Padding may lie between tokens, and a row of the batch may have no token."""
    random = np.random.default_rng(seed)
    batch, length, heads = sizes.batch, sizes.length, sizes.heads
    stream, count = draw_stream(random), heads * length * length
    width = heads * sizes.head_width
    mask = random.random((batch, length)) < 0.6
    x, dy = draw(random, (batch * length, 3 * width), (batch * length, width))
    is_token = mask.ravel()
    x[~is_token], dy[~is_token] = 0.0, 0.0
    scales = scales_of(stream, batch, count, sizes.rate).reshape(batch, heads, length, length)
    some = mask | ~mask.any(axis=1, keepdims=True)  # a row without a token has no bound
    bounds = rounding_bounds.attention([x], dy, sizes, some, scales)
    assert_within(
        "attention",
        [x[is_token]],
        dy[is_token],
        [bound[is_token] for bound in bounds],
        lambda backend: (mask, heads, backend.dropout_bits(stream, batch, count), sizes.rate),
    )


def assert_attention(
    random: np.random.Generator,
    sizes: Sizes,
    stream: RandomStream,
    used: npt.NDArray[np.int64],
    scale: float = 1.0,
) -> None:
    """Compare attention over rows of which ``used`` (B,) tokens are no padding."""
    batch, length, heads = sizes.batch, sizes.length, sizes.heads
    mask, count = np.arange(length) < used[:, None], heads * length * length
    width = heads * sizes.head_width
    x, dy = draw(random, (batch * length, 3 * width), (batch * length, width))
    x *= scale
    scales = scales_of(stream, batch, count, sizes.rate).reshape(batch, heads, length, length)
    assert_within(
        "attention",
        [x],
        dy,
        rounding_bounds.attention([x], dy, sizes, mask, scales),
        lambda backend: (mask, heads, backend.dropout_bits(stream, batch, count), sizes.rate),
    )


@given(sizes=SIZES, seed=SEEDS)
def test_results_without_a_cache_have_the_same_bits(sizes: Sizes, seed: int) -> None:
    """With dropout and without; without bits there is a cache as well."""
    random = np.random.default_rng(seed)
    batch, length, heads = sizes.batch, sizes.length, sizes.heads
    width = heads * sizes.head_width
    x, residual, qkv = draw(random, *[(batch * length, width)] * 2, (batch * length, 3 * width))
    inputs = [x, residual, *draw(random, (width,), (width,))]
    mask = np.arange(length) < 1 + np.resize(random.permutation(length), batch)[:, None]
    for stream in (draw_stream(random), None):
        bits_of: list[Any] = [None, None]
        if stream is not None:
            counts = length * width, heads * length * length
            bits_of = [CPU.dropout_bits(stream, batch, count) for count in counts]
        rows: list[Any] = [array.astype(np.float32) for array in inputs]
        rows += [bits_of[0], sizes.rate, SMOOTH_EPS]
        sums: Callable[..., Any] = functools.partial(CPU.dropout_add_layer_norm, *rows)
        x32 = qkv.astype(np.float32)
        context = functools.partial(CPU.attention, x32, mask, heads, bits_of[1], sizes.rate)
        for operation in (sums, context):
            expected, _ = operation()
            got, cache = operation(with_cache=False)
            np.testing.assert_array_equal(got, expected)
            assert cache is None
    dcontext = x.astype(np.float32)
    none = CPU.dropout_bits(draw_stream(random), batch, heads * length * length)
    caches = [CPU.attention(x32, mask, heads, bits, 0.0)[1] for bits in (None, none)]
    undropped, dropped = (CPU.attention_backward(dcontext, cache) for cache in caches)
    np.testing.assert_array_equal(undropped, dropped)


@given(sizes=SIZES, seed=SEEDS)
def test_gelu(sizes: Sizes, seed: int) -> None:
    random = np.random.default_rng(seed)
    x, dy = draw(random, *[(sizes.batch * sizes.length, sizes.width)] * 2)
    x *= 8.0 ** random.integers(-4, 2)  # exact
    assert_within("gelu", [x], dy, rounding_bounds.gelu([x], dy))


@given(sizes=SIZES, seed=SEEDS)
def test_embed(sizes: Sizes, seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = sizes.batch, sizes.length
    ids, types = random.integers(0, sizes.outputs, shape), random.integers(0, 2, shape)
    heights = sizes.outputs, sizes.length + sizes.slots - 1, 2
    inputs = draw(random, *((height, sizes.width) for height in heights))
    (dy,) = draw(random, (ids.size, sizes.width))
    word, position, segment = (np.abs(table) for table in inputs)
    starts = draw(random, *(table.shape for table in inputs))

    def case_of(backend: Backend) -> Case:
        forward = lambda w, p, s: backend.embed(w, p, s, ids, types)  # noqa: E731
        return Case(inputs, forward, backend.embed_backward, parameters=3)

    size, cache = REFERENCE.embed(word, position, segment, ids, types)
    for start in ([], starts):
        sums = [GradientSum(np.abs(x), is_empty=False) for x in start]
        sizes_of_sums = case_of(REFERENCE).gradients(
            np.abs(dy), cache, sums or case_of(REFERENCE).empty_sums(np.float64)
        )
        bounds = [3 * U * size, *(ids.size * U * total for total in sizes_of_sums)]
        assert_case_within(case_of, dy, bounds, CPU, start)


@given(sizes=SIZES, seed=SEEDS)
def test_gather_positions(sizes: Sizes, seed: int) -> None:
    random = np.random.default_rng(seed)
    positions = random.integers(0, sizes.length, (sizes.batch, sizes.slots))
    (x,) = draw(random, (sizes.batch * sizes.length, sizes.width))
    (dy,) = draw(random, (positions.size, sizes.width))
    _, cache = REFERENCE.gather_positions(x, positions)
    size = REFERENCE.gather_positions_backward(np.abs(dy), cache)
    assert_within(
        "gather_positions", [x], dy, [0.0 * dy, sizes.slots * U * size], lambda _: (positions,)
    )


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

    for backend, error in ((CPU, 0.0), (BFLOAT16_CPU, BFLOAT16)):
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
    assert_case_within(case_of, ddelta, bounds, BFLOAT16_CPU)


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
        assert_case_within(case, dy, bounds, BFLOAT16_CPU)


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

    for backend, error in ((BFLOAT16_CPU, BFLOAT16), (CPU, 0.0)):
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


@given(count=st.integers(1, 20_000), seed=SEEDS)
def test_global_norm(count: int, seed: int) -> None:
    """The squares of a chunk within n u, halved by the root."""
    (gradients,) = draw(np.random.default_rng(seed), (count,))
    norm, exact = CPU.global_norm(gradients.astype(np.float32)), REFERENCE.global_norm(gradients)
    assert norm.dtype == np.float32
    bound = (min(count, 4096) / 2 + 1) * U * exact
    assert abs(float(norm) - exact) <= SECOND_ORDER * bound


@given(count=st.integers(1, 5000), seed=SEEDS)
def test_add_gradients(count: int, seed: int) -> None:
    """One rounding, as NumPy's."""
    total, part = np.random.default_rng(seed).standard_normal((2, count), np.float32)
    expected = total + part
    CPU.add_gradients(total, part)
    np.testing.assert_array_equal(total, expected)


@given(
    count=st.integers(1, 5000),
    decay=st.sampled_from([0.0, 0.01, 0.5]),
    learning_rate=st.sampled_from([5e-4, 0.5]),
    epsilon=st.sampled_from([1e-6, 0.03]),
    gradient_scale=st.sampled_from([1.0, 0.3]),
    seed=SEEDS,
)
def test_adamw(
    count: int, decay: float, learning_rate: float, epsilon: float, gradient_scale: float, seed: int
) -> None:
    """One step: every term within a few u of its size, settings rounded to float32 included."""
    random = np.random.default_rng(seed)
    w, g, m, v = draw(random, *[(count,)] * 4)
    v = as_float32(v**2)
    settings: dict[str, Any] = {
        "gradient_scale": gradient_scale,
        "learning_rate": learning_rate,
        "beta1": 0.9,
        "beta2": 0.999,
        "epsilon": epsilon,
        "weight_decay": decay,
    }
    exact = [array.copy() for array in (w, g, m, v)]
    fast = [array.astype(np.float32) for array in (w, g, m, v)]
    CPU.adamw(*fast, **settings)
    REFERENCE.adamw(*exact, **settings)
    scaled = gradient_scale * g  # its scale and product: 2 u
    # beta, product, sum; and what the gradient brings
    moment = U * (3 * 0.9 * np.abs(m) + 5 * 0.1 * np.abs(scaled))
    # and the square, which doubles it
    square = U * (3 * 0.999 * v + 8 * 0.001 * scaled**2)
    root = np.sqrt(exact[3])
    ratio = np.abs(exact[2]) / (root + epsilon)
    # root (half of its argument's error, and its own), epsilon, their sum, the quotient
    ratio_error = moment / (root + epsilon) + (0.5 * square / exact[3] + 4 * U) * ratio
    # decay and its product, the sum; rate and its product; the subtraction
    update_error = ratio_error + 2 * U * decay * np.abs(w) + 3 * U * (ratio + decay * np.abs(w))
    step = learning_rate * update_error + U * np.abs(exact[0])
    for got, wanted, bound in zip(fast, exact, (step, 0.0 * g, moment, square), strict=True):
        assert (np.abs(got - wanted) <= SECOND_ORDER * bound).all()


def test_what_does_not_fit_is_refused() -> None:
    """By an error, before a kernel that does not look reads or writes beyond an array."""
    x, ids = np.ones((6, 4), np.float32), np.zeros((2, 3), np.int32)
    qkv, mask, six = np.ones((6, 12), np.float32), ids == 0, ids.reshape(-1)
    word, position, segment = (np.ones((n, 4), np.float32) for n in (5, 3, 2))
    CPU.embed(word, position, segment, ids + 4, ids + 1)  # all that is in the tables is allowed
    rates = "gradient_scale", "learning_rate", "beta1", "beta2", "epsilon", "weight_decay"
    adam = dict.fromkeys(rates, 0.5)
    refused: list[tuple[type[Exception], str, Callable[..., Any], tuple[Any, ...]]] = [
        (ValueError, "position", CPU.embed, (word, position[:2], segment, ids, ids)),
        (ValueError, "float32", CPU.embed, (word, position[:, :2], segment, ids, ids)),
        (ValueError, "types", CPU.embed, (word, position, segment, ids, ids[:1])),
        (IndexError, "table of 5", CPU.embed, (word, position, segment, ids + 5, ids)),
        (IndexError, "table of 5", CPU.embed, (word, position, segment, ids - 1, ids)),
        (IndexError, "table of 2", CPU.embed, (word, position, segment, ids, ids + 2)),
        (ValueError, "not fit", CPU.linear, (x, x, x[0])),
        (ValueError, "not fit", CPU.linear, (x, x.T, x[0])),
        (ValueError, "float32", CPU.linear, (x.astype(float), x.T, x[:, 0])),
        (ValueError, "float32", CPU.linear, (x, x.T.astype(float), x[:, 0])),
        (ValueError, "gamma", CPU.layer_norm, (x, x[0], x[0, :3], 1e-3)),
        (ValueError, "float32", CPU.layer_norm, (x.astype(float), x[0], x[0], 1e-3)),
        (
            ValueError,
            "float32",
            CPU.dropout_add_layer_norm,
            (x, x[:3], x[0], x[0], None, 0.0, 1e-3),
        ),
        (ValueError, "float32", CPU.gelu, (x.astype(float),)),
        (ValueError, "float32", CPU.softmax_cross_entropy, (x.astype(float), ids[0], ids[0])),
        (ValueError, "3 heads", CPU.attention, (qkv, mask, 3, None, 0.0)),
        (ValueError, "5 rows are neither", CPU.attention, (qkv[:5], mask, 2, None, 0.0)),
        (ValueError, "float32", CPU.attention, (qkv.astype(float), mask, 2, None, 0.0)),
        (ValueError, "float32", CPU.attention, (qkv[:, :11], mask, 3, None, 0.0)),
        (ValueError, "rate", CPU.dropout, (x, None, 1.0)),
        (ValueError, "rate", CPU.dropout, (x, None, -0.1)),
        (ValueError, "float32", lambda: CPU.adamw(x[0], x[0, :3], x[0], x[0], **adam), ()),
        (ValueError, "float32", lambda: CPU.adamw(x, x, x, x, **adam), ()),
        (ValueError, "float32", CPU.add_gradients, (x[0], x[0, :3])),
        (ValueError, "float32", CPU.add_gradients, (x, x)),
        (ValueError, "float32", CPU.global_norm, (x,)),
        (ValueError, "batch of 4", CPU.gather_positions, (x, np.zeros((4, 2), np.int32))),
        (IndexError, "out of bounds", CPU.gather_positions, (x, ids + 6)),
        (IndexError, "out of bounds", CPU.softmax_cross_entropy, (x, np.full(6, 4), x[:, 0])),
        (ValueError, "not fit", CPU.relax_embeddings, (x, x[:3], 1.0, x[:4], ids[0], False)),
        (
            ValueError,
            "float32",
            CPU.relax_embeddings,
            (*[x.astype(float)] * 2, 1.0, x[:4], six, True),
        ),
        (ValueError, "float32", CPU.relax_embeddings, (x, x, 1.0, x[:4].astype(float), six, True)),
        (ValueError, "temperature", CPU.relax_embeddings, (x, x, 0.0, x[:4], six, True)),
        (IndexError, "table of 4", CPU.relax_embeddings, (x, x, 1.0, x[:4], six + 4, True)),
        (IndexError, "table of 4", CPU.relax_embeddings, (x, x, 1.0, x[:4], six - 1, True)),
        (ValueError, "not fit", CPU.vocabulary_log_likelihood, (x, x, x[0], six)),
        (ValueError, "float32", CPU.vocabulary_log_likelihood, (x.astype(float), x, x[:, 0], six)),
        (ValueError, "float32", CPU.vocabulary_log_likelihood, (x, x.astype(float), x[:, 0], six)),
        (ValueError, "float32", CPU.vocabulary_log_likelihood, (x, x, x[:, 0].astype(float), six)),
        (IndexError, "table of 6", CPU.vocabulary_log_likelihood, (x, x, x[:, 0], six + 6)),
        (IndexError, "table of 6", CPU.vocabulary_log_likelihood, (x, x, x[:, 0], six - 1)),
    ]
    for error, message, operation, arguments in refused:
        with pytest.raises(error, match=message):
            operation(*arguments)
    w, b = x.T, x[:, 0]
    caches: dict[str, tuple[Any, tuple[Any, ...]]] = {  # and what fits the sums
        "linear": (CPU.linear(x, w, b)[1], (w, b)),
        "layer_norm": (CPU.layer_norm(x, x[0], x[0], 1e-3)[1], (x[0], x[0])),
        "gelu": (CPU.gelu(x)[1], ()),
        "attention": (CPU.attention(qkv, mask, 2, None, 0.0)[1], ()),
        "embed": (CPU.embed(word, position, segment, ids, ids)[1], (word, position, segment)),
        "gather_positions": (CPU.gather_positions(x, ids)[1], ()),
        "dropout_add_layer_norm": (
            CPU.dropout_add_layer_norm(x, x, x[0], x[0], None, 0.0, 1e-3)[1],
            (x[0], x[0]),
        ),
        "relax_embeddings": (CPU.relax_embeddings(x, x, 1.0, x[:4], six, False)[1], (x[:4],)),
    }
    for name, (cache, arrays) in caches.items():
        backward = getattr(CPU, name + "_backward")
        sums = [GradientSum(array.copy(), is_empty=True) for array in arrays]
        dy = np.zeros((6, 6 if name == "linear" else 4), np.float32)
        backward(dy, cache, *sums)
        for wrong in (dy[:5], dy.astype(float)):
            with pytest.raises(ValueError, match="expected float32"):
                backward(wrong, cache, *sums)
        for number, array in enumerate(arrays):
            for wrong in (array[..., :3], array.astype(float), np.zeros((1, *array.shape), "f4")):
                sums[number] = GradientSum(wrong, is_empty=True)
                with pytest.raises(ValueError, match="expected float32"):
                    backward(dy, cache, *sums)
            sums[number] = GradientSum(array.copy(), is_empty=True)


def test_what_products_cannot_write_into_is_refused() -> None:
    x, weight, dy = np.ones((6, 4), "f4"), np.ones((4, 5), "f4"), np.ones((6, 5), "f4")
    sealed = np.ones((4, 5), "f4")
    sealed.flags.writeable = False
    wrong: dict[str, tuple[Any, Any]] = {
        "contiguous rows": (np.ones((4, 10), "f4")[:, ::2], None),
        "read-only": (sealed, None),
        r"float32 \(6, 4\)": (np.ones((4, 5), "f4"), dy),
        r"float32 \(4,\)": (np.ones((4, 5), "f4"), dy[0]),
        r"got float64": (np.ones((4, 5), "f4"), x.astype(float)),
    }
    for backend in (CPU, BFLOAT16_CPU):
        _, cache = backend.linear(x, weight, weight[0])
        for message, (array, dx_elsewhere) in wrong.items():
            sums = GradientSum(array, is_empty=True), GradientSum(np.ones(5, "f4"), is_empty=True)
            with pytest.raises(ValueError, match=message):
                backend.linear_backward(dy, cache, *sums, dx_elsewhere)


def test_products_write_into_rows_that_lie_apart() -> None:
    """The gradient of a weight may be a part of a wider matrix."""
    arrays = draw(np.random.default_rng(0), (6, 4), (4, 5), (6, 5))
    x, weight, dy = (array.astype(np.float32) for array in arrays)
    for backend in (CPU, BFLOAT16_CPU):
        _, cache = backend.linear(x, weight, weight[0])
        wide, alone, dbias = (np.ones(shape, "f4") for shape in ((4, 9), (4, 5), 5))
        for array in (wide[:, 2:7], alone):
            sums = GradientSum(array, is_empty=False), GradientSum(dbias, is_empty=True)
            backend.linear_backward(dy, cache, *sums)
        np.testing.assert_array_equal(wide[:, 2:7], alone)
        np.testing.assert_array_equal(wide[:, [0, 1, 7, 8]], 1.0)


def test_sums_for_ids_that_are_not_in_their_table_are_refused() -> None:
    """The table of the forward pass had more rows than the sums have."""
    ids, table, dx = np.full((1, 3), 1, np.int32), np.ones((3, 4), "f4"), np.ones((3, 4), "f4")
    _, cache = CPU.embed(table, table, table, ids, ids)
    for short, error in ((0, IndexError), (1, ValueError), (2, IndexError)):
        heights = [1 if n == short else 3 for n in range(3)]
        sums = [GradientSum(np.ones((height, 4), "f4"), is_empty=True) for height in heights]
        with pytest.raises(error, match=r"table of 1|only 1 sums"):
            CPU.embed_backward(dx, cache, *sums)


def test_arrays_stay_where_they_are() -> None:
    x = np.ones(3, np.float32)
    assert CPU.to_device(x) is x
    assert CPU.to_host(x) is x


def test_sums_of_nothing_are_zero() -> None:
    """A product over no rows or no columns leaves nothing in new memory as it was."""
    shapes = (0, 3), (5, 0)
    for backend, (rows, width) in itertools.product((CPU, BFLOAT16_CPU), shapes):
        x, weight, bias = np.ones((rows, width), "f4"), np.ones((width, 4), "f4"), np.ones(4, "f4")
        y, cache = backend.linear(x, weight, bias)
        np.testing.assert_array_equal(y, np.ones((rows, 4)))
        dweight, dbias = (GradientSum(np.full_like(p, np.nan), True) for p in (weight, bias))
        dx = backend.linear_backward(np.ones((rows, 4), np.float32), cache, dweight, dbias)
        np.testing.assert_array_equal(dx, 4.0 * np.ones((rows, width)))
        np.testing.assert_array_equal(dweight.array, np.zeros((width, 4)))
        np.testing.assert_array_equal(dbias.array, rows * np.ones(4))
