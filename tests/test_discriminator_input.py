"""What the discriminator reads, by hand and in general: the corrupted rows, or pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.batch import Batch, SpecialTokens
from electra_ref.masking import MaskedBatch
from electra_ref.model.discriminator_input import (
    READERS,
    DiscriminatorInput,
    count_read,
    paired_rows,
    replaced_rows,
)
from electra_ref.model.objectives import electra
from electra_ref.sampling import CorruptedBatch, corrupt
from tests.tiny_electra import draw_masked_batch, tiny_config
from tests.variants import output_of, variant_problem

TOKENS = SpecialTokens(pad=0, unknown=1, cls=2, sep=3, mask=4)
CLS, SEP = TOKENS.cls, TOKENS.sep


def corrupted_rows() -> CorruptedBatch:
    """A full row of two segments, a shorter one, one of [CLS] alone; unused slots hold rubbish."""
    ids = np.array(
        [[CLS, 10, 11, SEP, 12, SEP], [CLS, 20, SEP, 0, 0, 0], [CLS, 0, 0, 0, 0, 0]], np.int32
    )
    types = np.array([[0, 0, 0, 0, 1, 1], [0] * 6, [0] * 6], np.int32)
    lengths = np.array([[6], [3], [1]])
    batch = Batch(ids, types, np.arange(6) < lengths)
    positions = np.array([[2, 4], [1, 0], [0, 0]], np.int32)
    weights = np.array([[1, 1], [1, 0], [0, 0]], bool)
    labels = np.array([[11, 12], [20, 0], [0, 0]], np.int32)
    masked = MaskedBatch(batch, ids, positions, labels, weights)
    return corrupt(masked, np.array([31, 12, 32, 33, 34, 35], np.int32))


def rows(array: Any) -> Any:
    """Return ``array`` as lists of whole numbers."""
    return np.asarray(array).astype(int).tolist()


def test_replaced_rows_by_hand() -> None:
    read = replaced_rows(corrupted_rows(), TOKENS)
    assert rows(read.batch.input_ids) == [
        [CLS, 10, 31, SEP, 12, SEP], [CLS, 32, SEP, 0, 0, 0], [CLS, 0, 0, 0, 0, 0]
    ]  # fmt: skip
    assert rows(read.batch.token_type_ids) == [[0, 0, 0, 0, 1, 1], [0] * 6, [0] * 6]
    assert rows(read.batch.attention_mask.sum(axis=1)) == [6, 3, 1]
    assert rows(read.replaced) == [[0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0] * 6]
    assert rows(read.places) == [[0, 1, 2, 3, 4, 5]] * 3
    assert rows(read.positions) == [[2, 4], [1, 0], [0, 0]]
    assert rows(read.is_masked) == [[0, 0, 1, 0, 1, 0], [0, 1, 0, 0, 0, 0], [0] * 6]


def test_paired_rows_by_hand() -> None:
    """The second half has no [CLS]; its tokens are segment 1, whatever they were."""
    read = paired_rows(corrupted_rows(), TOKENS)
    assert rows(read.batch.input_ids) == [
        [CLS, 10, 11, SEP, 12, SEP, 10, 31, SEP, 12, SEP],
        [CLS, 20, SEP, 32, SEP, 0, 0, 0, 0, 0, 0],
        [CLS, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert rows(read.batch.token_type_ids) == [
        [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1],
        [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0],
        [0] * 11,
    ]
    assert rows(read.batch.attention_mask) == [
        [1] * 11, [1] * 5 + [0] * 6, [1] + [0] * 10
    ]  # fmt: skip
    assert rows(read.replaced) == [
        [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        [0] * 11,
    ]
    assert rows(read.places) == [[0, 6, 7, 8, 9, 10], [0, 3, 4, 0, 0, 0], [0] * 6]
    assert rows(read.positions) == [[7, 9], [3, 0], [0, 0]]
    assert rows(read.is_masked) == [
        [0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0],
        [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        [0] * 11,
    ]


@pytest.mark.parametrize("name", READERS)
def test_types_are_those_that_a_model_reads(name: str) -> None:
    read = READERS[name](corrupted_rows(), TOKENS)
    kinds = [array.dtype.name for array in (*read.batch, *read[1:])]
    assert kinds == ["int32", "int32", "bool", "bool", "int32", "int32", "bool"]


def test_tokens_that_are_read_are_counted_without_padding() -> None:
    batch = corrupted_rows().masked.batch
    assert count_read(batch, pairs=False) == 6 + 3 + 1
    assert count_read(batch, pairs=True) == 11 + 5 + 1
    empty = batch._replace(attention_mask=np.zeros((3, 6), bool))
    assert count_read(empty, pairs=False) == count_read(empty, pairs=True) == 0


def drawn(seed: int, lengths: tuple[int, ...]) -> CorruptedBatch:
    random = np.random.default_rng(seed)
    config = tiny_config()
    masked = draw_masked_batch(config, random, lengths)
    ids = np.where(np.arange(config.max_length) == 0, CLS, masked.batch.input_ids)
    weights = masked.weights & (masked.positions > 0)
    masked = masked._replace(
        batch=masked.batch._replace(input_ids=ids.astype(np.int32)), weights=weights
    )
    return corrupt(masked, random.integers(5, 13, weights.size).astype(np.int32))


LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple)


@given(seed=st.integers(0, 2**20), lengths=LENGTHS)
def test_a_pair_holds_the_row_twice(seed: int, lengths: tuple[int, ...]) -> None:
    """Each row of a pair, built token by token."""
    corrupted = drawn(seed, lengths)
    read = paired_rows(corrupted, TOKENS)
    assert read.batch.attention_mask.sum() == count_read(corrupted.masked.batch, pairs=True)
    for row, length in enumerate(lengths):
        original = corrupted.masked.batch.input_ids[row, :length].tolist()
        second = corrupted.corrupted_ids[row, 1:length].tolist()
        ends = 2 * length - 1
        assert read.batch.input_ids[row, :ends].tolist() == original + second
        assert read.batch.token_type_ids[row].sum() == length - 1
        assert (read.batch.token_type_ids[row, length:ends] == 1).all()
        labels = [False] * length + [a != b for a, b in zip(original[1:], second, strict=True)]
        assert read.replaced[row, :ends].tolist() == labels
        for rest in (read.batch.input_ids, *read.batch[1:], read.replaced, read.is_masked):
            assert not rest[row, ends:].any()  # [PAD] is 0
        assert not read.is_masked[row, :length].any()


@pytest.mark.parametrize("name", READERS)
@given(seed=st.integers(0, 2**20), lengths=LENGTHS)
def test_positions_point_at_the_samples(name: str, seed: int, lengths: tuple[int, ...]) -> None:
    corrupted = drawn(seed, lengths)
    read = READERS[name](corrupted, TOKENS)
    masked = corrupted.masked
    shape = masked.positions.shape
    at = np.take_along_axis(read.batch.input_ids, read.positions, axis=1)
    used = masked.weights
    assert (at[used] == corrupted.sampled_ids.reshape(shape)[used]).all()
    labels = np.take_along_axis(read.replaced, read.positions, axis=1)
    assert (labels[used] == (at != masked.labels)[used]).all()
    assert read.is_masked.sum() == used.sum()
    assert np.take_along_axis(read.is_masked, read.positions, axis=1)[used].all()
    assert (read.positions[~used] == 0).all()
    is_token = masked.batch.attention_mask
    again = np.take_along_axis(read.batch.input_ids, read.places, axis=1)
    assert (again[is_token] == corrupted.corrupted_ids[is_token]).all()


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("objective", ["electra", "electra-15"])
def test_the_loss_counts_the_tokens_that_its_objective_names(objective: str, paired: bool) -> None:
    """The sum is taken over all tokens that are read, or over the masked positions alone."""
    changes: dict[str, Any] = {"discriminator_input": "paired"} if paired else {}
    problem = variant_problem("electra", 0.5, 7, objective=objective, **changes)
    output = output_of(problem, problem.vector)
    assert output.detections is not None
    read: DiscriminatorInput = output.detections.read
    counted = read.is_masked if objective == "electra-15" else read.batch.attention_mask
    logits = output.detections.logits.reshape(counted.shape)
    losses = np.logaddexp(0.0, np.where(read.replaced, -logits, logits))
    rtd = next(term for term in output.terms if term.name == "rtd")
    assert float(rtd.sum) == pytest.approx(float(losses[counted].sum()), rel=1e-12)
    assert rtd.places == counted.sum() == problem.counts["rtd"]
    assert electra.count_losses(problem.model, problem.batch) == problem.counts
