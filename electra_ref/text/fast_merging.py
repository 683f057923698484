"""The merges of ``merging.py``, with compiled loops: the same pieces in the same order."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from electra_ref.text.merge_kernels import (
    NONE,
    PAIR,
    PLACE,
    Records,
    join_places,
    pair_up,
    place_words,
    sort_by_piece,
)
from electra_ref.text.word_counts import character_keys, key_piece
from electra_ref.text.wordpiece import PREFIX

PLACES_AT_A_TIME = 1 << 18  # joined between two calls of ``on_work``; some tens of milliseconds


def find_merges(
    word_counts: Mapping[str, int], least: int, on_work: Callable[[], None] = lambda: None
) -> Iterator[str]:
    """Yield what ``merging.find_merges`` yields.

    ``on_work`` is called several times a second, and may raise to stop. Raises ValueError if the
    words have 2**31 characters or more.
    """
    index = PairIndex(word_counts, least, on_work)
    while (pair := index.pop_most_frequent()) is not None:
        yield index.name(pair)
        index.join(pair)


class PairIndex:
    """Places and pairs, and a heap of the frequent pairs.

    The heap has the pairs whose count is at least ``_threshold``, so it stays small. When it is
    empty, the threshold falls, at last to ``least``. As in ``merging.py``, an entry stays when the
    count of its pair falls; when it is popped, it is pushed again with the right count.
    """

    def __init__(
        self, word_counts: Mapping[str, int], least: int, on_work: Callable[[], None] = lambda: None
    ) -> None:
        self._on_work = on_work
        self._texts, self._places = lay_out(word_counts, on_work)
        self._ids = {text: i for i, text in enumerate(self._texts)}
        size = len(self._texts)
        self._pairs = np.empty(min(self._places.size, size * size), PAIR)
        self._tables = np.full((4, size), NONE, np.int32)
        self._pair_count = 0
        by_piece, starts = sort_by_piece(self._places, size)
        for left in range(size):
            on_work()
            with_left = by_piece[starts[left] : starts[left + 1]]
            self._pair_count = pair_up(
                self._places, self._pairs, self._tables, self._pair_count, left, with_left
            )
        self._least = least
        largest = int(self._pairs["count"][: self._pair_count].max(initial=0))
        self._threshold = max(least, largest + 1)
        self._heap: list[tuple[int, str, str, int]] = []

    def pop_most_frequent(self) -> int | None:
        """Return the most frequent pair; of equals, the first in the alphabet."""
        while True:
            while self._heap:
                negative_count, _, _, pair = heapq.heappop(self._heap)
                if self._pairs["count"][pair] == -negative_count:
                    return pair
                self._push([pair])
            if self._threshold == self._least:
                return None
            self._lower_threshold()

    def name(self, pair: int) -> str:
        """Return the piece that ``pair`` becomes."""
        _, left, right, _ = self._entry(pair)
        return left + right.removeprefix(PREFIX)

    def join(self, pair: int) -> None:
        """Join ``pair`` wherever it stands, in a run of equal pieces from the left."""
        merged = self._piece(self.name(pair))
        self._make_room()
        pairs_with_merged = np.empty(2 * len(self._texts), np.int32)
        found = 0
        while self._pairs["first"][pair] != NONE:
            self._pair_count, found = join_places(
                self._places,
                self._pairs,
                self._tables,
                self._pair_count,
                pair,
                merged,
                PLACES_AT_A_TIME,
                pairs_with_merged,
            )
            self._on_work()
        self._push(pairs_with_merged[:found].tolist())

    def _push(self, pairs: Iterable[int]) -> None:
        """Push those of the pairs whose count is at least the threshold."""
        for pair in pairs:
            entry = self._entry(pair)
            if -entry[0] >= self._threshold:
                heapq.heappush(self._heap, entry)

    def _entry(self, pair: int) -> tuple[int, str, str, int]:
        """Return what sorts the pair: its count, the highest first, then its two pieces."""
        record = self._pairs[pair]
        return (
            -int(record["count"]),
            self._texts[record["left"]],
            self._texts[record["right"]],
            pair,
        )

    def _lower_threshold(self) -> None:
        self._on_work()
        before, self._threshold = self._threshold, max(self._least, self._threshold * 3 // 4)
        counts = self._pairs["count"][: self._pair_count]
        found = np.flatnonzero((counts >= self._threshold) & (counts < before))
        self._heap = [self._entry(pair) for pair in found.tolist()]
        heapq.heapify(self._heap)

    def _piece(self, text: str) -> int:
        """Return the number of a piece, a new one if it is not known."""
        number = self._ids.setdefault(text, len(self._texts))
        if number == len(self._texts):
            self._texts.append(text)
            if number == self._tables.shape[1]:
                more = np.full_like(self._tables, NONE)
                self._tables = np.concatenate([self._tables, more], axis=1)
        return number

    def _make_room(self) -> None:
        """Make room for as many pairs as one merge can add: each piece before and after it."""
        needed = self._pair_count + 2 * len(self._texts)
        if needed > self._pairs.size:
            pairs = np.empty(max(needed, 3 * self._pairs.size // 2), PAIR)
            pairs[: self._pair_count] = self._pairs[: self._pair_count]
            self._pairs = pairs


def lay_out(
    word_counts: Mapping[str, int], on_work: Callable[[], None] = lambda: None
) -> tuple[list[str], Records]:
    """Return the characters of the words as pieces, and the places (characters,) without pairs."""
    keys, lengths = character_keys(word_counts)
    if keys.size >= 1 << 31:
        raise ValueError(f"{keys.size} characters of words are too many")
    on_work()
    known = np.zeros(int(keys.max(initial=0)) + 1, np.bool_)
    known[keys] = True
    pieces = [key_piece(key) for key in np.flatnonzero(known).tolist()]
    on_work()
    places = np.empty(keys.size, PLACE)
    counts = np.fromiter(word_counts.values(), np.int64, len(word_counts))
    place_words(places, keys, np.cumsum(known, dtype=np.int32) - 1, lengths, counts)
    return pieces, places
