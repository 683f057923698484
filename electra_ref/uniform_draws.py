"""Draw a token for each masked slot without a generator: every ordinary token is equally likely.

The ordinary tokens are the K of the vocabulary that are not special ([PAD], [UNK], [CLS], [SEP],
[MASK]). With 64 random bits U, the token is the one of rank

    floor(U K / 2**64)

in ascending order. If a token is excluded, K is smaller by one and the ranks skip it. The rank is
exact whole-number arithmetic, so that the probabilities of two tokens differ by at most 2**-64.

``explore`` mixes such draws with those of a generator: with probability p, a slot takes the uniform
token. If the generator draws token v with probability q_v, it is now (1 - p) q_v + p / K.

Source of the uniform draw: google-research/electra, run_pretraining.py, ``uniform_generator``.
Difference: there all logits are zero, so that special tokens are drawn, too.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from electra_ref.batch import SpecialTokens
from electra_ref.errors import UserError
from electra_ref.rng import Purpose, RandomStream, random_words
from electra_ref.sampling import count_examples, scale, slot_bits


def draw_uniform(
    stream: RandomStream,
    rows: int,
    slots: int,
    vocab_size: int,
    special_tokens: SpecialTokens,
    excluded: npt.NDArray[np.int32] | None,
) -> npt.NDArray[np.int32]:
    """Draw an ordinary token for each row, (R,), but never the id ``excluded`` (R,) of that row.

    With M = ``slots``, row i is slot i % M of example ``stream.first_example`` + i // M. Its bits
    are two words of the stream's UNIFORM purpose. A special token in ``excluded`` changes nothing.

    Raises UserError if no token is left to a row, and ValueError for ``rows`` that are not B * M or
    another number of excluded ids.
    """
    bits = slot_bits(stream.of(Purpose.UNIFORM), rows, slots)
    ordinary = np.setdiff1d(np.arange(vocab_size, dtype=np.int32), special_tokens)
    gaps = _find_gaps(ordinary, excluded, rows)
    counts = ordinary.size - (gaps < ordinary.size)
    if (counts < 1).any():
        raise UserError(
            f"the vocabulary has {ordinary.size} tokens besides the special ones: "
            "to put one in place of another, it must have 2 or more"
        )
    ranks: npt.NDArray[np.uint64] = scale(bits, np.uint64(0), counts.astype(np.uint64))[1]
    return ordinary[ranks + (ranks >= gaps)]


def explore(
    sampled_ids: npt.NDArray[np.int32],
    probability: float,
    stream: RandomStream,
    slots: int,
    vocab_size: int,
    special_tokens: SpecialTokens,
    excluded: npt.NDArray[np.int32] | None,
) -> npt.NDArray[np.int32]:
    """Return ``sampled_ids`` (R,), each replaced by its ``draw_uniform`` with ``probability``.

    A row is replaced if its word of the stream's EXPLORE purpose is below probability * 2**32.

    Raises ValueError for a probability outside [0, 1], and errors like ``draw_uniform``.
    """
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"probability must be in [0, 1], got {probability}")
    rows = len(sampled_ids)
    uniform = draw_uniform(stream, rows, slots, vocab_size, special_tokens, excluded)
    words = random_words(stream.of(Purpose.EXPLORE), count_examples(rows, slots), slots)
    explored = words.reshape(rows) < int(probability * 2**32)
    return np.where(explored, uniform, sampled_ids).astype(np.int32)


def _find_gaps(
    ordinary: npt.NDArray[np.int32], excluded: npt.NDArray[np.int32] | None, rows: int
) -> npt.NDArray[np.int64]:
    """Return the rank of each excluded id among ``ordinary`` (K,), or K where there is none."""
    none = np.full(rows, ordinary.size)
    if excluded is None:
        return none
    if excluded.shape != (rows,):
        raise ValueError(f"excluded must be ({rows},), got {excluded.shape}")
    return np.where(np.isin(excluded, ordinary), np.searchsorted(ordinary, excluded), none)
