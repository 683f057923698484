"""What the discriminator reads: the corrupted rows, or each beside its original.

    replaced    [CLS] replaced [SEP]                          segments as in the data
    paired      [CLS] original [SEP] replaced [SEP]           segment 0, then 1

In a pair every token of both halves is labelled, and those of the original half are all original.
The discriminator can compare the halves, so the task is another one: see the README. A row of T
tokens becomes one of 2 T - 1: the second half has no [CLS]. [SEP] inside a half stays a token.
Source of ``replaced``: Clark et al. 2020, arXiv:2003.10555, figure 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.batch import Batch, SpecialTokens
from electra_ref.sampling import CorruptedBatch


class DiscriminatorInput(NamedTuple):
    """Rows of T' tokens, and the right answers."""

    batch: Batch  # (B, T')
    replaced: npt.NDArray[np.bool_]  # (B, T')
    places: npt.NDArray[np.int32]  # (B, T)  where each token of the corrupted row stands
    positions: npt.NDArray[np.int32]  # (B, M)  where the masked slots stand; 0 in unused ones
    is_masked: npt.NDArray[np.bool_]  # (B, T')  whether a token stands at a masked position


def replaced_rows(corrupted: CorruptedBatch, special_tokens: SpecialTokens) -> DiscriminatorInput:
    """Return the corrupted rows as they are."""
    del special_tokens
    batch = corrupted.masked.batch._replace(input_ids=corrupted.corrupted_ids)
    places = np.broadcast_to(
        np.arange(batch.input_ids.shape[1], dtype=np.int32), batch.input_ids.shape
    )
    return _input(batch, corrupted.replaced, places, corrupted)


def paired_rows(corrupted: CorruptedBatch, special_tokens: SpecialTokens) -> DiscriminatorInput:
    """Return each row and its corrupted twin as one row of two segments.

    Position 0 of a row must be [CLS], which is never masked.
    """
    original, length = corrupted.masked.batch, corrupted.corrupted_ids.shape[1]
    lengths = original.attention_mask.sum(axis=1, dtype=np.int32)[:, None]
    columns = np.arange(2 * length - 1, dtype=np.int32)
    is_token = columns < 2 * lengths - 1
    is_second = is_token & (columns >= lengths)
    source = np.where(is_token, np.where(is_second, columns - lengths + 1, columns), 0)
    first, second, replaced = (
        np.take_along_axis(rows, source, axis=1)
        for rows in (original.input_ids, corrupted.corrupted_ids, corrupted.replaced)
    )
    ids = np.where(is_token, np.where(is_second, second, first), special_tokens.pad)
    batch = Batch(ids.astype(np.int32), is_second.astype(np.int32), is_token)
    tokens = np.arange(length, dtype=np.int32)
    places = np.where(tokens == 0, 0, np.where(tokens < lengths, lengths + tokens - 1, 0))
    return _input(batch, replaced & is_second, places.astype(np.int32), corrupted)


def _input(
    batch: Batch,
    replaced: npt.NDArray[np.bool_],
    places: npt.NDArray[np.int32],
    corrupted: CorruptedBatch,
) -> DiscriminatorInput:
    weights = corrupted.masked.weights
    positions = np.take_along_axis(places, corrupted.masked.positions, axis=1)
    positions = np.where(weights, positions, 0).astype(np.int32)
    is_masked = np.zeros(batch.input_ids.shape, bool)
    rows, slots = np.nonzero(weights)
    is_masked[rows, positions[rows, slots]] = True
    return DiscriminatorInput(batch, replaced, places, positions, is_masked)


def count_read(batch: Batch, *, pairs: bool) -> int:
    """Return how many tokens the discriminator reads of ``batch``, padding not counted."""
    lengths = batch.attention_mask.sum(axis=1)
    return int(np.maximum(2 * lengths - 1, 0).sum() if pairs else lengths.sum())


READERS: Mapping[str, Callable[[CorruptedBatch, SpecialTokens], DiscriminatorInput]] = {
    "replaced": replaced_rows,
    "paired": paired_rows,
}
