"""Windows become batches: rows of one length at a time, in any order, so that little is padded.

The bits of a row's answer depend on its padded length (``model/inference.py``). Therefore that
length follows from the row alone: it is the row's own, rounded up to a multiple of ROUND. A batch
has rows of one padded length only. So an answer does not depend on what else is in the input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.batch import Batch
from electra_ref.training.prediction.examples import Example
from electra_ref.training.prediction.windows import windows_of

ROUND = 8  # tokens; a few lanes of the kernels' registers, and little to pad


class Limits(NamedTuple):
    """How much is read at once."""

    longest: int  # tokens of a row
    positions: int  # rows of the model's table of positions; padding may use them, too
    stride: int | None  # see ``windows``
    batch_tokens: int  # of a batch, padding included
    batch_answers: int  # places of a batch that are answered


class Row(NamedTuple):
    """A window of an example, and which of its tokens are answered from it."""

    number: int  # of the example
    example: Example
    places: npt.NDArray[np.int64]  # (T)  in the example
    answered: npt.NDArray[np.int64]  # (M)  columns of the row


def rows_of(
    number: int, example: Example, wanted: npt.NDArray[np.bool_], limits: Limits
) -> Iterator[Row]:
    """Yield the windows of ``example`` in which ``wanted`` places (n) are answered."""
    if not wanted.any():
        return
    for window in windows_of(example.lengths, limits.longest, limits.stride):
        answered = np.flatnonzero(window.owned & wanted[window.places])
        if answered.size:
            yield Row(number, example, window.places, answered)


def batches_of(rows: Sequence[Row], limits: Limits) -> Iterator[list[Row]]:
    """Yield the rows, sorted by length, in batches; one row alone may exceed the limits."""

    def length_of(row: Row) -> int:
        return padded_length(row.places.size, limits.positions)

    for length, equal in groupby(
        sorted(rows, key=lambda row: (-length_of(row), -row.answered.size)), key=length_of
    ):
        batch: list[Row] = []
        for row in equal:
            most = batch[0].answered.size if batch else 0
            if batch and (
                (len(batch) + 1) * length > limits.batch_tokens
                or (len(batch) + 1) * most > limits.batch_answers
            ):
                yield batch
                batch = []
            batch.append(row)
        yield batch


def padded_length(length: int, longest: int) -> int:
    """Return ``length`` with its padding; ``longest`` is what the model has positions for."""
    return min(-(-length // ROUND) * ROUND, longest)


def pad(rows: Sequence[Row], length: int, pad_id: int) -> tuple[Batch, npt.NDArray[np.int32]]:
    """Return ``rows`` as a batch of ``length`` tokens, and their answered columns (B, M).

    Rows with fewer columns have the column 0 in the place of others.
    """
    ids = np.full((len(rows), length), pad_id, np.int32)
    segments = np.zeros((len(rows), length), np.int32)
    mask = np.zeros((len(rows), length), bool)
    positions = np.zeros((len(rows), max(row.answered.size for row in rows)), np.int32)
    for line, row in enumerate(rows):
        size = row.places.size
        ids[line, :size] = row.example.ids[row.places]
        segments[line, :size] = row.example.segments[row.places]
        mask[line, :size] = True
        positions[line, : row.answered.size] = row.answered
    return Batch(ids, segments, mask), positions
