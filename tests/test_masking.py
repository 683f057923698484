from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import comb
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from electra_ref.batch import Batch, SpecialTokens
from electra_ref.errors import UserError
from electra_ref.masking import (
    MASK_BELOW,
    MaskedBatch,
    _choose_positions,
    _keys,
    mask_tokens,
    mask_tokens_reference,
    masked_slots,
)
from electra_ref.rng import EVALUATION, Purpose, RandomStream, random_words
from tests.proportions import assert_proportions

SPECIAL = SpecialTokens(pad=0, unknown=1, cls=2, sep=3, mask=4)
STREAM = RandomStream(seed=11, purpose=0, step=3)


def packed(ids: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64]) -> Batch:
    """Return ``ids`` (B, T) with everything from ``lengths`` (B,) on as padding."""
    attention_mask = np.arange(ids.shape[1]) < lengths[:, None]
    ids = np.where(attention_mask, ids, SPECIAL.pad).astype(np.int32)
    return Batch(ids, np.zeros_like(ids), attention_mask)


def draw_batch(rows: int, length: int, rng: np.random.Generator) -> Batch:
    """Return rows of random length: a third of the tokens special, some rows hold nothing else."""
    ids = rng.integers(0, 15, (rows, length))
    ids[rng.random(rows) < 0.05] = SPECIAL.cls
    return packed(ids.astype(np.int32), rng.integers(0, length + 1, rows))


def ordinary_batch(rows: int, length: int) -> Batch:
    """Return rows [CLS] x x ... x [SEP] without padding: length - 2 candidates each."""
    ids = np.full((rows, length), 7, np.int32)
    ids[:, 0], ids[:, -1] = SPECIAL.cls, SPECIAL.sep
    return packed(ids, np.full(rows, length))


def assert_equal(a: MaskedBatch, b: MaskedBatch) -> None:
    for name, left, right in zip(a._fields[1:], a[1:], b[1:], strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right, err_msg=name)


def chosen(masked: MaskedBatch) -> npt.NDArray[np.bool_]:
    """Return which positions were chosen, (B, T)."""
    found = np.zeros(masked.batch.input_ids.shape, np.bool_)
    rows, slots = np.nonzero(masked.weights)
    found[rows, masked.positions[rows, slots]] = True
    return found


def check_rows(masked: MaskedBatch, probability: float) -> None:
    """Assert everything that must hold of a row whatever was drawn."""
    ids, _, attention_mask = masked.batch
    slots = int((probability + 0.005) * ids.shape[1])
    candidates = attention_mask & ~np.isin(
        ids, [SPECIAL.pad, SPECIAL.cls, SPECIAL.sep, SPECIAL.mask]
    )
    wanted = np.clip(np.round(probability * attention_mask.sum(1)), 1, slots)
    counts = np.minimum(wanted, candidates.sum(1))
    found = chosen(masked)
    np.testing.assert_array_equal(masked.weights, np.arange(slots) < counts[:, None])
    np.testing.assert_array_equal(found.sum(1), counts)  # as many positions as slots: all distinct
    assert not (found & ~candidates).any()
    ascending = np.diff(masked.positions, axis=1) > 0
    assert ascending[masked.weights[:, 1:]].all()
    assert not masked.positions[~masked.weights].any()
    original = np.take_along_axis(ids, masked.positions, 1)
    np.testing.assert_array_equal(masked.labels, np.where(masked.weights, original, 0))
    changed = masked.masked_ids != ids
    assert not (changed & ~found).any()
    assert (masked.masked_ids[changed] == SPECIAL.mask).all()


@given(
    rows=st.integers(1, 6),
    length=st.integers(1, 40),
    probability=st.floats(0.01, 0.9),
    stream=st.builds(
        RandomStream, st.integers(0, 2**64 - 1), st.just(0), st.integers(0, 9), st.just(5)
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_kernel_equals_twin_and_both_obey_the_rules(
    rows: int, length: int, probability: float, stream: RandomStream, seed: int
) -> None:
    assume(int((probability + 0.005) * length) >= 1)
    batch = draw_batch(rows, length, np.random.default_rng(seed))
    before = batch.input_ids.copy()
    masked = mask_tokens(batch, SPECIAL, probability, stream)
    check_rows(masked, probability)
    assert_equal(masked, mask_tokens_reference(batch, SPECIAL, probability, stream))
    np.testing.assert_array_equal(batch.input_ids, before)


def test_a_word_hides_its_token_with_probability_85_percent() -> None:
    assert abs(MASK_BELOW / 2**32 - 0.85) < 2**-32


@pytest.mark.parametrize("steps", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_many_rows_obey_the_rules(steps: int) -> None:
    rng = np.random.default_rng(0)
    for step in range(steps):
        batch = draw_batch(50_000, 24, rng)
        check_rows(mask_tokens(batch, SPECIAL, 0.15, STREAM._replace(step=step)), 0.15)


@pytest.mark.parametrize(("probability", "one_less"), [(0.15, [190, 350, 390]), (0.25, [])])
def test_counts_are_those_of_the_original_but_for_halves(
    probability: float, one_less: list[int]
) -> None:
    """The original multiplies in float32; Python's fractions say which of the two is right."""
    lengths = np.arange(1, 513)
    batch = packed(np.full((512, 512), 7, np.int32), lengths)
    counts = mask_tokens(batch, SPECIAL, probability, STREAM).weights.sum(axis=1)
    exact = [round(Fraction(str(probability)) * t) for t in range(1, 513)]
    slots = int((probability + 0.005) * 512)
    np.testing.assert_array_equal(counts, np.clip(exact, 1, slots))
    original = np.rint(lengths.astype(np.float32) * np.float32(probability)).clip(1, slots)
    np.testing.assert_array_equal(original - counts, np.isin(lengths, one_less))


@pytest.mark.parametrize(
    ("length", "probability", "slots", "count"),
    [(128, 0.15, 19, 19), (512, 0.15, 79, 77), (512, 0.25, 130, 128)],
)
def test_counts_of_full_rows(length: int, probability: float, slots: int, count: int) -> None:
    masked = mask_tokens(ordinary_batch(1, length), SPECIAL, probability, STREAM)
    assert masked.weights.shape == (1, slots)
    assert masked.weights.sum() == count


@pytest.mark.parametrize(("length", "probability"), [(6, 0.15), (10, 0.0), (10, 1.1)])
def test_no_slot_or_more_slots_than_tokens_is_an_error(length: int, probability: float) -> None:
    with pytest.raises(UserError, match=f"max_length = {length}"):
        masked_slots(length, probability)


def test_a_row_without_a_candidate_has_no_masked_position() -> None:
    batch = packed(np.full((2, 9), SPECIAL.sep, np.int32), np.array([9, 0]))
    masked = mask_tokens(batch, SPECIAL, 0.5, STREAM)
    assert not masked.weights.any()
    np.testing.assert_array_equal(masked.masked_ids, batch.input_ids)


def test_unknown_tokens_may_be_chosen() -> None:
    batch = packed(np.full((1, 8), SPECIAL.unknown, np.int32), np.array([8]))
    assert mask_tokens(batch, SPECIAL, 0.5, STREAM).weights.sum() == 4


def test_a_key_has_64_bits_of_its_own() -> None:
    keys = _keys(np.array([[1, 2, 3, 4]], np.uint32))
    assert keys.tolist() == [[(1 << 32) + 2, (3 << 32) + 4]]


def test_of_equal_keys_the_first_position_wins() -> None:
    keys = np.array([[5, 3, 3, 9, 3, 1], [7, 3, 3, 3, 9, 3]], np.uint64)
    positions = np.zeros((2, 4), np.int32)
    _choose_positions(keys, np.ones((2, 6), np.bool_), np.array([3, 2]), positions)
    assert positions.tolist() == [[1, 2, 5, 0], [1, 2, 0, 0]]


def test_each_position_is_hidden_by_its_own_word() -> None:
    masked = mask_tokens(draw_batch(40, 60, np.random.default_rng(1)), SPECIAL, 0.4, STREAM)
    words = random_words(STREAM.of(Purpose.REPLACE), 40, 60)
    hidden = chosen(masked) & (words < MASK_BELOW)
    np.testing.assert_array_equal(masked.masked_ids != masked.batch.input_ids, hidden)


@given(length=st.integers(8, 30), more=st.integers(0, 20), seed=st.integers(0, 2**32 - 1))
def test_what_stands_in_the_padding_and_how_much_of_it_changes_nothing(
    length: int, more: int, seed: int
) -> None:
    """Rows are at most half full: the number of slots, which grows with T, must not matter."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 15, (3, length)).astype(np.int32)
    batch = packed(ids, rng.integers(0, length // 2 + 1, 3))
    masked = mask_tokens(batch, SPECIAL, 0.15, STREAM)
    ids = np.concatenate([batch.input_ids, np.zeros((3, more), np.int32)], axis=1)
    attention_mask = np.pad(batch.attention_mask, ((0, 0), (0, more)))
    ids[~attention_mask] = rng.integers(0, 15, (~attention_mask).sum())
    other = mask_tokens(Batch(ids, np.zeros_like(ids), attention_mask), SPECIAL, 0.15, STREAM)
    used = masked.weights.sum()
    assert other.weights.sum() == used
    np.testing.assert_array_equal(other.positions[other.weights], masked.positions[masked.weights])
    real = attention_mask[:, :length]
    np.testing.assert_array_equal(other.masked_ids[:, :length][real], masked.masked_ids[real])


def test_micro_batches_draw_what_the_batch_draws_and_steps_and_evaluation_draw_anew() -> None:
    batch = draw_batch(8, 50, np.random.default_rng(2))
    whole = mask_tokens(batch, SPECIAL, 0.3, STREAM)
    half = Batch(batch.input_ids[5:], batch.token_type_ids[5:], batch.attention_mask[5:])
    part = mask_tokens(half, SPECIAL, 0.3, STREAM._replace(first_example=5))
    np.testing.assert_array_equal(part.positions, whole.positions[5:])
    np.testing.assert_array_equal(part.masked_ids, whole.masked_ids[5:])
    for other in (STREAM._replace(step=4), STREAM._replace(seed=12), STREAM.of(EVALUATION)):
        anew = mask_tokens(batch, SPECIAL, 0.3, other)
        assert (anew.positions != whole.positions).any()


def test_thread_counts_give_the_same_masks() -> None:
    batch = draw_batch(50, 60, np.random.default_rng(3))
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        alone = mask_tokens(batch, SPECIAL, 0.2, STREAM)
    finally:
        numba.set_num_threads(threads)
    assert_equal(alone, mask_tokens(batch, SPECIAL, 0.2, STREAM))


# Frequencies. Rows are independent, so that each count below is binomial; see tests/proportions.py
# for the false-alarm rate and the miss rate, 1e-6 each.
ROWS, LENGTH, CANDIDATES, CHOSEN = 300_000, 16, 14, 6  # 0.4 * 16 = 6.4, of 14 candidates


def inclusions(found: npt.NDArray[np.bool_]) -> None:
    """Assert that each candidate, and each pair of them, is chosen as often as any other."""
    inside = found[:, 1:-1]
    assert_proportions(inside.sum(0), len(found), CHOSEN / CANDIDATES, detect=0.03)
    pairs = [
        int((inside[:, i] & inside[:, j]).sum()) for i, j in combinations(range(CANDIDATES), 2)
    ]
    assert_proportions(pairs, len(found), comb(CHOSEN, 2) / comb(CANDIDATES, 2), detect=0.05)


def drawn_with_replacement(rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Choose as the original does."""
    found = np.zeros((ROWS, LENGTH), np.bool_)
    rows = np.arange(ROWS)
    for _ in range(CHOSEN):
        found[rows, 1 + rng.integers(0, CANDIDATES, ROWS)] = True
    return found


def neighbours_of_a_start(rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Choose runs of neighbours: right for each position, wrong for pairs of them."""
    found = np.zeros((ROWS, LENGTH), np.bool_)
    start = rng.integers(0, CANDIDATES, ROWS)
    for k in range(CHOSEN):
        found[np.arange(ROWS), 1 + (start + k) % CANDIDATES] = True
    return found


def test_positions_and_pairs_are_chosen_equally_often() -> None:
    masked = mask_tokens(ordinary_batch(ROWS, LENGTH), SPECIAL, 0.4, STREAM)
    assert masked.weights.sum(1).tolist() == [CHOSEN] * ROWS
    inclusions(chosen(masked))


@pytest.mark.parametrize("biased", [drawn_with_replacement, neighbours_of_a_start])
def test_a_biased_choice_is_found(biased: Any) -> None:
    with pytest.raises(AssertionError, match="expected"):
        inclusions(biased(np.random.default_rng(0)))


def test_85_percent_of_the_chosen_tokens_are_hidden() -> None:
    batch = ordinary_batch(ROWS, LENGTH)
    masked = mask_tokens(batch, SPECIAL, 0.4, STREAM)
    hidden = (masked.masked_ids == SPECIAL.mask).sum()
    assert_proportions(hidden, ROWS * CHOSEN, 0.85, detect=0.004)
    with pytest.raises(AssertionError, match="expected"):
        assert_proportions(hidden, ROWS * CHOSEN, 0.86, detect=0.004)
