from __future__ import annotations

import math
from bisect import bisect_right
from itertools import accumulate
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.arrays import import_cupy
from electra_ref.batch import Batch, SpecialTokens
from electra_ref.gumbel import gumbel_noise, sample_with_noise
from electra_ref.masking import MaskedBatch, mask_tokens
from electra_ref.rng import EVALUATION, Purpose, RandomStream, random_words
from electra_ref.sampling import (
    BLOCK,
    TAYLOR,
    _scale_compiled,
    corrupt,
    draw_tokens,
    draw_tokens_reference,
    forbid,
    integer_weights,
    sample_tokens,
    sample_tokens_reference,
    scale,
)
from electra_ref.uniform_draws import draw_uniform, explore
from tests import stand_in_cupy
from tests.proportions import assert_proportions

SPECIAL = SpecialTokens(pad=0, unknown=1, cls=2, sep=3, mask=4)
STREAM = RandomStream(seed=21, purpose=0, step=3)
SEED = st.integers(0, 2**32 - 1)
WORD64 = st.integers(0, 2**64 - 1)
DTYPE = st.sampled_from([np.float32, np.float64])
LEAST_BITS, MOST_BITS = np.uint64(0), np.uint64(2**64 - 1)

Logits = npt.NDArray[Any]  # (R, V) float32 or float64
Bits = npt.NDArray[np.uint64]  # (R,)


def draw_logits(rows: int, vocabulary: int, rng: np.random.Generator) -> Logits:
    """Return logits of very different spread a row, with some tokens forbidden by -inf."""
    logits = rng.standard_normal((rows, vocabulary)) * 10.0 ** rng.uniform(-2, 2, (rows, 1))
    logits[rng.random((rows, vocabulary)) < 0.1] = -np.inf
    logits[np.arange(rows), rng.integers(0, vocabulary, rows)] = rng.standard_normal(rows)
    return logits


def draw_bits(size: int, rng: np.random.Generator) -> Bits:
    return rng.integers(0, 2**64, size, np.uint64)


# The draw is exact.


@given(bits=WORD64, high=st.integers(0, 2**62), low=st.integers(0, 2**32 - 1))
def test_scaling_is_that_of_whole_numbers(bits: int, high: int, low: int) -> None:
    expected = bits * ((high << 32) + low) >> 64
    words = np.uint64(bits), np.uint64(high), np.uint64(low)
    for form in (scale, _scale_compiled):
        scaled_high, scaled_low = form(*words)
        assert (int(scaled_high) << 32) + int(scaled_low) == expected
        assert 0 <= int(scaled_low) < 2**32


def test_weights_are_exponentials_rounded_down() -> None:
    distances = -np.random.default_rng(0).uniform(0, 45, 200_000)
    distances[:6] = [0.0, -5e-324, -44.0, -1e308, -np.inf, -math.log(2) / 2]
    exact = np.exp(distances.astype(np.longdouble)) * np.longdouble(2) ** 62
    error = integer_weights(distances).astype(np.longdouble) - exact
    assert (np.abs(error) <= 1 + exact * 2.0**-51).all()
    assert integer_weights(distances[:1]) == [2**62]
    assert (len(TAYLOR), TAYLOR[0]) == (14, 1 / math.factorial(13))  # another degree, other bits
    assert not integer_weights(np.array([-44.0, -1e308, -np.inf])).any()


@given(rows=st.integers(1, 5), vocabulary=st.integers(1, 300), dtype=DTYPE, seed=SEED)
def test_kernel_equals_twin_and_whole_number_arithmetic(
    rows: int, vocabulary: int, dtype: Any, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = draw_logits(rows, vocabulary, rng).astype(dtype)
    bits, temperature = draw_bits(rows, rng), rng.uniform(0.3, 3)
    tokens = draw_tokens(logits, temperature, bits)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, draw_tokens_reference(logits, temperature, bits))
    distances = (logits.astype(np.float64) - logits.max(1, keepdims=True)) / temperature
    for row in range(rows):
        sums = list(accumulate(integer_weights(distances[row]).tolist()))
        assert tokens[row] == bisect_right(sums, int(bits[row]) * sums[-1] >> 64)


def test_the_token_changes_at_the_very_bit() -> None:
    """Sums are whole numbers: a carry that is lost moves a border by 2**32 of 2**64 bits."""
    logits = np.random.default_rng(5).standard_normal((1, 2 * BLOCK + 3))
    weights = integer_weights(logits - logits.max())[0].tolist()
    sums = list(accumulate(weights))
    borders = [-(-(total << 64) // sums[-1]) for total in sums[:-1]]  # the first bits past each sum
    bits = np.array([border + step for border in borders for step in (-1, 0)], np.uint64)
    tokens = np.repeat(np.arange(len(sums)), 2)[1:-1]
    rows = np.repeat(logits, bits.size, axis=0)
    np.testing.assert_array_equal(draw_tokens(rows, 1.0, bits), tokens)
    np.testing.assert_array_equal(draw_tokens_reference(rows, 1.0, bits), tokens)


def longdouble_draws(
    logits: Logits, temperature: float, bits: Bits
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Draw from one row (V,) in 64-bit-mantissa arithmetic; say which draws are too close to call.

    A weight here and its exact value differ by two roundings of a distance of at most 44 (relative:
    44 * 2 * 2**-53), 2**-51 of the exponential and one unit of 2**-62; the sums and the target
    are off by no more than that of the total.
    """
    exact = logits.astype(np.longdouble)
    sums = np.exp((exact - exact.max()) / np.longdouble(temperature)).cumsum()
    targets = bits.astype(np.longdouble) / np.longdouble(2) ** 64 * sums[-1]
    margin = sums[-1] * 2.0**-45 + logits.size * 2.0**-61
    tokens = np.searchsorted(sums, targets, "right")
    ties = np.searchsorted(sums, targets - margin) != np.searchsorted(sums, targets + margin)
    return tokens, ties


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="longdouble is float64 here")
@pytest.mark.parametrize(
    ("vocabulary", "rows", "draws"),
    [
        (2, 50, 5000),
        (64, 50, 5000),
        (BLOCK + 1, 50, 5000),
        pytest.param(1000, 50, 5000, marks=pytest.mark.slow),
        (30522, 2, 1000),
    ],
)
def test_a_million_draws_equal_longdouble_on_the_same_bits(
    vocabulary: int, rows: int, draws: int
) -> None:
    rng = np.random.default_rng(vocabulary)
    ties = 0
    for logits in draw_logits(rows, vocabulary, rng).astype(np.float32):
        bits, temperature = draw_bits(draws, rng), rng.uniform(0.5, 2)
        tokens = draw_tokens(np.tile(logits, (draws, 1)), temperature, bits)
        expected, tied = longdouble_draws(logits, temperature, bits)
        assert ((tokens == expected) | tied).all()
        ties += int(tied.sum())
    assert ties <= 1  # about 1e-4 are expected: the exception does not hide errors


def shares(draw: Any, logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return how many of the 2**64 bit patterns select each token, (V,), as a share of them all.

    Exact: the token never decreases with the bits, so the first pattern that selects token v or
    a later one is found by bisection, for all v at once.
    """
    tokens = np.arange(1, logits.size)
    below, least = [-1] * tokens.size, [2**64] * tokens.size
    table = np.tile(logits, (tokens.size, 1))
    for _ in range(65):
        middle = [(a + b) // 2 for a, b in zip(below, least, strict=True)]
        bits = np.array([max(m, 0) for m in middle], np.uint64)
        reached = (draw(table, 1.0, bits) >= tokens) & (np.array(middle) >= 0)
        least = [m if r else b for m, b, r in zip(middle, least, reached, strict=True)]
        below = [a if r else m for m, a, r in zip(middle, below, reached, strict=True)]
    return np.diff([0, *least, 2**64]).astype(np.float64) / 2.0**64


def float64_draws(logits: Logits, temperature: float, bits: Bits) -> npt.NDArray[np.int64]:
    """Draw as is usual: a cumulative sum and a uniform number, both in float64."""
    sums = np.exp((logits - logits.max(1, keepdims=True)) / temperature).cumsum(axis=1)
    targets = (bits >> np.uint64(11)) * 2.0**-53 * sums[:, -1]
    return np.asarray((sums <= targets[:, None]).sum(axis=1))


def worst_share(draw: Any, vocabulary: int, seed: int) -> float:
    """Return the largest relative error of a token's share, for tokens down to -30 nats."""
    rng = np.random.default_rng(seed)
    logits = -rng.uniform(0, 30, vocabulary)
    logits[rng.permutation(vocabulary)[:2]] = 0.0, -30.0
    exact = np.exp(logits.astype(np.longdouble))
    return float(np.abs(shares(draw, logits) / (exact / exact.sum()) - 1).max())


@given(vocabulary=st.integers(2, 60), seed=SEED)
def test_every_token_down_to_30_nats_has_its_share(vocabulary: int, seed: int) -> None:
    assert worst_share(draw_tokens, vocabulary, seed) < 2.0**-17


def test_every_token_of_several_blocks_has_its_share() -> None:
    assert worst_share(draw_tokens, 3 * BLOCK + 5, seed=0) < 2.0**-17


def test_float64_sums_would_not_do() -> None:
    assert worst_share(float64_draws, 60, seed=0) > 2.0**-12


def original_tail_ratio(distance: float) -> float:
    """Return how often the original draws the lower of two logits, relative to its probability.

    Exact: all pairs of the 2**23 values that TensorFlow's float32 uniform numbers take.
    """
    small, uniform = np.float32(1e-9), np.arange(2**23, dtype=np.float32) / np.float32(2**23)
    noise = -np.log(-np.log(uniform + small) + small)  # ascending
    winners = noise[noise > distance - 4] - np.float32(distance)
    pairs = np.searchsorted(noise, winners).sum()
    return float(pairs / 2.0**46 * (1 + math.exp(distance)))


@pytest.mark.parametrize(("distance", "ratio"), [(12, 0.99), (16, 0.56), (18, 0.003), (19, 0.0)])
def test_the_tail_of_the_original_is_cut_off_and_ours_is_not(distance: float, ratio: float) -> None:
    assert original_tail_ratio(distance) == pytest.approx(ratio, abs=0.005)
    share = shares(draw_tokens, np.array([0.0, -float(distance)]))[1]
    assert share * (1 + math.exp(distance)) == pytest.approx(1, rel=2.0**-17)


@given(vocabulary=st.integers(1, 300), dtype=DTYPE, seed=SEED)
def test_forbidden_tokens_are_never_drawn(vocabulary: int, dtype: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = np.full((4, vocabulary), -np.inf, dtype)
    allowed = rng.random(vocabulary) < rng.random()
    allowed[rng.integers(vocabulary)] = True
    logits[:, allowed] = rng.standard_normal(allowed.sum())
    bits = np.array([LEAST_BITS, MOST_BITS, *draw_bits(2, rng)])
    tokens = draw_tokens(logits, 1.0, bits)
    assert allowed[tokens].all()
    assert tokens[0] == np.flatnonzero(allowed)[0]
    assert tokens[1] == np.flatnonzero(allowed)[-1]


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e300])
def test_extreme_logits_and_temperatures_do_no_harm(temperature: float) -> None:
    logits = np.array([[-1e308, 0.0, 1e308, 1e308, -np.inf]])
    for draw in (draw_tokens, draw_tokens_reference):
        assert draw(logits, temperature, np.array([LEAST_BITS])) == [2]
        assert draw(logits, temperature, np.array([MOST_BITS])) == [3]


# Frequencies.


def frequencies(temperature: float, cells: npt.NDArray[np.int64]) -> tuple[Any, int]:
    """Count 1,000,000 draws at ``temperature`` by the cell (V,) of the token; return the trials."""
    counts = np.zeros(cells.max() + 1, np.int64)
    logits = np.tile(np.linspace(0, -12, cells.size).astype(np.float32), (100_000, 1))
    for step in range(10):
        tokens = sample_tokens(logits, temperature, STREAM._replace(step=step), slots=20)
        counts += np.bincount(cells[tokens], minlength=counts.size)
    return counts, 1_000_000


def test_frequencies_follow_the_softmax() -> None:
    """Single tokens as far as they are frequent, the rare ones pooled: down to 12 nats."""
    cells = np.minimum(np.arange(48), 16)
    logits = np.linspace(0, -12, 48).astype(np.float32).astype(np.float64) / 0.8
    probabilities = np.bincount(cells, np.exp(logits) / np.exp(logits).sum())
    counts, trials = frequencies(0.8, cells)
    assert_proportions(counts, trials, probabilities, detect=0.25)
    assert_proportions(counts[:4], trials, probabilities[:4], detect=0.035)
    warmer, trials = frequencies(0.8 * 1.05, cells)
    with pytest.raises(AssertionError, match="expected"):
        assert_proportions(warmer[:4], trials, probabilities[:4], detect=0.035)


# Streams.


@given(examples=st.integers(1, 4), slots=st.integers(1, 5), dtype=DTYPE, seed=SEED)
def test_sampling_equals_twin_and_takes_two_words_a_slot(
    examples: int, slots: int, dtype: Any, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = draw_logits(examples * slots, 30, rng).astype(dtype)
    stream = STREAM._replace(seed=seed)
    tokens = sample_tokens(logits, 0.7, stream, slots)
    np.testing.assert_array_equal(tokens, sample_tokens_reference(logits, 0.7, stream, slots))
    words = random_words(stream.of(Purpose.SAMPLE), examples, 2 * slots).ravel().tolist()
    bits = [(high << 32) + low for high, low in zip(words[::2], words[1::2], strict=True)]
    np.testing.assert_array_equal(tokens, draw_tokens(logits, 0.7, np.array(bits, np.uint64)))


def test_micro_batches_draw_what_the_batch_draws_and_steps_and_evaluation_draw_anew() -> None:
    logits = np.zeros((6 * 4, 1000), np.float32)
    whole = sample_tokens(logits, 1.0, STREAM, slots=4)
    part = sample_tokens(logits[:8], 1.0, STREAM._replace(first_example=4), slots=4)
    np.testing.assert_array_equal(part, whole[16:])
    for other in (STREAM._replace(step=4), STREAM._replace(seed=22), STREAM.of(EVALUATION)):
        assert (sample_tokens(logits, 1.0, other, slots=4) != whole).any()


def test_thread_counts_give_the_same_tokens() -> None:
    logits = draw_logits(50, 1000, np.random.default_rng(0))
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        alone = sample_tokens(logits, 1.0, STREAM, slots=5)
    finally:
        numba.set_num_threads(threads)
    np.testing.assert_array_equal(alone, sample_tokens(logits, 1.0, STREAM, slots=5))


def test_views_and_read_only_logits_give_the_same_tokens() -> None:
    logits = draw_logits(8, 300, np.random.default_rng(0))
    tokens = sample_tokens(logits, 1.0, STREAM, slots=2)
    transposed = np.asfortranarray(logits)
    transposed.flags.writeable = False
    np.testing.assert_array_equal(sample_tokens(transposed, 1.0, STREAM, slots=2), tokens)


def test_logits_on_a_device_are_weighed_there(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = draw_logits(60, 300, np.random.default_rng(0)).astype(np.float32)
    on_host = sample_tokens(logits, 0.8, STREAM, slots=5)
    cupy = stand_in_cupy.install(monkeypatch)
    tokens = sample_tokens(cupy.asarray(logits), 0.8, STREAM, slots=5)
    assert type(tokens) is np.ndarray
    np.testing.assert_array_equal(tokens, on_host)


@pytest.mark.gpu
def test_a_gpu_draws_the_same_tokens() -> None:
    cupy = import_cupy()
    logits = draw_logits(60, 1000, np.random.default_rng(0)).astype(np.float32)
    on_host = sample_tokens(logits, 0.8, STREAM, slots=5)
    np.testing.assert_array_equal(
        sample_tokens(cupy.asarray(logits), 0.8, STREAM, slots=5), on_host
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sample", [sample_tokens, sample_tokens_reference])
def test_logits_without_a_distribution_are_refused(sample: Any, bad: float) -> None:
    logits = np.zeros((4, 5), np.float32)
    logits[2] = -np.inf
    logits[2, 3] = bad
    with pytest.raises(FloatingPointError, match="row 2"):
        sample(logits, 1.0, STREAM, 2)


@pytest.mark.parametrize(
    ("shape", "dtype", "temperature", "slots"),
    [
        ((4, 5), np.float32, 0.0, 2),
        ((4, 5), np.float32, -1.0, 2),
        ((4, 5), np.float32, np.nan, 2),
        ((4, 5), np.float32, np.inf, 2),
        ((4, 5), np.float16, 1.0, 2),
        ((4, 5), np.float32, 1.0, 3),
        ((4, 5), np.float32, 1.0, 0),
        ((4, 0), np.float32, 1.0, 2),
        ((4,), np.float32, 1.0, 2),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    shape: Any, dtype: Any, temperature: float, slots: int
) -> None:
    with pytest.raises(ValueError, match="must be"):
        sample_tokens(np.zeros(shape, dtype), temperature, STREAM, slots)


# Forbidding.


@given(rows=st.integers(1, 6), vocabulary=st.integers(2, 50), dtype=DTYPE, seed=SEED)
def test_forbid_changes_one_logit_a_row_in_a_copy(
    rows: int, vocabulary: int, dtype: Any, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((rows, vocabulary)).astype(dtype)
    ids = rng.integers(0, vocabulary, rows, np.int32)
    expected = logits.tolist()
    for row, token in enumerate(ids):
        expected[row][token] = -math.inf
    logits.flags.writeable = False
    allowed = forbid(logits, ids)
    assert allowed.dtype == dtype
    assert allowed.tolist() == expected


@pytest.mark.parametrize("temperature", [0.1, 1.0, 50.0])
def test_a_forbidden_token_is_never_drawn_however_likely_it_was(temperature: float) -> None:
    """The others keep their shares: with the best token forbidden, each of 4 has a quarter."""
    logits = np.tile(np.array([0, 0, 5000, 0, 0], np.float32), (100_000, 1))
    allowed = forbid(logits, np.full(100_000, 2, np.int32))
    tokens = sample_tokens(allowed, temperature, STREAM, slots=10)
    counts = np.bincount(tokens, minlength=5)
    assert counts[2] == 0
    assert_proportions(counts[[0, 1, 3, 4]], 100_000, 0.25, detect=0.06)


def test_the_only_token_cannot_be_forbidden() -> None:
    allowed = forbid(np.zeros((4, 1), np.float32), np.zeros(4, np.int32))
    with pytest.raises(FloatingPointError, match="row 0"):
        sample_tokens(allowed, 1.0, STREAM, 2)


@pytest.mark.parametrize("ids", [[0, 1, 5], [0, -1, 2], [0, 1], [[0, 1, 2]], 0])
def test_ids_that_do_not_fit_are_refused(ids: Any) -> None:
    with pytest.raises(ValueError, match="ids must be 3 numbers"):
        forbid(np.zeros((3, 5), np.float32), np.array(ids))


def test_logits_on_a_device_are_forbidden_there(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, ids = draw_logits(6, 30, np.random.default_rng(0)), np.arange(6)
    cupy = stand_in_cupy.install(monkeypatch)
    allowed = forbid(cupy.asarray(logits), ids)
    assert type(allowed) is type(cupy.asarray(logits))
    np.testing.assert_array_equal(cupy.asnumpy(allowed), forbid(logits, ids))


@pytest.mark.gpu
def test_a_gpu_forbids_the_same_tokens() -> None:
    cupy = import_cupy()
    logits, ids = draw_logits(6, 30, np.random.default_rng(0)), np.arange(6)
    expected = forbid(logits, ids)
    for somewhere in (ids, cupy.asarray(ids)):
        allowed = forbid(cupy.asarray(logits), somewhere)
        np.testing.assert_array_equal(cupy.asnumpy(allowed), expected)


# Corrupting.


@given(rows=st.integers(1, 5), length=st.integers(1, 20), seed=SEED)
def test_samples_replace_the_tokens_of_used_slots_and_nothing_else(
    rows: int, length: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 4, (rows, length)).astype(np.int32)  # few ids: samples often agree
    slots = int(rng.integers(1, length + 1))
    counts = rng.integers(0, slots + 1, rows)
    weights = np.arange(slots) < counts[:, None]
    positions = np.zeros((rows, slots), np.int32)
    for row, count in enumerate(counts):
        positions[row, :count] = np.sort(rng.permutation(length)[:count])
    batch = Batch(ids, np.zeros_like(ids), np.ones_like(ids, np.bool_))
    hidden = np.full_like(ids, 9)  # what the generator read must not matter here
    masked = MaskedBatch(batch, hidden, positions, np.zeros_like(positions), weights)
    samples = rng.integers(0, 4, (rows, slots)).astype(np.int32)

    corrupted = corrupt(masked, samples.ravel())

    expected = ids.tolist()
    for row, count in enumerate(counts):
        for slot in range(count):
            expected[row][positions[row, slot]] = int(samples[row, slot])
    assert corrupted.corrupted_ids.tolist() == expected
    assert corrupted.corrupted_ids.dtype == np.int32
    np.testing.assert_array_equal(corrupted.replaced, np.array(expected) != ids)
    np.testing.assert_array_equal(corrupted.sampled_ids, samples)
    assert corrupted.masked is masked
    assert corrupted.corrupted_ids is not ids


def test_another_number_of_samples_is_refused() -> None:
    ids = np.zeros((2, 4), np.int32)
    batch = Batch(ids, ids, np.ones_like(ids, np.bool_))
    masked = MaskedBatch(batch, ids, ids[:, :2], ids[:, :2], np.ones((2, 2), np.bool_))
    with pytest.raises(ValueError, match="reshape"):
        corrupt(masked, np.zeros(3, np.int32))


def draw_samples(how: str, labels: Any, stream: RandomStream) -> npt.NDArray[np.int32]:
    """Draw a token for each of ``labels`` (B, M) among 9, of which five are special."""
    slots, correct = labels.shape[1], labels.ravel()
    logits = np.random.default_rng(0).standard_normal((labels.size, 9))
    noise = gumbel_noise(stream, labels.size, slots, 9, np.float64)
    uniform = stream, labels.size, slots, 9, SPECIAL
    samples: Any
    match how.split():
        case ["softmax"]:
            samples = sample_tokens(logits, 1.0, stream, slots)
        case ["softmax", "wrong"]:
            samples = sample_tokens(forbid(logits, correct), 1.0, stream, slots)
        case ["noise"]:
            samples = sample_with_noise(logits, 1.0, noise)
        case ["noise", "wrong"]:
            samples = sample_with_noise(forbid(logits, correct), 1.0, noise)
        case ["uniform"]:
            samples = draw_uniform(*uniform, None)
        case ["uniform", "wrong"]:
            samples = draw_uniform(*uniform, correct)
        case ["explore"]:
            samples = sample_tokens(logits, 1.0, stream, slots)
            samples = explore(samples, 0.5, stream, slots, 9, SPECIAL, None)
        case ["explore", "wrong"]:
            samples = sample_tokens(forbid(logits, correct), 1.0, stream, slots)
            samples = explore(samples, 0.5, stream, slots, 9, SPECIAL, correct)
    return np.asarray(samples)


@pytest.mark.parametrize("exclude", ["", " wrong"])
@pytest.mark.parametrize("how", ["softmax", "noise", "uniform", "explore"])
def test_a_sample_that_equals_the_original_counts_as_original(how: str, exclude: str) -> None:
    """Unless the original is excluded, both kinds occur; otherwise every used slot is replaced."""
    ids = np.random.default_rng(1).integers(5, 9, (40, 20)).astype(np.int32)
    batch = Batch(ids, np.zeros_like(ids), np.ones_like(ids, np.bool_))
    batch.attention_mask[:20, 10:] = False
    masked = mask_tokens(batch, SPECIAL, 0.3, STREAM)
    samples = draw_samples(how + exclude, masked.labels, STREAM)
    replaced = corrupt(masked, samples).replaced
    at_slots = np.take_along_axis(replaced, masked.positions, axis=1)[masked.weights]
    used = masked.weights.ravel()
    np.testing.assert_array_equal(at_slots, (samples != masked.labels.ravel())[used])
    assert replaced.sum() == at_slots.sum()
    assert at_slots.all() == bool(exclude)
    assert at_slots.any()
