from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from electra_ref.batch import SpecialTokens
from electra_ref.errors import UserError
from electra_ref.rng import EVALUATION, Purpose, RandomStream, random_words
from electra_ref.sampling import scale
from electra_ref.uniform_draws import draw_uniform, explore
from tests.proportions import assert_proportions

SPECIAL = SpecialTokens(pad=0, unknown=3, cls=8, sep=7, mask=15)
ORDINARY = [1, 2, 4, 5, 6, 9, 10, 11, 12, 13, 14]
VOCABULARY = 16
STREAM = RandomStream(seed=5, purpose=0, step=3)
ROWS = 300_000
SEED = st.integers(0, 2**32 - 1)

Ids = npt.NDArray[np.int32]


def draw(rows: int, excluded: Ids | None, stream: RandomStream = STREAM, slots: int = 1) -> Ids:
    return draw_uniform(stream, rows, slots, VOCABULARY, SPECIAL, excluded)


def words_of(purpose: Purpose, stream: RandomStream, rows: int, slots: int, count: int) -> Any:
    """Return ``count`` words for each row, as lists of whole numbers."""
    words = random_words(stream.of(purpose), rows // slots, slots * count)
    return words.reshape(rows, count).tolist()


def draw_slowly(stream: RandomStream, rows: int, slots: int, excluded: Ids | None) -> list[int]:
    """Draw with Python's whole numbers from the list of the allowed tokens."""
    tokens = []
    for row, (high, low) in enumerate(words_of(Purpose.UNIFORM, stream, rows, slots, 2)):
        barred = None if excluded is None else excluded[row]
        allowed = [token for token in ORDINARY if token != barred]
        tokens.append(allowed[((high << 32) + low) * len(allowed) >> 64])
    return tokens


@given(bits=st.integers(0, 2**64 - 1), count=st.integers(1, 2**32 - 1))
@example(bits=2**63, count=3)
@example(bits=2**64 - 1, count=2**32 - 1)
def test_ranks_are_those_of_whole_numbers(bits: int, count: int) -> None:
    rank = bits * count >> 64
    first = -((-rank << 64) // count)  # the least bits that give this rank
    all_bits = [bits, first, max(first - 1, 0), 2**64 - 1]
    counts = np.full(4, count, np.uint64)
    high, ranks = scale(np.array(all_bits, np.uint64), np.uint64(0), counts)
    assert not high.any()
    assert ranks[1] == rank
    assert ranks.tolist() == [b * count >> 64 for b in all_bits]


@given(
    examples=st.integers(0, 5),
    slots=st.integers(1, 4),
    exclude=st.booleans(),
    first=st.integers(0, 9),
    seed=SEED,
)
def test_draws_equal_those_from_the_list_of_allowed_tokens(
    examples: int, slots: int, exclude: bool, first: int, seed: int
) -> None:
    rows, stream = examples * slots, STREAM._replace(seed=seed, first_example=first)
    ids = np.random.default_rng(seed).integers(-1, VOCABULARY + 2, rows).astype(np.int32)
    excluded = ids if exclude else None
    tokens = draw(rows, excluded, stream, slots)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == draw_slowly(stream, rows, slots, excluded)


@pytest.mark.parametrize("barred", [None, 0, 1, 6, 14, 15])
def test_every_ordinary_token_is_drawn_equally_often_and_no_other(barred: int | None) -> None:
    excluded = None if barred is None else np.full(ROWS, barred, np.int32)
    counts = np.bincount(draw(ROWS, excluded), minlength=VOCABULARY)
    allowed = [token for token in ORDINARY if token != barred]
    assert counts[allowed].sum() == ROWS
    assert_proportions(counts[allowed], ROWS, 1 / len(allowed), detect=0.06)


def next_in_place_of_the_excluded(bits: Any) -> Any:
    """Draw from all 11 tokens; a hit of the excluded one gives its neighbour."""
    ranks = bits * 11 >> np.uint64(32)
    return ranks + (ranks == 5)


def remainders(bits: Any) -> Any:
    """Take the remainder of 7 bits by 11: the first 7 of 11 occur 12 times, the others 11 times."""
    return (bits & np.uint64(127)) % np.uint64(11)


@pytest.mark.parametrize("biased", [next_in_place_of_the_excluded, remainders])
def test_a_biased_draw_is_found(biased: Any) -> None:
    bits = random_words(STREAM, 1, ROWS)[0].astype(np.uint64)
    counts = np.bincount(biased(bits).astype(np.int64), minlength=11)
    cells = np.flatnonzero(counts)
    with pytest.raises(AssertionError, match="expected"):
        assert_proportions(counts[cells], ROWS, 1 / cells.size, detect=0.06)


@pytest.mark.parametrize(
    ("vocabulary", "excluded", "drawn"),
    [(5, None, None), (5, 3, None), (6, None, 5), (6, 3, 5), (6, 5, None), (7, 5, 6), (7, 6, 5)],
)
def test_a_row_without_a_token_is_refused(
    vocabulary: int, excluded: int | None, drawn: int | None
) -> None:
    special = SpecialTokens(*range(5))
    ids = None if excluded is None else np.full(4, excluded, np.int32)
    if drawn is None:
        with pytest.raises(UserError, match=f"has {vocabulary - 5} tokens besides the special"):
            draw_uniform(STREAM, 4, 2, vocabulary, special, ids)
    else:
        assert (draw_uniform(STREAM, 4, 2, vocabulary, special, ids) == drawn).all()


def test_one_row_without_a_token_is_enough() -> None:
    ids = np.array([0, 0, 5, 0], np.int32)
    with pytest.raises(UserError, match="must have 2 or more"):
        draw_uniform(STREAM, 4, 2, 6, SpecialTokens(*range(5)), ids)


@pytest.mark.parametrize(("rows", "slots"), [(4, 3), (4, 0), (4, -2)])
def test_rows_that_are_no_whole_examples_are_refused(rows: int, slots: int) -> None:
    with pytest.raises(ValueError, match="rows must be"):
        draw(rows, None, slots=slots)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 2), ()])
def test_another_number_of_excluded_ids_is_refused(shape: Any) -> None:
    with pytest.raises(ValueError, match="excluded must be"):
        draw(4, np.ones(shape, np.int32))


# Exploring.


def explored(
    ids: Ids, probability: float, stream: RandomStream = STREAM, excluded: Ids | None = None
) -> Ids:
    """Explore with four slots an example."""
    return explore(ids, probability, stream, 4, VOCABULARY, SPECIAL, excluded)


@given(
    probability=st.floats(0, 1),
    examples=st.integers(1, 6),
    exclude=st.booleans(),
    seed=SEED,
)
def test_a_word_below_the_probability_takes_the_uniform_token(
    probability: float, examples: int, exclude: bool, seed: int
) -> None:
    rows, stream = 4 * examples, STREAM._replace(seed=seed)
    rng = np.random.default_rng(seed)
    ids, excluded = rng.integers(0, VOCABULARY, (2, rows)).astype(np.int32)
    before = ids.copy()
    tokens = explored(ids, probability, stream, excluded if exclude else None)
    uniform = draw_slowly(stream, rows, 4, excluded if exclude else None)
    words = words_of(Purpose.EXPLORE, stream, rows, 4, 1)
    expected = [
        new if word < int(probability * 2**32) else old
        for old, new, (word,) in zip(ids, uniform, words, strict=True)
    ]
    assert tokens.tolist() == expected
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(ids, before)


def test_probability_0_changes_nothing_and_1_everything() -> None:
    ids = np.full(ROWS, 100, np.int32)
    np.testing.assert_array_equal(explored(ids, 0.0), ids)
    np.testing.assert_array_equal(explored(ids, 1.0), draw(ROWS, None, slots=4))


def test_explored_slots_and_their_tokens_are_independent() -> None:
    """An id that is never drawn shows which rows were left as they were."""
    probability = 0.4
    counts = np.bincount(explored(np.full(ROWS, 100, np.int32), probability), minlength=101)
    shares = np.array([probability / len(ORDINARY)] * len(ORDINARY))
    assert counts[[*ORDINARY, 100]].sum() == ROWS
    assert_proportions(counts[ORDINARY], ROWS, shares, detect=0.1)
    assert_proportions(counts[100], ROWS, 1 - probability, detect=0.02)
    with pytest.raises(AssertionError, match="expected"):
        assert_proportions(counts[100], ROWS, 1 - 1.04 * probability, detect=0.02)


@pytest.mark.parametrize("probability", [-0.1, 1.1, np.nan, -1e-300])
def test_a_probability_that_is_none_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match="probability must be"):
        explored(np.zeros(4, np.int32), probability)


# Streams.


@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_micro_batches_draw_what_the_batch_draws_and_steps_and_evaluation_draw_anew(
    probability: float,
) -> None:
    ids = np.full(400, 100, np.int32)
    whole = explored(ids, probability)
    part = explored(ids[:200], probability, STREAM._replace(first_example=50))
    np.testing.assert_array_equal(part, whole[200:])
    for other in (STREAM._replace(step=4), STREAM._replace(seed=6), STREAM.of(EVALUATION)):
        anew = explored(ids, probability, other)
        assert (anew != whole).sum() > 100
        assert ((anew == 100) != (whole == 100)).any() == (probability < 1)
