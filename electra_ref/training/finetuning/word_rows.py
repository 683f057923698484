"""From the words of a sentence to rows of tokens, in which each word has one place.

    [CLS] pieces of the first word  pieces of the second word ... [SEP]
            0        0        0        1        1        0          segment 1: the predicate

A word stands where its first piece does. A sentence that is longer than the model reads is cut into
windows, see ``prediction.windows``. Each word then has its place in the window that shows most
around its first piece, and only there: in training, too. A word may be cut at the end of a window;
nothing is left out.

A word without pieces, such as one of control characters, is [UNK].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.finetuning.formats.sentences import Sentence
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Row
from electra_ref.training.prediction.windows import windows_of


class WordRow(NamedTuple):
    """A row, and the m words that have their place in it."""

    row: Row
    words: npt.NDArray[np.int64]  # (m)  their numbers in the sentence; they ascend
    positions: npt.NDArray[np.int64]  # (m)  column of the first piece of each


def word_rows(
    sentence: Sentence, tokenizer: WordPiece, longest: int, tally: Tally
) -> Iterator[WordRow]:
    """Yield the rows of ``sentence``, each of at most ``longest`` tokens; none without words."""
    if not sentence.words:
        return
    special = tokenizer.special_tokens
    ids, words = [special.cls], [-1]  # the word that each token is the first piece of, or -1
    segments = [0]
    for number, word in enumerate(sentence.words):
        pieces = tokenizer.encode(word)
        tally.count_unknown(tokenizer, word, pieces, sentence.place)
        if not pieces:
            tally.add("words without a piece, read as [UNK]", sentence.place)
            pieces = [special.unknown]
        ids += pieces
        words += [number, *[-1] * (len(pieces) - 1)]
        segments += [int(number == sentence.predicate)] * len(pieces)
    ids, words, segments = [*ids, special.sep], [*words, -1], [*segments, 0]
    if len(ids) > longest:
        tally.add(f"sentences longer than {longest} tokens, read in windows", sentence.place)
    all_ids, all_segments = np.array(ids, np.int32), np.array(segments, np.int32)
    all_words = np.array(words, np.int64)
    for window in windows_of([len(ids) - 2], longest, stride=None):
        row = Row(all_ids[window.places], all_segments[window.places])
        if sentence.predicate is not None and not row.segments.any():
            tally.add("windows without their predicate", sentence.place)
        shown = all_words[window.places]
        positions = np.flatnonzero(window.owned & (shown >= 0))
        yield WordRow(row, shown[positions], positions)
