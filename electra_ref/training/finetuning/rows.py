"""From one text, or two, to what the model reads as a row.

    [CLS] text [SEP]        or        [CLS] text [SEP] second text [SEP]
      0     0    0                      0     0    0        1        1        segments

A text that is longer than the row keeps its beginning. Of two texts, the last token of the longer
one is left out, again and again, until both fit; of two of the same length, that of the second.
A second text without tokens is left out with its [SEP].
Source: google-research/electra finetune/classification/classification_tasks.py (``featurize``,
``_truncate_seq_pair``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from electra_ref.batch import SpecialTokens
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Row

Ids = Sequence[int]


def row_of(special: SpecialTokens, first: Ids, second: Ids = ()) -> Row:
    """Return the row of the pieces of one text or two, which must fit."""
    ids = [special.cls, *first, special.sep]
    segments = [0] * len(ids)
    if len(second):
        ids += [*second, special.sep]
        segments += [1] * (len(second) + 1)
    return Row(np.array(ids, np.int32), np.array(segments, np.int32))


def kept_of_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how many tokens remain of two texts, of ``first`` and ``second`` tokens, in ``room``.

    The numbers are those that leaving out one token after the other gives.
    """
    excess = max(first + second - room, 0)
    from_longer = min(excess, abs(first - second))
    if first > second:
        first -= from_longer
    else:
        second -= from_longer
    of_equal = excess - from_longer
    return first - of_equal // 2, second - (of_equal + 1) // 2


def text_row(
    tokenizer: WordPiece, text: str, pair: str | None, length: int, place: str, tally: Tally
) -> Row:
    """Return the row of ``text``, and of ``pair`` if there is one, of at most ``length`` tokens.

    What is cut, and a row without a word, is counted in ``tally``; ``place`` names it.
    """
    first = tokenizer.encode(text)
    second = [] if pair is None else tokenizer.encode(pair)
    tally.count_unknown(tokenizer, text, first, place)
    tally.count_unknown(tokenizer, pair or "", second, place)
    if not first and not second:
        tally.add("rows without a single word", place)
    special_tokens = 3 if second else 2
    kept, kept_second = kept_of_pair(len(first), len(second), length - special_tokens)
    if kept < len(first) or kept_second < len(second):
        tally.add(f"rows cut to {length:,} tokens", place)
    return row_of(tokenizer.special_tokens, first[:kept], second[:kept_second])
