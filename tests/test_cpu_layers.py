"""Layer norm, dropout, attention, GELU and embeddings on the CPU against their formulas."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given

from electra_ref import rng
from electra_ref.backends import Backend
from electra_ref.gradient import GradientSum
from electra_ref.rng import Purpose, RandomStream
from tests import fast_operations as tested
from tests import rounding_bounds
from tests.fast_operations import (
    POWERS,
    REFERENCE,
    SIZES,
    assert_case_within,
    assert_within,
    draw,
    draw_stream,
    scales_of,
)
from tests.operation_cases import SEEDS, SMOOTH_EPS, Case, Sizes
from tests.rounding_bounds import U


def border_rate(stream: RandomStream, examples: int, count: int, offset: int) -> float:
    """Return the rate at which some element's bits just keep it (offset 0), or just do not (1)."""
    bits = rng.dropout_bits(stream, examples, count)
    return float(np.sort(bits, axis=None)[bits.size // 2] + offset) / 65536


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
        place = tested.CPU.dropout_bits(stream._replace(first_example=example), 1, 8)
        y, _ = tested.CPU.dropout(np.ones((1, 8), np.float32), place, 1.0 - 2.0**-20)
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
            bits_of = [tested.CPU.dropout_bits(stream, batch, count) for count in counts]
        rows: list[Any] = [array.astype(np.float32) for array in inputs]
        rows += [bits_of[0], sizes.rate, SMOOTH_EPS]
        sums: Callable[..., Any] = functools.partial(tested.CPU.dropout_add_layer_norm, *rows)
        x32 = qkv.astype(np.float32)
        context = functools.partial(tested.CPU.attention, x32, mask, heads, bits_of[1], sizes.rate)
        for operation in (sums, context):
            expected, _ = operation()
            got, cache = operation(with_cache=False)
            np.testing.assert_array_equal(got, expected)
            assert cache is None
    dcontext = x.astype(np.float32)
    none = tested.CPU.dropout_bits(draw_stream(random), batch, heads * length * length)
    caches = [tested.CPU.attention(x32, mask, heads, bits, 0.0)[1] for bits in (None, none)]
    undropped, dropped = (tested.CPU.attention_backward(dcontext, cache) for cache in caches)
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
        assert_case_within(case_of, dy, bounds, tested.CPU, start)


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
