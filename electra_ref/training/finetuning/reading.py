"""Reads labelled files: records, then features, with a line for all that was skipped or cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from electra_ref.counting import counted
from electra_ref.errors import UserError
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.finetuning.data import LabelledData
from electra_ref.training.finetuning.input_file import open_input
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Feature, Labels, Record, Settings, Task, Use
from electra_ref.training.prediction.counts import Counts


class ReadFile(NamedTuple):
    """What one file says, and what is to be said of it."""

    data: LabelledData
    lines: list[str]  # for people
    facts: dict[str, Any]  # for data.json


def read_training(
    task: Task, path: str, tokenizer: WordPiece, settings: Settings, check: Callable[[], None]
) -> tuple[ReadFile, Labels, Settings]:
    """Return the training data at ``path``, their labels, and the settings that they decide about.

    Raises UserError.
    """
    tally, counts = Tally(), Counts()
    records = _records(task, path, settings, "train", None, tally, counts, check)
    labels = task.labels_of(records, settings)
    settings = task.settled(records, settings)
    read = len(records)
    records = task.augmented(records, settings)
    if len(records) > read:
        tally.note(f"{len(records) - read:,} of the examples are others with their texts swapped")
    features = _features(task, records, tokenizer, settings, labels, tally, check)
    return _read(path, records, features, tally, counts), labels, settings


def read_labelled(
    task: Task,
    path: str,
    tokenizer: WordPiece,
    settings: Settings,
    labels: Labels,
    check: Callable[[], None],
) -> ReadFile:
    """Return the data at ``path`` whose ``labels`` are known. Raises UserError."""
    tally, counts = Tally(), Counts()
    records = _records(task, path, settings, "dev", labels, tally, counts, check)
    features = _features(task, records, tokenizer, settings, labels, tally, check)
    return _read(path, records, features, tally, counts)


def _records(
    task: Task,
    path: str,
    settings: Settings,
    use: Use,
    labels: Labels | None,
    tally: Tally,
    counts: Counts,
    check: Callable[[], None],
) -> list[Record]:
    with open_input(path, check, counts) as file:
        records = list(task.records(file, settings, use, labels, tally))
    if not records:
        purpose = "learn from" if use == "train" else "read"
        raise UserError("; ".join([f"{path} holds nothing to {purpose}", *tally.lines()]))
    return records


def _features(
    task: Task,
    records: list[Record],
    tokenizer: WordPiece,
    settings: Settings,
    labels: Labels,
    tally: Tally,
    check: Callable[[], None],
) -> list[Feature]:
    def all_features() -> Iterator[Feature]:
        for number, record in enumerate(records):
            check()
            yield from task.features(number, record, tokenizer, settings, labels, tally)

    return list(all_features())


def _read(
    path: str, records: list[Record], features: list[Feature], tally: Tally, counts: Counts
) -> ReadFile:
    data = LabelledData(records, features, path)
    tokens = sum(row.ids.size for feature in features for row in feature.rows)
    facts = {
        "path": path,
        "records": len(records),
        "features": len(features),
        "tokens": tokens,
        "invalid_bytes": counts.invalid_bytes,
        "unknown_tokens": tally.unknown,
        "notes": tally.counts(),
    }
    sizes = {"example": len(records), "row": len(features), "token": tokens}
    lines = [f"{path}: {', '.join(counted(size, noun) for noun, size in sizes.items())}"]
    lines += list(tally.lines())
    lines += list(counts.invalid_notes())
    return ReadFile(data, lines, facts)
