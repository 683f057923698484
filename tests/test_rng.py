from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from electra_ref.rng import (
    EVALUATION,
    SORTED_COUNT,
    WORDS_PER_TASK,
    Purpose,
    RandomStream,
    dropout_bits,
    philox4x32,
    philox_block,
    random_words,
    random_words_reference,
    shuffled,
    shuffled_reference,
)
from tests.proportions import assert_proportions

WORD = st.integers(0, 2**32 - 1)
SEED = st.integers(0, 2**64 - 1)
STREAMS = st.builds(RandomStream, SEED, WORD, WORD, st.integers(0, 2**32 - 6))
STREAM = RandomStream(seed=3, purpose=Purpose.MASK, step=5)

# Random123's file tests/kat_vectors, lines "philox4x32 10": counter, key, words.
KNOWN_ANSWERS = [
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def words_of(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_words(counter: str, key: str, expected: str) -> None:
    words = philox4x32(np.array(words_of(counter), np.uint32), np.array(words_of(key), np.uint32))
    assert words.tolist() == words_of(expected)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_the_kernel_gives_the_published_words(counter: str, key: str, expected: str) -> None:
    c0, c1, c2, c3 = map(np.uint64, words_of(counter))
    k0, k1 = map(np.uint64, words_of(key))
    assert list(philox_block(c0, c1, c2, c3, (k0, k1))) == words_of(expected)


@given(stream=STREAMS, examples=st.integers(0, 6), count=st.integers(0, 40))
@example(stream=STREAM, examples=2, count=2 * WORDS_PER_TASK + 3)
@example(stream=STREAM, examples=3, count=WORDS_PER_TASK)
def test_kernel_equals_twin(stream: RandomStream, examples: int, count: int) -> None:
    words = random_words(stream, examples, count)
    assert words.shape == (examples, count)
    assert words.dtype == np.uint32
    np.testing.assert_array_equal(words, random_words_reference(stream, examples, count))


def test_twin_gives_philox_of_block_example_step_and_purpose() -> None:
    stream = RandomStream(seed=0x99999999_11111111, purpose=7, step=6, first_example=40)
    words = random_words_reference(stream, 3, 11)
    block = philox4x32(
        np.array([2, 42, 6, 7], np.uint32), np.array([0x11111111, 0x99999999], np.uint32)
    )
    assert words[2, 8:].tolist() == block[:3].tolist()


@given(stream=STREAMS, first=st.integers(0, 4), count=st.integers(1, 20))
def test_a_micro_batch_draws_what_the_batch_draws(
    stream: RandomStream, first: Any, count: int
) -> None:
    whole = random_words(stream, 5, count)
    part = random_words(
        stream._replace(first_example=stream.first_example + first), 5 - first, count
    )
    np.testing.assert_array_equal(part, whole[first:])


def test_no_two_uses_share_their_words() -> None:
    """The first 64 bits of 30,000 places differ; by chance two agree with probability 3e-11."""
    purposes = [*Purpose, *(p | EVALUATION for p in Purpose), Purpose.DROPOUT + 1]
    places = [
        random_words(RandomStream(seed, purpose, step), 200, 2)
        for seed in (0, 1, 2**32)
        for purpose in purposes
        for step in range(3)
    ]
    prefixes = np.concatenate(places).view(np.uint64)
    assert prefixes.size == 3 * len(purposes) * 3 * 200
    assert np.unique(prefixes).size == prefixes.size


def test_of_keeps_the_mark_of_an_evaluation() -> None:
    assert STREAM.of(Purpose.SAMPLE).purpose == Purpose.SAMPLE
    marked = STREAM._replace(purpose=EVALUATION).of(Purpose.SAMPLE)
    assert marked == STREAM._replace(purpose=EVALUATION | Purpose.SAMPLE)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("seed", 2**64, "seed"),
        ("seed", -1, "seed"),
        ("purpose", 2**32, "purpose"),
        ("step", 2**32, "step"),
        ("step", -1, "step"),
        ("first_example", 2**32, "first_example"),
        ("first_example", 2**32 - 1, "last example"),
    ],
)
@pytest.mark.parametrize("draw", [random_words, random_words_reference])
def test_numbers_that_do_not_fit_are_refused(draw: Any, field: str, value: int, named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named} must be in"):
        draw(STREAM._replace(**{field: value}), 2, 4)


@pytest.mark.parametrize(("examples", "count"), [(-1, 4), (2, -1), (1, 2**34), (2**32, 1)])
def test_sizes_that_do_not_fit_are_refused(examples: int, count: int) -> None:
    with pytest.raises(ValueError, match="must be in"):
        random_words(STREAM, examples, count)


def test_thread_counts_give_the_same_words() -> None:
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        alone = random_words(STREAM, 5, 3 * WORDS_PER_TASK + 1)
    finally:
        numba.set_num_threads(threads)
    np.testing.assert_array_equal(alone, random_words(STREAM, 5, 3 * WORDS_PER_TASK + 1))


@given(stream=STREAMS, examples=st.integers(0, 3), count=st.integers(0, 9))
def test_dropout_bits_are_the_halves_of_the_words_low_half_first(
    stream: RandomStream, examples: int, count: int
) -> None:
    words = random_words(stream, examples, count).tolist()
    halves = [[half for word in row for half in (word & 0xFFFF, word >> 16)] for row in words]
    bits = dropout_bits(stream, examples, count)
    assert bits.dtype == np.uint16
    assert bits.flags.c_contiguous
    assert bits.tolist() == [row[:count] for row in halves]


def test_words_and_bits_are_uniform() -> None:
    """Each bit of a word is set half the time; each byte of a 16-bit number takes all values."""
    words = random_words(STREAM, 50, 10_000).ravel()
    set_bits = [int((words >> np.uint32(bit) & np.uint32(1)).sum()) for bit in range(32)]
    assert_proportions(set_bits, words.size, 0.5, detect=0.02)
    bits = dropout_bits(STREAM, 50, 200_000).ravel()
    for byte in (bits & 255, bits >> 8):
        assert_proportions(np.bincount(byte, minlength=256), bits.size, 1 / 256, detect=0.06)


@pytest.mark.parametrize("count", [*range(1, 40), 255, 256, 257, 258, 300, 1023, 1024, 1025, 4999])
def test_shuffled_is_a_bijection(count: int) -> None:
    entries = shuffled(np.arange(count), count, seed=7, epoch=2)
    assert entries.dtype == np.int64
    np.testing.assert_array_equal(np.sort(entries), np.arange(count))


@given(
    count=st.one_of(st.integers(1, 2000), st.integers(1, 2**63 - 1)),
    seed=SEED,
    epoch=WORD,
    numbers=st.integers(0, 2**32 - 1),
)
@example(count=2**63 - 1, seed=0, epoch=0, numbers=0)
@example(count=SORTED_COUNT + 1, seed=2**64 - 1, epoch=2**32 - 1, numbers=0)
def test_shuffled_equals_twin_and_stays_in_range(
    count: int, seed: int, epoch: int, numbers: int
) -> None:
    positions = np.random.default_rng(numbers).integers(0, count, (3, 4))
    entries = shuffled(positions, count, seed, epoch)
    assert entries.shape == positions.shape
    assert ((entries >= 0) & (entries < count)).all()
    np.testing.assert_array_equal(entries, shuffled_reference(positions, count, seed, epoch))


@pytest.mark.parametrize("count", [100, 1000])
def test_shuffled_depends_on_seed_and_epoch_and_not_on_what_else_is_asked(count: int) -> None:
    positions = np.arange(count)
    entries = shuffled(positions, count, seed=1, epoch=1)
    for seed, epoch in [(2, 1), (1, 2), (1 + 2**32, 1)]:
        assert (shuffled(positions, count, seed, epoch) != entries).mean() > 0.9
    assert shuffled(17, count, seed=1, epoch=1) == entries[17]
    np.testing.assert_array_equal(positions, np.arange(count))


def test_a_short_order_is_any_order_equally_often() -> None:
    orders = np.array([shuffled(np.arange(3), 3, seed=0, epoch=e) for e in range(4000)])
    counts = np.unique(orders @ [9, 3, 1], return_counts=True)[1]
    assert counts.size == 6
    assert_proportions(counts, len(orders), 1 / 6, detect=0.4)


def test_half_of_the_short_orders_are_odd() -> None:
    """A Feistel network on 9 = 3 * 3 entries would make every order even."""
    orders = np.array([shuffled(np.arange(9), 9, seed=0, epoch=e) for e in range(1000)])
    inversions = np.sum([orders[:, i] > orders[:, j] for j in range(9) for i in range(j)], axis=0)
    assert_proportions((inversions % 2).sum(), len(orders), 0.5, detect=0.4)


@pytest.mark.parametrize("count", [2**19, 10**6 + 3])
def test_neighbours_come_apart(count: int) -> None:
    """The distance between the entries of neighbouring positions falls into 16 equal parts.

    Distances within a permutation depend on each other a little, by about 1 / count.
    """
    entries = shuffled(np.arange(400_001), count, seed=5, epoch=9)
    distances = np.diff(entries) % count
    counts = np.bincount(distances * 16 // count, minlength=16)
    assert_proportions(counts, distances.size, 1 / 16, detect=0.08)


@pytest.mark.parametrize(
    ("positions", "count", "seed", "epoch", "named"),
    [
        ([3], 3, 0, 0, "positions"),
        ([-1], 3, 0, 0, "positions"),
        ([0.5], 3, 0, 0, "positions"),
        ([0], 3, 2**64, 0, "seed"),
        ([0], 3, 0, 2**32, "epoch"),
        ([0], 1000, 0, 2**32, "epoch"),
        ([0], 0, 0, 0, "positions"),
        ([0], 2**63, 0, 0, "count"),
    ],
)
def test_shuffled_refuses_what_is_out_of_range(
    positions: Any, count: int, seed: int, epoch: int, named: str
) -> None:
    with pytest.raises(ValueError, match=f"^{named} must be"):
        shuffled(positions, count, seed, epoch)
