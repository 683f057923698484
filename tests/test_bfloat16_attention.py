"""Attention with bfloat16 products against its formula in float64, within a bound for its rounding.

The bound holds for errors of any size, so ``rounding_bounds.SECOND_ORDER`` is needed only for the
errors of float32. With b the relative error of one rounding to bfloat16:

* The relative error of a product of two rounded factors is at most (1 + b)^2 - 1.
* If the scores of a row have errors of at most e, and exponentials are rounded before they are
  summed, a probability is wrong by a factor of at most exp(2 e) (1 + b) / (1 - b).
* The sums and products after that pass the errors on and round their factors once more.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref import rng
from electra_ref.arrays import Float32
from electra_ref.backends import Backend
from electra_ref.backends.cpu import bfloat16
from electra_ref.backends.cpu.bfloat16.attention import AttentionCache
from electra_ref.rng import Purpose, RandomStream
from tests import bfloat16_twins, rounding_bounds
from tests.fast_operations import SIZES, assert_within, draw, draw_stream, scales_of
from tests.operation_cases import SEEDS, Sizes
from tests.rounding_bounds import BFLOAT16, Float64, U

BACKEND: Backend = bfloat16
LONG = [(1, 63, 1, 64), (2, 64, 2, 32), (1, 65, 1, 33), (2, 128, 2, 64), (1, 193, 1, 64)]


def make_sizes(batch: int, length: int, heads: int, width: int, rate: float = 0.1) -> Sizes:
    return Sizes(batch, length, heads, width, width=1, outputs=1, slots=1, rate=rate)


def bounds_of(
    x: Float64, dy: Float64, sizes: Sizes, mask: npt.NDArray[np.bool_], scales: Float64
) -> list[Float64]:
    """Bounds for the context and dquery_key_value: those of float32, and b where products are."""
    batch, length, heads, width = sizes[:4]
    b, two = BFLOAT16, (1 + BFLOAT16) ** 2 - 1

    def split(matrix: Float64) -> Float64:
        return matrix.reshape(batch, length, heads, width).swapaxes(1, 2)

    def merge(matrix: Float64) -> Float64:
        return matrix.swapaxes(1, 2).reshape(batch * length, -1)

    def transpose(matrix: Float64) -> Float64:
        return matrix.swapaxes(-1, -2)

    query, key, value = (split(part) for part in np.split(x, 3, axis=1))
    dcontext, factor = split(dy), 1.0 / np.sqrt(width)
    used = mask[:, None, None, :]
    scores = np.where(used, query @ transpose(key) * factor, -np.inf)
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    score_error = np.where(used, two * (np.abs(query) @ transpose(np.abs(key))) * factor, 0.0)
    largest = score_error.max(axis=-1, keepdims=True)
    p_error = p * (np.exp(2 * largest) * (1 + b) / (1 - b) - 1)
    weight_error = scales * (p_error * (1 + b) + p * b)  # b: of the factor beside it
    context = weight_error @ np.abs(value)

    dp = dcontext @ transpose(value) * scales
    dp_error = two * (np.abs(dcontext) @ transpose(np.abs(value))) * scales
    dp_size = np.abs(dp) + dp_error
    total = (p * dp).sum(axis=-1, keepdims=True)
    total_error = (p_error * dp_size + p * dp_error).sum(axis=-1, keepdims=True)
    ds_error = p_error * (dp_size + np.abs(total) + total_error) + p * (dp_error + total_error)
    ds = factor * np.abs(p * (dp - total))
    ds_error = (1 + b) ** 2 * factor * ds_error + two * ds  # itself and the factor beside it
    dquery, dkey = ds_error @ np.abs(key), transpose(ds_error) @ np.abs(query)
    dvalue = transpose(weight_error) @ np.abs(dcontext)
    gradient = np.concatenate([merge(part) for part in (dquery, dkey, dvalue)], axis=1)
    in_float32 = rounding_bounds.attention([x], dy, sizes, mask, scales)
    return [merge(context) + in_float32[0], gradient + in_float32[1]]


def assert_attention(seed: int, sizes: Sizes, *, one_token: bool = False) -> None:
    """Compare drawn attention, dropout included, of rows with any number of tokens, or with one."""
    random = np.random.default_rng(seed)
    batch, length, heads = sizes.batch, sizes.length, sizes.heads
    used = np.ones(batch) if one_token else random.integers(1, length + 1, batch)
    mask, count = np.arange(length) < used[:, None], heads * length * length
    stream, width = draw_stream(random), heads * sizes.head_width
    x, dy = draw(random, (batch * length, 3 * width), (batch * length, width))
    scales = scales_of(stream, batch, count, sizes.rate).reshape(batch, heads, length, length)
    assert_within(
        "attention",
        [x],
        dy,
        bounds_of(x, dy, sizes, mask, scales),
        lambda backend: (mask, heads, backend.dropout_bits(stream, batch, count), sizes.rate),
        fast_backend=BACKEND,
    )


@pytest.mark.parametrize("one_token", [False, True])
@given(sizes=SIZES, seed=SEEDS)
def test_any_size(one_token: bool, sizes: Sizes, seed: int) -> None:
    assert_attention(seed, sizes, one_token=one_token)


@pytest.mark.parametrize("shape", LONG)
def test_several_turns(shape: tuple[int, int, int, int]) -> None:
    """Lengths on both sides of what is done in one turn, forward 32 queries, backward 64."""
    assert_attention(0, make_sizes(*shape))


def run(
    x: Float32, dy: Float32, sizes: Sizes, stream: RandomStream
) -> tuple[Float32, AttentionCache, Float32]:
    """Return context, cache and gradient of rows without padding."""
    batch, length, heads = sizes.batch, sizes.length, sizes.heads
    bits = BACKEND.dropout_bits(stream, batch, heads * length * length)
    y, cache = BACKEND.attention(x, np.ones((batch, length), np.bool_), heads, bits, sizes.rate)
    return y, cache, BACKEND.attention_backward(dy, cache)


def draw_float32(seed: int, sizes: Sizes) -> tuple[Float32, Float32]:
    random, width = np.random.default_rng(seed), sizes.heads * sizes.head_width
    rows = sizes.batch * sizes.length
    return (
        random.standard_normal((rows, 3 * width), np.float32),
        random.standard_normal((rows, width), np.float32),
    )


@given(length=st.integers(1, 70), scale=st.sampled_from([1.0, 64.0]))
def test_probabilities_sum_to_one_and_gradients_of_scores_to_zero(
    length: int, scale: float
) -> None:
    """Equal values come out as they went in, whatever the scores, and move no score."""
    sizes = make_sizes(2, length, 2, 8, 0.0)
    x, dy = draw_float32(0, sizes)
    x[:, :32] *= scale
    x[:, 32:] = 1.0
    dy = np.ones_like(dy)
    y, _, gradient = run(x, dy, sizes, RandomStream(1, Purpose.DROPOUT, 2))
    np.testing.assert_allclose(y, 1.0, rtol=(length + 3) * U)
    size = 8 * (length + 20) * U * np.abs(x[:, :32]).max()  # dP is 8, and so is its mean
    assert np.abs(gradient[:, :32]).max() <= length * size
    dvalue = gradient[:, 32:].reshape(2, length, -1).sum(axis=1)
    np.testing.assert_allclose(dvalue, length, rtol=2 * BFLOAT16)


@pytest.mark.parametrize("length", [1, 7, 32, 35, 70])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
def test_what_is_dropped_is_what_the_documented_bits_say(length: int, rate: float) -> None:
    sizes = make_sizes(2, length, 3, 4, rate)
    stream = RandomStream(2**40 + 3, Purpose.DROPOUT + 1, step=9, first_example=4)
    _, cache, _ = run(*draw_float32(0, sizes), sizes, stream)
    bits = rng.dropout_bits(stream, 2, 3 * length**2).reshape(2, 3, length, length)
    kept = cache.exponentials[..., :length] < 0x8000
    np.testing.assert_array_equal(kept, bits >= round(rate * 65536))


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), *LONG])
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_the_kernels_round_what_the_twin_rounds(
    shape: tuple[int, int, int, int], rate: float
) -> None:
    """A sum in another order may round to the other neighbour; hardly any number does.

    Without such a number, the results are nearer than a ten-thousandth of a rounding.
    """
    sizes, stream = make_sizes(*shape, rate), RandomStream(1, Purpose.DROPOUT, 2)
    x, dy = draw_float32(0, sizes)
    y, cache, gradient = run(x, dy, sizes, stream)
    batch, length, heads = shape[:3]
    bits = BACKEND.dropout_bits(stream, batch, heads * length * length)
    mask = np.ones((batch, length), np.bool_)
    twin_y, twin_cache = bfloat16_twins.attention(x, mask, heads, bits, rate)
    got, wanted = (c.exponentials[..., :length].astype(np.int32) for c in (cache, twin_cache))
    assert np.abs(got - wanted).max() <= 1
    assert (got != wanted).mean() < 1e-3
    np.testing.assert_allclose(cache.reciprocals, twin_cache.reciprocals, rtol=0.1 * BFLOAT16)
    assert difference(y, twin_y) <= 0.03 * BFLOAT16
    assert difference(gradient, bfloat16_twins.attention_backward(dy, cache)) <= 0.01 * BFLOAT16


def difference(a: Float32, b: Float32) -> float:
    """Return the norm of the difference, relative to that of ``b``."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_nan_is_not_hidden() -> None:
    """A NaN in a query reaches its row, one in a key or value all rows of its head and example."""
    sizes = make_sizes(2, 40, 2, 4)
    stream, (x, dy) = RandomStream(1, Purpose.DROPOUT, 2), draw_float32(0, sizes)
    for part, rows in ((0, slice(3, 4)), (1, slice(0, 40)), (2, slice(0, 40))):
        broken = x.copy()
        broken[3, 8 * part + 5] = np.nan
        y, _, gradient = run(broken, dy, sizes, stream)
        expected = np.zeros(y.shape, np.bool_)
        expected[rows, 5 if part == 2 else slice(4, 8)] = True
        np.testing.assert_array_equal(np.isnan(y), expected)
        assert np.isnan(gradient[:40]).any()
        assert np.isfinite(gradient[40:]).all()
    dy[3, 5] = np.nan
    _, _, gradient = run(x, dy, sizes, stream)
    assert np.isnan(gradient[3, 4:8]).all()
    assert np.isnan(gradient[:40, 12:16]).all()
    assert np.isnan(gradient[:40, 21]).any()


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    sizes = make_sizes(3, 70, 2, 20)
    stream, arrays = RandomStream(1, Purpose.DROPOUT, 2), draw_float32(0, sizes)
    before, results = numba.get_num_threads(), []
    try:
        for threads in range(1, before + 1):
            numba.set_num_threads(threads)
            y, _, gradient = run(*arrays, sizes, stream)
            results.append(y.tobytes() + gradient.tobytes())
    finally:
        numba.set_num_threads(before)
    assert len(set(results)) == 1


def test_unfit_arguments_are_refused() -> None:
    mask, x = np.ones((2, 3), np.bool_), np.zeros((6, 12), np.float32)
    bits = BACKEND.dropout_bits(RandomStream(1, Purpose.DROPOUT, 2), 2, 19)
    with pytest.raises(ValueError, match="3 heads do not divide the width 4"):
        BACKEND.attention(x, mask, 3, None, 0.1)
    with pytest.raises(ValueError, match=r"2 x 19 bits .* \(2, 2, 3, 3\)"):
        BACKEND.attention(x, mask, 2, bits, 0.1)
    with pytest.raises(ValueError, match=r"rate .* 1\.0"):
        BACKEND.attention(x, mask, 2, bits, 1.0)
    with pytest.raises(ValueError, match=r"5 rows are neither the 6 .* nor .* 6 tokens"):
        BACKEND.attention(x[:5], mask, 1, None, 0.0)
    for wrong in (x[:, :11], x.astype(float)):
        with pytest.raises(ValueError, match="expected float32"):
            BACKEND.attention(wrong, mask, 1, None, 0.0)
    _, cache = BACKEND.attention(x, mask, 2, None, 0.0)
    for wrong in (x[:, :3], x[:5, :4], x[:, :4].astype(float)):
        with pytest.raises(ValueError, match="expected float32"):
            BACKEND.attention_backward(wrong, cache)
