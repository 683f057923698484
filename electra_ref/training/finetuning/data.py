"""Labelled files as features in memory, and the batches that are made of them.

Training reads all features once an epoch, in an order that seed and epoch decide. An epoch is cut
into as few batches as ``batch_size`` allows, whose sizes differ by one at most, so that none is
small: 33 features make batches of 16 and 17. Several batches in a row are sorted by length together
before they are cut, and then all batches of the epoch are put into another random order. So rows of
about equal length meet, and little is padded.

In evaluation and prediction, a batch has rows of one padded length. That length follows from the
feature alone: see ``prediction.batches``.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.batch import Batch
from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.model.labelled import LabelledBatch
from electra_ref.rng import shuffled
from electra_ref.training.finetuning.task import Feature, Record, Task
from electra_ref.training.prediction.batches import padded_length

BATCH_TOKENS = 4096  # of a batch of evaluation, padding included
_ORDER_OF_BATCHES = 1 << 30  # no epoch has this number: its order is drawn from other numbers


class LabelledData(NamedTuple):
    """What one file says."""

    records: Sequence[Record]
    features: Sequence[Feature]
    path: str = ""  # of the file; places in it, which records have for messages, begin with it

    def lengths(self) -> npt.NDArray[np.int64]:
        """Return the tokens of the longest row of each feature."""
        return np.fromiter(map(longest_row, self.features), np.int64, len(self.features))

    def digest(self) -> str:
        """Return a hash of all that is said: two equal ones are of the same data.

        It stays the same where the file is moved.
        """
        digest = hashlib.sha256()
        for part in (*self.records, *self.features):
            for piece in _pieces(part, self.path):
                digest.update(piece)
        return digest.hexdigest()[:40]


def _pieces(part: Any, path: str) -> Iterator[bytes]:
    """Yield the bytes of ``part``, of which no two different ones have the same.

    Strings that begin with ``path`` are taken without it.
    """
    if isinstance(part, np.ndarray):
        yield f"{part.dtype.str}{part.shape}".encode() + part.tobytes()
    elif isinstance(part, (tuple, list)):
        yield f"{len(part)}(".encode()
        for one in part:
            yield from _pieces(one, path)
    elif isinstance(part, str):
        yield repr(part.removeprefix(path)).encode("utf-8", "surrogatepass") + b"\n"
    else:
        yield repr(part).encode("utf-8", "surrogatepass") + b"\n"


def longest_row(feature: Feature) -> int:
    """Return the tokens of the longest row of ``feature``."""
    return max(row.ids.size for row in feature.rows)


def batches_an_epoch(count: int, batch_size: int) -> int:
    """Return how many batches ``count`` features make."""
    return -(-count // batch_size)


def training_features(
    step: int, lengths: npt.NDArray[np.int64], config: FinetuningConfig
) -> npt.NDArray[np.int64]:
    """Return the numbers of the features that the step number ``step``, from 0, learns from.

    With 10 features, batches of 2 and buckets of 2 batches, an epoch has the batches 0 to 4, in a
    random order. The step that has batch 1 draws the bucket of the batches 0 and 1, the first four
    features of the shuffled epoch, sorts these by length, and takes the two longer ones.
    """
    batches = batches_an_epoch(lengths.size, config.batch_size)
    epoch, position = divmod(step, batches)
    number = int(shuffled(position, batches, config.seed, _ORDER_OF_BATCHES + epoch))
    ends = np.arange(batches + 1) * lengths.size // batches
    first = number - number % config.bucket_batches
    last = min(first + config.bucket_batches, batches)
    bucket = shuffled(np.arange(ends[first], ends[last]), lengths.size, config.seed, epoch)
    bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
    return bucket[ends[number] - ends[first] : ends[number + 1] - ends[first]]


def labelled_batch(task: Task, features: Sequence[Feature], pad: int, length: int) -> LabelledBatch:
    """Return ``features`` as rows of ``length`` tokens, padding included."""
    rows = [row for feature in features for row in feature.rows]
    ids = np.full((len(rows), length), pad, np.int32)
    segments = np.zeros((len(rows), length), np.int32)
    mask = np.zeros((len(rows), length), bool)
    for line, row in enumerate(rows):
        size = row.ids.size
        ids[line, :size], segments[line, :size], mask[line, :size] = row.ids, row.segments, True
    return LabelledBatch(Batch(ids, segments, mask), task.targets(features, length))


def reading_batches(
    features: Sequence[Feature], longest: int, batch_tokens: int = BATCH_TOKENS
) -> Iterator[list[int]]:
    """Yield the numbers of ``features`` in batches of one padded length, the longest first."""
    lengths = [padded_length(longest_row(feature), longest) for feature in features]
    order = sorted(range(len(features)), key=lambda number: -lengths[number])
    for length, equal in itertools.groupby(order, key=lengths.__getitem__):
        batch: list[int] = []
        rows = 0
        for number in equal:
            own = len(features[number].rows)
            if batch and (rows + own) * length > batch_tokens:
                yield batch
                batch, rows = [], 0
            batch.append(number)
            rows += own
        yield batch
