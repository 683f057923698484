from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from electra_ref.arrays import import_cupy
from electra_ref.gumbel import (
    ARTANH,
    ROWS_AT_A_TIME,
    TOKENS_AT_A_TIME,
    _logarithm,
    _transform,
    gumbel_noise,
    gumbel_noise_reference,
    sample_with_noise,
)
from electra_ref.rng import EVALUATION, Purpose, RandomStream, random_words
from electra_ref.sampling import forbid
from tests import stand_in_cupy
from tests.proportions import assert_proportions

STREAM = RandomStream(seed=17, purpose=0, step=3)
SEED = st.integers(0, 2**32 - 1)
DTYPE = st.sampled_from([np.float32, np.float64])
WORDS = 2**32  # values of a word

Noise = npt.NDArray[Any]  # (R, V) float32 or float64
needs_longdouble = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63, reason="longdouble is float64 here"
)


def transformed(words: npt.NDArray[np.uint32], dtype: Any = np.float64) -> Noise:
    """Return the noise of each of ``words`` (n,), from the kernel."""
    noise = np.empty(words.size, dtype)
    _transform(words, noise)
    return noise


def draw_words(count: int) -> npt.NDArray[np.uint32]:
    """Return words, among them the least and the greatest and many close to both."""
    rng = np.random.default_rng(0)
    near = (2.0 ** rng.uniform(0, 32, count)).astype(np.uint64).clip(0, WORDS - 1)
    return np.concatenate([near, WORDS - 1 - near, [0, WORDS - 1]]).astype(np.uint32)


# The noise.


@needs_longdouble
def test_the_logarithm_is_exact_to_two_bits() -> None:
    rng = np.random.default_rng(0)
    x = np.exp(rng.uniform(-23, 4, 500_000))
    near_1 = 1 + np.exp(rng.uniform(-36, -1, 500_000)) * rng.choice([-1, 1], 500_000)
    borders = np.concatenate(
        [math.sqrt(0.5) * 2.0 ** np.arange(-33, 6) * s for s in (1, 1 - 1e-15)]
    )
    for numbers in (x, near_1, borders):
        exact = np.log(numbers.astype(np.longdouble))
        assert (np.abs(_logarithm(numbers) - exact) <= 2.0**-51 * np.abs(exact)).all()
    assert _logarithm(np.array([1.0])) == [0.0]
    assert (len(ARTANH), ARTANH[0]) == (10, 2 / 21)  # another degree, other bits


@needs_longdouble
def test_the_error_of_the_noise_is_as_stated() -> None:
    words = draw_words(300_000)
    u = (words.astype(np.longdouble) + 0.5) / np.longdouble(WORDS)
    exact = -np.log(-np.log(u))
    assert (np.abs(transformed(words) - exact) <= 2.0**-51 * (1 + np.abs(exact))).all()


def test_float32_noise_is_float64_noise_rounded() -> None:
    words = draw_words(300_000)
    np.testing.assert_array_equal(
        transformed(words, np.float32), transformed(words).astype(np.float32)
    )


def test_the_range_is_as_stated() -> None:
    least, greatest = transformed(np.array([0, WORDS - 1], np.uint32))
    assert least == pytest.approx(-math.log(33 * math.log(2)), rel=1e-12)
    assert greatest == pytest.approx(33 * math.log(2), rel=1e-9)
    assert -3.1305 < least < greatest < 22.8745
    assert 26.0 < greatest - least < 26.01


@given(
    examples=st.integers(0, 3),
    slots=st.integers(1, 4),
    vocabulary=st.integers(1, 40),
    first=st.integers(0, 9),
    seed=SEED,
)
@example(examples=2, slots=2, vocabulary=2 * TOKENS_AT_A_TIME + 5, first=1, seed=0)
@example(examples=1, slots=3, vocabulary=TOKENS_AT_A_TIME, first=0, seed=0)
def test_kernel_equals_twin(
    examples: int, slots: int, vocabulary: int, first: int, seed: int
) -> None:
    """The bits are those of the formula on the words; NumPy's logarithms give others at the end."""
    rows, stream = examples * slots, STREAM._replace(seed=seed, first_example=first)
    noise = gumbel_noise(stream, rows, slots, vocabulary, np.float64)
    twin = gumbel_noise_reference(stream, rows, slots, vocabulary, np.float64)
    assert noise.dtype == twin.dtype == np.float64
    assert noise.shape == (rows, vocabulary)
    assert (np.abs(noise - twin) <= 2.0**-50 * (1 + np.abs(twin))).all()
    stride = (vocabulary + 3) // 4 * 4
    words = random_words(stream.of(Purpose.GUMBEL), examples, slots * stride)
    u = (words.reshape(rows, stride)[:, :vocabulary] + 0.5) / WORDS
    np.testing.assert_array_equal(noise, -_logarithm(-_logarithm(u)))
    rounded = noise.astype(np.float32)
    small = gumbel_noise(stream, rows, slots, vocabulary, np.float32)
    assert small.dtype == gumbel_noise_reference(stream, rows, slots, 1, "float32").dtype
    np.testing.assert_array_equal(small, rounded)


def test_the_noise_of_a_slot_depends_on_its_example_and_its_number_only() -> None:
    whole = gumbel_noise(STREAM, 6 * 4, 4, 101, np.float32).reshape(6, 4, 101)
    part = gumbel_noise(STREAM._replace(first_example=4), 2 * 3, 3, 101, np.float32)
    np.testing.assert_array_equal(part.reshape(2, 3, 101), whole[4:, :3])
    assert np.unique(whole).size > 0.999 * whole.size
    for other in (STREAM._replace(step=4), STREAM._replace(seed=18), STREAM.of(EVALUATION)):
        anew = gumbel_noise(other, 6 * 4, 4, 101, np.float32).reshape(6, 4, 101)
        assert (anew == whole).mean() < 0.001


def test_thread_counts_give_the_same_noise() -> None:
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        alone = gumbel_noise(STREAM, 40, 5, 1000, np.float32)
    finally:
        numba.set_num_threads(threads)
    np.testing.assert_array_equal(alone, gumbel_noise(STREAM, 40, 5, 1000, np.float32))


@pytest.mark.parametrize(
    ("rows", "slots", "vocabulary", "dtype", "message"),
    [
        (4, 3, 5, np.float32, "rows must be"),
        (4, 0, 5, np.float32, "rows must be"),
        (4, 2, 0, np.float32, "vocab_size must be"),
        (4, 2, 5, np.float16, "noise must be"),
        (4, 2, 5, np.int32, "noise must be"),
        (1 << 15, 1 << 15, 1 << 19, np.float32, "count must be"),
    ],
)
@pytest.mark.parametrize("draw", [gumbel_noise, gumbel_noise_reference])
def test_noise_that_cannot_be_is_refused(
    draw: Any, rows: int, slots: int, vocabulary: int, dtype: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw(STREAM, rows, slots, vocabulary, dtype)


# Sampling with it.


def draw_logits(rows: int, vocabulary: int, rng: np.random.Generator) -> Noise:
    """Return logits some of which are -inf, but never all of a row."""
    logits = rng.standard_normal((rows, vocabulary)) * 5
    logits[rng.random((rows, vocabulary)) < 0.2] = -np.inf
    logits[np.arange(rows), rng.integers(0, vocabulary, rows)] = 1.0
    return logits


@given(rows=st.integers(0, 20), vocabulary=st.integers(1, 30), dtype=DTYPE, seed=SEED)
def test_the_largest_sum_wins(rows: int, vocabulary: int, dtype: Any, seed: int) -> None:
    """Of equal sums the first; differences of whole numbers make such sums frequent and exact."""
    rng = np.random.default_rng(seed)
    logits = np.floor(draw_logits(rows, vocabulary, rng)).astype(dtype)
    noise = rng.integers(-3, 9, (rows, vocabulary)).astype(dtype)
    tokens = sample_with_noise(logits, 0.5, noise)
    assert tokens.dtype == np.int32
    assert tokens.shape == (rows,)
    for row, token in enumerate(tokens):
        sums = [2 * logit + g for logit, g in zip(logits[row].tolist(), noise[row], strict=True)]
        assert token == sums.index(max(sums))


def frequencies(
    temperature: float, cells: npt.NDArray[np.int64], *, factor: float = 1.0
) -> tuple[Any, int]:
    """Count 1,000,000 draws by the cell (V,) of the token; ``factor`` scales the noise."""
    counts = np.zeros(cells.max() + 1, np.int64)
    logits = np.tile(np.linspace(0, -12, cells.size).astype(np.float32), (100_000, 1))
    for step in range(10):
        stream = STREAM._replace(step=step)
        noise = gumbel_noise(stream, len(logits), 20, cells.size, np.float32)
        tokens = sample_with_noise(logits, temperature, np.float32(factor) * noise)
        counts += np.bincount(cells[tokens], minlength=counts.size)
    return counts, 1_000_000


@pytest.mark.parametrize("temperature", [0.8, pytest.param(2.0, marks=pytest.mark.slow)])
def test_frequencies_follow_the_softmax(temperature: float) -> None:
    """Single tokens as far as they are frequent, the rare ones pooled: down to 12 nats."""
    cells = np.minimum(np.arange(24), 8)
    logits = np.linspace(0, -12, 24).astype(np.float32).astype(np.float64) / temperature
    probabilities = np.bincount(cells, np.exp(logits) / np.exp(logits).sum())
    counts, trials = frequencies(temperature, cells)
    assert_proportions(counts, trials, probabilities, detect=0.25)
    assert_proportions(counts[:3], trials, probabilities[:3], detect=0.035)


@pytest.mark.parametrize(
    ("temperature", "factor"), [(0.84, 1.0), pytest.param(0.8, 1.05, marks=pytest.mark.slow)]
)
def test_another_temperature_and_other_noise_are_found(temperature: float, factor: float) -> None:
    cells = np.minimum(np.arange(24), 3)
    logits = np.linspace(0, -12, 24).astype(np.float32).astype(np.float64) / 0.8
    probabilities = np.exp(logits) / np.exp(logits).sum()
    counts, trials = frequencies(temperature, cells, factor=factor)
    with pytest.raises(AssertionError, match="expected"):
        assert_proportions(counts[:3], trials, probabilities[:3], detect=0.035)


def tail_ratio(distance: float) -> float:
    """Return how often the lower of two logits wins, relative to its probability.

    Exact, but for ties: all pairs of two words. Below the greatest 2**22 words, the lower token
    wins with a probability of less than exp(-150).
    """
    words = np.arange(WORDS - 2**22, WORDS).astype(np.uint32)
    rest = np.exp(-np.exp(distance - transformed(words)))  # how often the other noise is less
    pairs = np.rint(rest * WORDS) / WORDS
    return float(pairs.sum() / WORDS * (1 + math.exp(distance)))


@pytest.mark.parametrize(
    ("distance", "ratio"), [(12, 1.0), (16, 1.0), (20, 1 - 1 / 1900), (23, 0.81), (26.01, 0.0)]
)
def test_tokens_far_below_the_best_are_drawn_as_often_as_stated(
    distance: float, ratio: float
) -> None:
    half = math.exp(distance) / WORDS / 2
    assert tail_ratio(distance) == pytest.approx(ratio, abs=0.005 if ratio < 0.9 else 1e-4)
    if distance < 26:
        assert half / math.sinh(half) == pytest.approx(tail_ratio(distance), rel=1e-4)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 50.0])
def test_a_forbidden_token_is_never_drawn_however_likely_it_was(temperature: float) -> None:
    """The others keep their shares: with the best token forbidden, each of 4 has a quarter."""
    logits = np.tile(np.array([0, 0, 5000, 0, 0], np.float32), (100_000, 1))
    allowed = forbid(logits, np.full(100_000, 2, np.int32))
    noise = gumbel_noise(STREAM, 100_000, 10, 5, np.float32)
    counts = np.bincount(sample_with_noise(allowed, temperature, noise), minlength=5)
    assert counts[2] == 0
    assert_proportions(counts[[0, 1, 3, 4]], 100_000, 0.25, detect=0.06)


@pytest.mark.parametrize("temperature", [5e-324, 1e-300])
def test_extreme_logits_and_temperatures_do_no_harm(temperature: float) -> None:
    logits = np.array([[-1e308, 0.0, 1e308, 1e308, -np.inf]])
    for noise, token in (([9, 9, 1, 0, 9], 2), ([9, 9, 0, 1, 9], 3)):
        assert sample_with_noise(logits, temperature, np.array([noise], np.float64)) == [token]
    assert sample_with_noise(logits * 0.1, 1e308, np.array([[1.0, 3, 2, 0, 9]])) == [1]


def test_views_and_read_only_arrays_give_the_same_tokens() -> None:
    logits = draw_logits(2 * ROWS_AT_A_TIME + 2, 300, np.random.default_rng(0))
    noise = gumbel_noise(STREAM, len(logits), 2, 300, np.float32)
    tokens = sample_with_noise(logits, 1.0, noise)
    logits, noise = np.asfortranarray(logits), np.asfortranarray(noise)
    logits.flags.writeable = noise.flags.writeable = False
    np.testing.assert_array_equal(sample_with_noise(logits, 1.0, noise), tokens)


def test_logits_on_a_device_meet_their_noise_there(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = draw_logits(60, 300, np.random.default_rng(0)).astype(np.float32)
    noise = gumbel_noise(STREAM, 60, 5, 300, np.float32)
    on_host = sample_with_noise(logits, 0.8, noise)
    cupy = stand_in_cupy.install(monkeypatch)
    tokens = sample_with_noise(cupy.asarray(logits), 0.8, cupy.asarray(noise))
    assert type(tokens) is np.ndarray
    np.testing.assert_array_equal(tokens, on_host)
    with pytest.raises(TypeError, match="all be CuPy's"):
        sample_with_noise(cupy.asarray(logits), 0.8, noise)


@pytest.mark.gpu
def test_a_gpu_draws_the_same_tokens() -> None:
    cupy = import_cupy()
    logits = draw_logits(60, 1000, np.random.default_rng(0)).astype(np.float32)
    noise = gumbel_noise(STREAM, 60, 5, 1000, np.float32)
    tokens = sample_with_noise(cupy.asarray(logits), 0.8, cupy.asarray(noise))
    np.testing.assert_array_equal(tokens, sample_with_noise(logits, 0.8, noise))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_without_a_distribution_are_refused(bad: float) -> None:
    logits = np.zeros((4, 5), np.float32)
    logits[2] = -np.inf
    logits[2, 3] = bad
    with pytest.raises(FloatingPointError, match="row 2"):
        sample_with_noise(logits, 1.0, np.zeros_like(logits))


@pytest.mark.parametrize(
    ("shape", "dtype", "temperature", "noise"),
    [
        ((4, 5), np.float32, 0.0, (4, 5)),
        ((4, 5), np.float32, -1.0, (4, 5)),
        ((4, 5), np.float32, np.nan, (4, 5)),
        ((4, 5), np.float32, np.inf, (4, 5)),
        ((4, 5), np.float16, 1.0, (4, 5)),
        ((4, 0), np.float32, 1.0, (4, 0)),
        ((4,), np.float32, 1.0, (4,)),
        ((4, 5), np.float32, 1.0, (1, 5)),
        ((4, 5), np.float32, 1.0, (4, 1)),
        ((4, 5), np.float32, 1.0, (5,)),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    shape: Any, dtype: Any, temperature: float, noise: Any
) -> None:
    with pytest.raises(ValueError, match="must be"):
        sample_with_noise(np.zeros(shape, dtype), temperature, np.zeros(noise, dtype))
