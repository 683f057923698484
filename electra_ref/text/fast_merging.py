"""The merges of ``merging.py``, compiled: the same pieces in the same order.

All words stand in one row of places. A place holds a piece, the places before and after it in its
word, and the pair that it and the next place form. The places of a pair are linked in a list. A
merge walks this list: it changes two places and the two pairs around them, so its time does not
depend on how long the words are.

    before                    after
    x   a   b   y             x   m   .   y         x a  loses a place, x m gains one
        ^   ^                     ^                 b y  loses a place, m y gains one

A pair that contains the new piece m is found by the other piece in a table. So no pair is ever
looked up by its two pieces.

Memory: PLACE takes 32 bytes a character of the distinct words, PAIR 32 bytes a distinct pair. A
join makes at most two new pairs and removes a place, so there are at most three pairs a character;
ordinary text has one for two characters.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from electra_ref.compilation import jit
from electra_ref.text.word_counts import character_keys, key_piece
from electra_ref.text.wordpiece import PREFIX

PLACE = np.dtype(
    [
        ("piece", np.int32),
        ("before", np.int32),  # the place before it in its word, or NONE
        ("after", np.int32),
        ("pair", np.int32),  # of this place and the one after it, or NONE
        ("last", np.int32),  # the places around it in the list of its pair, or NONE
        ("next", np.int32),
        ("count", np.int64),  # how often its word occurs
    ]
)
PAIR = np.dtype(
    [
        ("count", np.int64),
        ("left", np.int32),
        ("right", np.int32),
        ("first", np.int32),  # the first of its places, or NONE
        ("next_of_left", np.int32),  # another pair with the same left piece, or NONE
        ("next_of_right", np.int32),
        ("_", np.int32),
    ]
)
NONE = -1
OF_LEFT, OF_RIGHT, WITH_LEFT, WITH_RIGHT = range(4)  # rows of the tables of ``join_places``
PLACES_AT_A_TIME = 1 << 18  # joined between two calls of ``on_work``; some tens of milliseconds

Records = npt.NDArray[np.void]
Numbers = npt.NDArray[np.int32]


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
        self._texts, self._places = lay_out(word_counts)
        on_work()
        self._ids = {text: i for i, text in enumerate(self._texts)}
        size = len(self._texts)
        self._pairs = np.empty(min(self._places.size, size * size), PAIR)
        self._tables = np.full((4, size), NONE, np.int32)
        self._pair_count = int(pair_up(self._places, self._pairs, self._tables))
        on_work()
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
        number = 0
        while self._pairs["first"][pair] != NONE:
            self._pair_count, number = join_places(
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
        self._push(pairs_with_merged[:number].tolist())

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


def lay_out(word_counts: Mapping[str, int]) -> tuple[list[str], Records]:
    """Return the characters of the words as pieces, and the places (characters,) without pairs."""
    keys, lengths = character_keys(word_counts)
    if keys.size >= 1 << 31:
        raise ValueError(f"{keys.size} characters of words are too many")
    known = np.zeros(int(keys.max(initial=0)) + 1, np.bool_)
    known[keys] = True
    pieces = [key_piece(key) for key in np.flatnonzero(known).tolist()]
    places = np.empty(keys.size, PLACE)
    counts = np.fromiter(word_counts.values(), np.int64, len(word_counts))
    _place_words(places, keys, np.cumsum(known, dtype=np.int32) - 1, lengths, counts)
    return pieces, places


@jit()
def _place_words(
    places: Records,
    keys: npt.NDArray[np.uint32],
    piece_of: Numbers,
    lengths: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
) -> None:
    """Fill the places: key k becomes piece ``piece_of[k]``, and no pair is made."""
    start = 0
    for word in range(lengths.size):
        end = start + lengths[word]
        for place in range(start, end):
            places["piece"][place] = piece_of[keys[place]]
            places["before"][place] = place - 1 if place > start else NONE
            places["after"][place] = place + 1 if place + 1 < end else NONE
            places["pair"][place] = NONE
            places["count"][place] = counts[word]
        start = end


@jit()
def pair_up(places: Records, pairs: Records, tables: Numbers) -> int:
    """Make all pairs of neighbours and link the places of each; return the number of pairs.

    ``pairs`` must have room for them. ``tables`` (4, pieces) holds NONE everywhere.
    """
    piece, after = places["piece"], places["after"]
    pieces = tables.shape[1]
    starts = np.zeros(pieces + 1, np.int64)
    for place in range(places.size):
        if after[place] != NONE:
            starts[piece[place] + 1] += 1
    for left in range(pieces):
        starts[left + 1] += starts[left]
    by_left = np.empty(starts[pieces], np.int32)  # all places with a pair, sorted by their piece
    ends = starts.copy()
    for place in range(places.size):
        if after[place] != NONE:
            by_left[ends[piece[place]]] = place
            ends[piece[place]] += 1
    number, found = 0, np.empty(2 * pieces, np.int32)
    for left in range(pieces):
        for i in range(starts[left], ends[left]):
            place = by_left[i]
            pair, number = _pair_with(left, pairs, tables, number, left, piece[after[place]])
            _link(places, pairs, place, pair)
        _collect(left, pairs, tables, found)
    return number


@jit()
def join_places(
    places: Records,
    pairs: Records,
    tables: Numbers,
    number: int,
    pair: int,
    merged: int,
    limit: int,
    found: Numbers,
) -> tuple[int, int]:
    """Join up to ``limit`` places of ``pair`` into the piece ``merged``.

    ``number`` is that of all pairs. ``tables`` (4, pieces) holds the first pair with each left
    piece, the first with each right piece, and twice NONE everywhere: these two rows are used and
    restored. Write all pairs with ``merged`` into ``found``, a pair with itself twice. Return the
    number of all pairs and of the found ones.
    """
    piece, before, after = places["piece"], places["before"], places["after"]
    _enter(merged, pairs, tables)
    for _ in range(limit):
        place = pairs["first"][pair]
        if place == NONE:
            break
        while before[place] != NONE and places["pair"][before[place]] == pair:
            place = before[place]  # in a run of equal pieces, go to its start
        removed, outer = after[place], before[place]
        following = after[removed]
        _unlink(places, pairs, place)
        piece[place], after[place] = merged, following
        if following != NONE:
            _unlink(places, pairs, removed)
            before[following] = place
            new, number = _pair_with(merged, pairs, tables, number, merged, piece[following])
            _link(places, pairs, place, new)
        if outer != NONE:
            _unlink(places, pairs, outer)
            new, number = _pair_with(merged, pairs, tables, number, piece[outer], merged)
            _link(places, pairs, outer, new)
    return number, _collect(merged, pairs, tables, found)


@jit()
def _enter(merged: int, pairs: Records, tables: Numbers) -> None:
    """Enter the pairs with ``merged`` into the two tables, each under its other piece."""
    pair = tables[OF_LEFT, merged]
    while pair != NONE:
        tables[WITH_RIGHT, pairs["right"][pair]] = pair
        pair = pairs["next_of_left"][pair]
    pair = tables[OF_RIGHT, merged]
    while pair != NONE:
        tables[WITH_LEFT, pairs["left"][pair]] = pair
        pair = pairs["next_of_right"][pair]


@jit()
def _collect(merged: int, pairs: Records, tables: Numbers, found: Numbers) -> int:
    """Clear what ``_enter`` and ``_pair_with`` entered; write the pairs, return their number."""
    number = 0
    pair = tables[OF_LEFT, merged]
    while pair != NONE:
        tables[WITH_RIGHT, pairs["right"][pair]] = NONE
        found[number] = pair
        number += 1
        pair = pairs["next_of_left"][pair]
    pair = tables[OF_RIGHT, merged]
    while pair != NONE:
        tables[WITH_LEFT, pairs["left"][pair]] = NONE
        found[number] = pair
        number += 1
        pair = pairs["next_of_right"][pair]
    return number


@jit()
def _pair_with(
    merged: int, pairs: Records, tables: Numbers, number: int, left: int, right: int
) -> tuple[int, int]:
    """Return a pair that has ``merged`` on one side, and the number of pairs with it.

    A pair that is not in the table is added as pair ``number``.
    """
    row, other = (WITH_RIGHT, right) if left == merged else (WITH_LEFT, left)
    if tables[row, other] == NONE:
        tables[row, other] = number
        pairs["count"][number] = 0
        pairs["left"][number], pairs["right"][number] = left, right
        pairs["first"][number] = NONE
        pairs["next_of_left"][number] = tables[OF_LEFT, left]
        pairs["next_of_right"][number] = tables[OF_RIGHT, right]
        tables[OF_LEFT, left] = tables[OF_RIGHT, right] = number
        number += 1
    return tables[row, other], number


@jit()
def _link(places: Records, pairs: Records, place: int, pair: int) -> None:
    """Put ``place`` at the head of the list of ``pair``, and add its count."""
    head = pairs["first"][pair]
    places["pair"][place] = pair
    places["last"][place], places["next"][place] = NONE, head
    if head != NONE:
        places["last"][head] = place
    pairs["first"][pair] = place
    pairs["count"][pair] += places["count"][place]


@jit()
def _unlink(places: Records, pairs: Records, place: int) -> None:
    """Take ``place`` out of the list of its pair, and subtract its count."""
    pair, last, following = places["pair"][place], places["last"][place], places["next"][place]
    if last == NONE:
        pairs["first"][pair] = following
    else:
        places["next"][last] = following
    if following != NONE:
        places["last"][following] = last
    places["pair"][place] = NONE
    pairs["count"][pair] -= places["count"][place]
