"""Which tokens the generator has to guess: n distinct positions a row, new ones at every step.

A row has t tokens ([CLS] and [SEP] count, padding does not) and M slots:

    n = clip(round(p t), 1, M),      M = floor((p + 0.005) T)

The n positions are chosen uniformly among the candidates: all tokens but [CLS], [SEP], [MASK] and
[PAD]. [UNK] may be chosen. A chosen token becomes [MASK] with probability 0.85; otherwise it stays
as it is. It never becomes a random token as in BERT: replacing tokens is the generator's task.

Method: every position draws a 64-bit key, and the n candidates with the smallest keys are chosen.
All sets of n candidates are equally likely, and the padding has no influence.

Source: google-research/electra, pretrain/pretrain_helpers.py, ``mask``. Differences:

* Here positions are distinct. The original draws them with replacement: at T = 128 its 19 draws hit
  17.7 positions on average (13.8 % of the tokens, not 15 %). A position that is hit twice counts
  twice in the loss and may receive the mean of two sampled ids.
* Here a row without a candidate has no masked position. The original divides by zero.
* Here p t is rounded in float64, in the original in float32, halves to even in both. For t up to
  512 the results are equal at p = 0.25. At p = 0.15 the original masks one token more for t = 190,
  350 and 390: there 0.15 t ends in .5, and float32 is a little above it.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from electra_ref.batch import Batch, SpecialTokens
from electra_ref.compilation import jit
from electra_ref.errors import UserError
from electra_ref.rng import Purpose, RandomStream, random_words, random_words_reference

MASK_BELOW = int(0.85 * 2**32)  # a chosen token whose 32-bit word is below this becomes [MASK]


class MaskedBatch(NamedTuple):
    """A batch, and its chosen positions in the M slots of each row."""

    batch: Batch  # before masking
    masked_ids: npt.NDArray[np.int32]  # (B, T)  what the generator reads
    positions: npt.NDArray[np.int32]  # (B, M)  chosen positions, ascending; 0 in unused slots
    labels: npt.NDArray[np.int32]  # (B, M)  original ids there; 0 in unused slots
    weights: npt.NDArray[np.bool_]  # (B, M)  True for used slots, which come first


def masked_slots(max_length: int, mask_probability: float) -> int:
    """Return M, the number of slots of a row of ``max_length`` tokens.

    Raises UserError if M is not from 1 to ``max_length``.
    """
    slots = int((mask_probability + 0.005) * max_length)
    if not 1 <= slots <= max_length:
        raise UserError(
            f"max_length = {max_length} and mask_probability = {mask_probability} leave {slots} "
            "tokens to mask: (mask_probability + 0.005) * max_length must be from 1 to max_length"
        )
    return slots


def count_masked(
    batch: Batch, special_tokens: SpecialTokens, mask_probability: float
) -> npt.NDArray[np.int64]:
    """Return n for each row, (B,): no random number decides it. Raises UserError."""
    slots = masked_slots(batch.input_ids.shape[1], mask_probability)
    tokens = batch.attention_mask.sum(axis=1)
    counts = np.clip(np.rint(mask_probability * tokens).astype(np.int64), 1, slots)  # half to even
    candidates = _candidates(batch, special_tokens).sum(axis=1)
    possible: npt.NDArray[np.int64] = np.minimum(counts, candidates)
    return possible


def mask_tokens(
    batch: Batch, special_tokens: SpecialTokens, mask_probability: float, stream: RandomStream
) -> MaskedBatch:
    """Choose positions in each row of ``batch`` (B, T) and write [MASK] at 85 % of them.

    ``stream`` names seed, step, first example and whether this is an evaluation; the words come
    from its MASK and REPLACE purposes. ``batch`` does not change. Raises UserError like
    ``masked_slots``.
    """
    examples, length = batch.input_ids.shape
    candidates = _candidates(batch, special_tokens)
    counts = count_masked(batch, special_tokens, mask_probability)
    keys = _keys(random_words(stream.of(Purpose.MASK), examples, 2 * length))
    positions = np.zeros((examples, masked_slots(length, mask_probability)), np.int32)
    _choose_positions(keys, candidates, counts, positions)
    words = random_words(stream.of(Purpose.REPLACE), examples, length)
    return _hide(batch, positions, counts, words, special_tokens.mask)


def mask_tokens_reference(
    batch: Batch, special_tokens: SpecialTokens, mask_probability: float, stream: RandomStream
) -> MaskedBatch:
    """Return what ``mask_tokens`` returns; choose positions by sorting the keys of each row."""
    examples, length = batch.input_ids.shape
    candidates = _candidates(batch, special_tokens)
    counts = count_masked(batch, special_tokens, mask_probability)
    keys = _keys(random_words_reference(stream.of(Purpose.MASK), examples, 2 * length))
    positions = np.zeros((examples, masked_slots(length, mask_probability)), np.int32)
    order = np.lexsort((keys, ~candidates), axis=-1)  # candidates first, smallest keys first
    for row, count in enumerate(counts):
        positions[row, :count] = np.sort(order[row, :count])
    words = random_words_reference(stream.of(Purpose.REPLACE), examples, length)
    return _hide(batch, positions, counts, words, special_tokens.mask)


def _candidates(batch: Batch, special_tokens: SpecialTokens) -> npt.NDArray[np.bool_]:
    """Return which tokens may be chosen, (B, T)."""
    ids = batch.input_ids
    pad, _, cls, sep, mask = special_tokens
    special = (ids == cls) | (ids == sep) | (ids == mask) | (ids == pad)
    candidates: npt.NDArray[np.bool_] = batch.attention_mask & ~special
    return candidates


def _keys(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """Return the keys (B, T): words 2 t (high) and 2 t + 1 (low) are the key of position t."""
    high, low = words[:, 0::2].astype(np.uint64), words[:, 1::2]
    return (high << np.uint64(32)) | low


@jit()
def _choose_in_row(
    keys: npt.NDArray[np.uint64],
    candidates: npt.NDArray[np.bool_],
    count: int,
    positions: npt.NDArray[np.int32],
) -> None:
    """Write the ``count`` candidates with the smallest keys; of equal keys the first is chosen."""
    winners = np.empty(count, np.int32)  # so far, by ascending key
    found = 0
    for position in range(keys.size):
        key = keys[position]
        if candidates[position] and (found < count or key < keys[winners[found - 1]]):
            found = min(found + 1, count)
            place = found - 1
            while place > 0 and keys[winners[place - 1]] > key:
                winners[place] = winners[place - 1]
                place -= 1
            winners[place] = position
    chosen = np.zeros(keys.size, np.bool_)
    chosen[winners] = True
    slot = 0
    for position in range(keys.size):
        if chosen[position]:
            positions[slot] = position
            slot += 1


@jit(parallel=True)
def _choose_positions(
    keys: npt.NDArray[np.uint64],
    candidates: npt.NDArray[np.bool_],
    counts: npt.NDArray[np.int64],
    positions: npt.NDArray[np.int32],
) -> None:
    """Write the positions of each row; no count exceeds the number of candidates."""
    for row in numba.prange(len(keys)):
        if counts[row] > 0:
            _choose_in_row(keys[row], candidates[row], counts[row], positions[row])


def _hide(
    batch: Batch,
    positions: npt.NDArray[np.int32],
    counts: npt.NDArray[np.int64],
    words: npt.NDArray[np.uint32],
    mask_id: int,
) -> MaskedBatch:
    """Write [MASK] at the chosen positions whose word (B, T) is below MASK_BELOW."""
    weights = np.arange(positions.shape[1]) < counts[:, None]
    labels = np.where(weights, np.take_along_axis(batch.input_ids, positions, axis=1), 0)
    hidden = weights & (np.take_along_axis(words, positions, axis=1) < MASK_BELOW)
    rows, slots = np.nonzero(hidden)
    masked_ids = batch.input_ids.copy()
    masked_ids[rows, positions[rows, slots]] = mask_id
    return MaskedBatch(batch, masked_ids, positions, labels, weights)
