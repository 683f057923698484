"""How a sequence that is longer than the model reads is cut, so that no token is left out.

    sequence    [CLS] text [SEP]        or        [CLS] text [SEP] second text [SEP]
    window      the same with a part of each text; the next window begins ``stride`` tokens later

Each token is answered from one window: the one in which it has the most context, that is, in which
the smaller one of its distances to both ends of the part is largest. [CLS] is answered from the
first window, [SEP] from the last one. Windows are spread evenly, so the last one is as long as the
others, and two neighbours are at most ``stride`` apart.

Of two texts, one that takes less than half of the room is in every window as a whole. Otherwise
both get half of it and move on together, in proportion to their lengths.
Source: google-research/bert run_squad.py (``_check_is_max_context``). There a window moves by the
full stride and the last one is shorter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

SHORTEST = 5  # tokens of a window: [CLS], one of each text, [SEP] twice


class Window(NamedTuple):
    """T places of the sequence, and which of them are answered from here."""

    places: npt.NDArray[np.int64]  # (T,)  they ascend
    owned: npt.NDArray[np.bool_]  # (T,)


class _Part(NamedTuple):
    """What the windows show of one text."""

    start: int  # place of its first token in the sequence
    room: int  # tokens of it in each window
    starts: list[int]  # (windows)  first token in each window
    owned: list[tuple[int, int]]  # (windows)  [first, end) of the tokens that are answered there


def windows_of(lengths: Sequence[int], longest: int, stride: int | None) -> Iterator[Window]:
    """Yield the windows of a sequence of texts with ``lengths`` tokens, one or two.

    A window has at most ``longest`` tokens, at least SHORTEST. Without ``stride`` it moves on by
    half of what it shows.
    """
    size = 1 + sum(lengths) + len(lengths)
    if size <= longest:
        yield Window(np.arange(size), np.ones(size, bool))
        return
    rooms = _rooms(lengths, longest - 1 - len(lengths))
    steps = [max(1, room // 2) if stride is None else min(stride, room) for room in rooms]
    count = 1 + max(
        -(-(length - room) // max(step, 1))
        for length, room, step in zip(lengths, rooms, steps, strict=True)
    )
    parts, start = [], 1
    for length, room in zip(lengths, rooms, strict=True):
        starts = [number * (length - room) // max(count - 1, 1) for number in range(count)]
        parts.append(_Part(start, room, starts, _owned(starts, room, length)))
        start += length + 1
    for number in range(count):
        yield _window(parts, lengths, number, is_last=number == count - 1)


def _rooms(lengths: Sequence[int], room: int) -> list[int]:
    """Return how many tokens of each text a window shows."""
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    first = min(lengths[0], max(room // 2, room - lengths[1]))
    return [first, min(lengths[1], room - first)]


def _owned(starts: list[int], room: int, length: int) -> list[tuple[int, int]]:
    """Return the tokens that each window answers; of equal windows the first answers."""
    distinct = sorted(set(starts))
    ends = [(one + other + room - 1) // 2 + 1 for one, other in pairwise(distinct)]
    bounds = dict(zip(distinct, pairwise([0, *ends, length]), strict=True))
    return [bounds.pop(start, (0, 0)) for start in starts]


def _window(parts: list[_Part], lengths: Sequence[int], number: int, *, is_last: bool) -> Window:
    places, owned = [np.zeros(1, np.int64)], [np.array([number == 0])]
    for part, length in zip(parts, lengths, strict=True):
        tokens = np.arange(part.starts[number], part.starts[number] + part.room)
        first, end = part.owned[number]
        places += [part.start + tokens, np.array([part.start + length])]
        owned += [(first <= tokens) & (tokens < end), np.array([is_last])]
    return Window(np.concatenate(places), np.concatenate(owned))
