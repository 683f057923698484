"""Byte-pair merges in WordPiece form: the most frequent pair of neighbours becomes one piece.

Every word starts as its characters: ``word`` is w ##o ##r ##d. Each merge joins the pair of
neighbours with the highest count over all words into one piece.

Google never released the program that made BERT's vocabulary. WordPiece as first described chooses
the pair that raises the likelihood most (Schuster and Nakajima 2012,
doi:10.1109/ICASSP.2012.6289079). Hugging Face's trainer counts pairs instead, and so does this one:
it is byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909, section 3.2), with ``##`` before
every piece that does not begin a word.

Only the counts in words that a merge has changed are updated. A heap finds the next pair. An entry
of the heap stays when its count falls; when it is popped, it is pushed again with the right count.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise

from electra_ref.text.wordpiece import PREFIX

Pair = tuple[str, str]


def find_merges(word_counts: Mapping[str, int], least: int) -> Iterator[str]:
    """Yield the pieces that the merges make, one after the other.

    ``word_counts`` says how often each word occurs. A piece comes again if two different pairs
    spell it. The merges end when no pair occurs ``least`` times. ``fast_merging`` does the same.
    """
    pairs = PairCounts(word_counts)
    while (best := pairs.pop_most_frequent()) is not None and best[1] >= least:
        yield pairs.merge(best[0])


class PairCounts:
    """Words as pieces, and how often each pair of pieces stands side by side.

    ``word_counts`` says how often each word occurs. The time of a merge is proportional to the
    length of the words that hold the pair.
    """

    def __init__(self, word_counts: Mapping[str, int]) -> None:
        self.words = [split_characters(word) for word in word_counts]  # pieces of each word
        self._word_counts = list(word_counts.values())
        self._counts: defaultdict[Pair, int] = defaultdict(int)
        self._places: defaultdict[Pair, list[int]] = defaultdict(list)  # words it is, or was, in
        for i, pieces in enumerate(self.words):
            for pair in pairwise(pieces):
                self._counts[pair] += self._word_counts[i]
                self._places[pair].append(i)
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapq.heapify(self._heap)

    def pop_most_frequent(self) -> tuple[Pair, int] | None:
        """Return the most frequent pair and its count; of equals, the first in the alphabet."""
        while self._heap:
            negative_count, pair = heapq.heappop(self._heap)
            count = self._counts.get(pair, 0)
            if count == -negative_count:
                return pair, count
            if count > 0:
                heapq.heappush(self._heap, (-count, pair))
        return None

    def merge(self, pair: Pair) -> str:
        """Join ``pair`` wherever it stands, from the left, and return the new piece."""
        merged = pair[0] + pair[1].removeprefix(PREFIX)
        grown: set[Pair] = set()
        for i in set(self._places.pop(pair)):
            before, count = self.words[i], self._word_counts[i]
            after = join(before, pair, merged)
            if len(after) == len(before):
                continue
            for old in pairwise(before):
                self._counts[old] -= count
            for new in pairwise(after):
                self._counts[new] += count
                if merged in new:
                    self._places[new].append(i)
                    grown.add(new)
            self.words[i] = after
        for new in grown:
            heapq.heappush(self._heap, (-self._counts[new], new))
        del self._counts[pair]
        return merged


def split_characters(word: str) -> list[str]:
    """Return the characters of ``word`` as pieces: all but the first carry ``##``."""
    return [word[0], *(PREFIX + character for character in word[1:])]


def join(pieces: list[str], pair: Pair, merged: str) -> list[str]:
    """Return ``pieces`` with ``merged`` in place of each ``pair``, from the left."""
    joined: list[str] = []
    i = 0
    while i < len(pieces):
        if pieces[i] == pair[0] and i + 1 < len(pieces) and pieces[i + 1] == pair[1]:
            joined.append(merged)
            i += 2
        else:
            joined.append(pieces[i])
            i += 1
    return joined
