"""Compiled loops over all words of a text: the pairs of their pieces, and joining a pair.

All words stand in one row of places. A place holds a piece, the places before and after it in its
word, and the pair that it and the next place form. The places of a pair are linked in a list. A
merge walks this list: it changes two places and the two pairs around them, so its time does not
depend on how long the words are.

    before                    after
    x   a   b   y             x   m   .   y         x a  loses a place, x m gains one
        ^   ^                     ^                 b y  loses a place, m y gains one

A pair that contains the new piece m is found by the other piece in a table. So no pair is ever
looked up by its two pieces.

Memory: a place takes 32 bytes, for each character of the distinct words, and a pair 32 bytes. At
the limits of ``word_counts`` that is 540 MB for the places. Pairs add less than half as much in
ordinary text, which has one for three to six characters. There can be no more than three pairs a
character, because a join makes at most two and removes a place.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from electra_ref.compilation import jit

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

Records = npt.NDArray[np.void]
Numbers = npt.NDArray[np.int32]


@jit()
def place_words(
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
def sort_by_piece(places: Records, pieces: int) -> tuple[Numbers, npt.NDArray[np.int64]]:
    """Return the places that have one after them, sorted by piece, and where each piece starts."""
    piece, after = places["piece"], places["after"]
    starts = np.zeros(pieces + 1, np.int64)
    for place in range(places.size):
        if after[place] != NONE:
            starts[piece[place] + 1] += 1
    for left in range(pieces):
        starts[left + 1] += starts[left]
    ends = starts.copy()
    by_piece = np.empty(starts[pieces], np.int32)
    for place in range(places.size):
        if after[place] != NONE:
            by_piece[ends[piece[place]]] = place
            ends[piece[place]] += 1
    return by_piece, starts


@jit()
def pair_up(
    places: Records, pairs: Records, tables: Numbers, number: int, left: int, with_left: Numbers
) -> int:
    """Make the pairs of the piece ``left`` and link their places ``with_left``, all it stands in.

    ``number`` is that of the pairs so far; return it with the new ones. ``pairs`` must have room
    for them. ``tables`` is as for ``join_places``.
    """
    for place in with_left:
        right = places["piece"][places["after"][place]]
        pair, number = _pair_with(left, pairs, tables, number, left, right)
        _link(places, pairs, place, pair)
    _collect(left, pairs, tables, np.empty(2 * tables.shape[1], np.int32))
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
