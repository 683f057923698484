"""Which features a step learns from, how rows are padded, and what is read at once."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.training.finetuning.data import (
    LabelledData,
    batches_an_epoch,
    labelled_batch,
    reading_batches,
    training_features,
)
from electra_ref.training.finetuning.task import Feature, Row
from electra_ref.training.prediction.batches import ROUND, padded_length

PAD = 7


def config_of(**changes: Any) -> FinetuningConfig:
    return FinetuningConfig(**{"batch_size": 8, "bucket_batches": 4, **changes})


def lengths_of(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng(seed).integers(3, 40, count)


def epoch_of(number: int, lengths: Any, config: FinetuningConfig) -> list[list[int]]:
    batches = batches_an_epoch(lengths.size, config.batch_size)
    steps = range(number * batches, (number + 1) * batches)
    return [training_features(step, lengths, config).tolist() for step in steps]


def feature_of(*lengths: int, detail: Any = 0, record: int = 0) -> Feature:
    """Return a feature with rows of ids 100, 101, ... in the segment 1."""
    rows = tuple(
        Row(np.arange(100, 100 + length, dtype=np.int32), np.ones(length, np.int32))
        for length in lengths
    )
    return Feature(record, rows, detail)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 31, 32, 33, 100, 257])
@pytest.mark.parametrize("bucket", [1, 4, 1000])
def test_an_epoch_reads_every_feature_once(count: int, bucket: int) -> None:
    config, lengths = config_of(bucket_batches=bucket), lengths_of(count)
    for epoch in range(3):
        batches = epoch_of(epoch, lengths, config)
        assert sorted(number for batch in batches for number in batch) == list(range(count))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 31, 33, 100, 257])
@pytest.mark.parametrize("batch_size", [1, 8, 32])
def test_batches_differ_by_one_feature_at_most(count: int, batch_size: int) -> None:
    config = config_of(batch_size=batch_size)
    sizes = [len(batch) for batch in epoch_of(0, lengths_of(count), config)]
    assert len(sizes) == -(-count // batch_size)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_some_batches_in_a_row_are_sorted_by_length_together() -> None:
    """In a bucket, no feature is longer than one of the next batch: the batches do not overlap."""
    config, lengths = config_of(), lengths_of(160)
    batches = [sorted(lengths[batch].tolist()) for batch in epoch_of(0, lengths, config)]
    assert len(batches) == 20
    whole = config_of(bucket_batches=1000)
    ordered = sorted(sorted(lengths[batch].tolist()) for batch in epoch_of(0, lengths, whole))
    assert [length for batch in ordered for length in batch] == sorted(lengths.tolist())
    spread = np.mean([batch[-1] - batch[0] for batch in batches])
    unsorted = config_of(bucket_batches=1)
    loose = [np.ptp(lengths[batch]) for batch in epoch_of(0, lengths, unsorted)]
    assert spread < np.mean(loose) / 2
    assert np.mean([batch[-1] - batch[0] for batch in ordered]) < spread / 2


def test_a_bucket_is_four_batches_that_hold_their_share_of_the_epoch() -> None:
    """The features of a bucket are those of an unsorted order, whatever their lengths."""
    config, count = config_of(), 160
    same, other = (epoch_of(0, lengths_of(count, seed), config) for seed in (0, 1))
    sets = [set(batch) for batch in same]
    for batch in other:
        touched = [one for one in sets if one & set(batch)]
        assert len(touched) <= 4


def test_batches_come_in_no_order_of_length() -> None:
    lengths, config = lengths_of(400), config_of(bucket_batches=1000)
    means = [float(lengths[batch].mean()) for batch in epoch_of(0, lengths, config)]
    rises = sum(a < b for a, b in itertools.pairwise(means))
    assert 10 <= rises <= 40  # of 49: in order, it would be 0 or 49


@pytest.mark.parametrize("what", ["seed", "epoch"])
def test_another_seed_or_epoch_has_another_order(what: str) -> None:
    lengths = lengths_of(100)
    one = epoch_of(0, lengths, config_of())
    other = epoch_of(*((0, lengths, config_of(seed=1)) if what == "seed"
                       else (1, lengths, config_of())))  # fmt: skip
    assert one != other
    assert [set(batch) for batch in one] != [set(batch) for batch in other]
    assert {frozenset(batch) for batch in one} != {frozenset(batch) for batch in other}


def test_the_order_of_batches_depends_on_the_epoch_even_if_all_lengths_differ() -> None:
    """One bucket of different lengths: an epoch has the same batches, in another order."""
    lengths, config = np.arange(3, 103), config_of(bucket_batches=1000)
    one, other = (epoch_of(epoch, lengths, config) for epoch in (0, 1))
    assert sorted(one) == sorted(other)
    assert one != other
    assert one != sorted(one)


def test_a_step_does_not_depend_on_the_steps_before_it() -> None:
    lengths, config = lengths_of(100), config_of()
    forward = [training_features(step, lengths, config).tolist() for step in range(40)]
    backward = [training_features(step, lengths, config).tolist() for step in range(39, -1, -1)]
    assert forward == backward[::-1]


def targets_of(features: Any, length: int) -> Any:
    return [feature.detail for feature in features], length


TASK: Any = SimpleNamespace(targets=targets_of)


@pytest.mark.parametrize(
    ("longest", "limit", "length"),
    [(1, 100, 8), (8, 100, 8), (9, 100, 16), (17, 100, 24), (17, 20, 20), (20, 20, 20)],
)
def test_rows_are_padded_to_a_multiple_of_eight_within_the_positions(
    longest: int, limit: int, length: int
) -> None:
    assert padded_length(longest, limit) == length


def test_a_batch_has_the_length_that_is_asked_for() -> None:
    batch = labelled_batch(TASK, [feature_of(3), feature_of(5)], PAD, 11)
    assert batch.input_ids.shape == (2, 11)
    assert batch.targets == ([0, 0], 11)


def test_padding_is_marked_and_nothing_else() -> None:
    batch = labelled_batch(TASK, [feature_of(2, 5, detail="a"), feature_of(3, detail="b")], PAD, 8)
    ids = [
        [100, 101, *[PAD] * 6],
        [100, 101, 102, 103, 104, *[PAD] * 3],
        [100, 101, 102, *[PAD] * 5],
    ]
    assert batch.input_ids.tolist() == ids
    assert batch.input_ids.dtype == np.int32
    assert batch.attention_mask.tolist() == [[id != PAD for id in row] for row in ids]
    assert batch.tokens.token_type_ids.tolist() == [[int(id != PAD) for id in row] for row in ids]
    assert batch.targets == (["a", "b"], 8)


def test_evaluation_reads_batches_of_one_padded_length_the_longest_first() -> None:
    features = [feature_of(*rows) for rows in ((3,), (20,), (8, 2), (9,), (17, 24), (5,), (40,))]
    batches = list(reading_batches(features, 36, 64))
    lengths = [
        {padded_length(max(row.ids.size for row in features[i].rows), 36) for i in batch}
        for batch in batches
    ]
    assert all(len(one) == 1 for one in lengths)
    assert [one.pop() for one in lengths] == [36, 24, 24, 16, 8]
    assert batches == [[6], [1], [4], [3], [0, 2, 5]]


def test_a_batch_of_evaluation_keeps_to_its_tokens_unless_one_feature_alone_exceeds_them() -> None:
    features = [feature_of(*[8] * rows) for rows in (1, 2, 9, 1, 3, 4, 1, 1)]
    batches = list(reading_batches(features, 100, 40))  # five rows
    assert sorted(number for batch in batches for number in batch) == list(range(8))
    rows = [sum(len(features[number].rows) for number in batch) for batch in batches]
    assert [count for count in rows if count > 5] == [9]
    assert batches == [[0, 1], [2], [3, 4], [5, 6], [7]]
    assert list(reading_batches([], 100, 40)) == []


def test_without_a_number_of_tokens_4096_are_read_at_once() -> None:
    batches = list(reading_batches([feature_of(ROUND)] * 1000, 100))
    assert [len(batch) for batch in batches] == [512, 488]


def test_lengths_are_those_of_the_longest_row() -> None:
    data = LabelledData([None, None], [feature_of(3), feature_of(4, 9, 2)])
    assert data.lengths().tolist() == [3, 9]


class Changed:
    """The parts of a feature that a digest tells."""

    base = (feature_of(3, detail=1), feature_of(4, detail=2))
    ids = (feature_of(3, detail=1), feature_of(5, detail=2))
    detail = (feature_of(3, detail=1), feature_of(4, detail=3))
    order = base[::-1]
    fewer = base[:1]
    divided = (feature_of(3, 4, detail=1),)


@pytest.mark.parametrize("name", ["ids", "detail", "order", "fewer", "divided"])
def test_a_digest_tells_data_apart(name: str) -> None:
    records = ["one", "two"]
    one = LabelledData(records, Changed.base).digest()
    assert one == LabelledData(list(records), tuple(Changed.base)).digest()
    assert one != LabelledData(records, getattr(Changed, name)).digest()


def test_a_digest_tells_segments_and_long_targets_apart() -> None:
    row = Row(np.arange(3, dtype=np.int32), np.zeros(3, np.int32))
    plain = LabelledData([None], [Feature(0, (row,), 0)]).digest()
    other = row._replace(segments=np.array([0, 0, 1], np.int32))
    assert LabelledData([None], [Feature(0, (other,), 0)]).digest() != plain
    long = np.zeros(5000, np.int64)
    changed = long.copy()
    changed[2500] = 1
    details = [LabelledData([None], [Feature(0, (row,), x)]).digest() for x in (long, changed)]
    assert details[0] != details[1]


def test_a_digest_does_not_tell_where_a_file_lies() -> None:
    def digest(path: str, *lines: int) -> str:
        places = [("a", f"{path}, line {line}") for line in lines]
        return LabelledData(places, Changed.base, path).digest()

    assert digest("/a/b.tsv", 1, 2) == digest("c.tsv", 1, 2)
    assert digest("/a/b.tsv", 1, 2) != digest("/a/b.tsv", 1, 3)


def test_a_digest_tells_right_answers_apart_that_no_feature_has() -> None:
    """Such as those of dev data, which scores compare predictions with."""
    digests = {LabelledData([label], Changed.base[:1]).digest() for label in ("a", "b")}
    assert len(digests) == 2
