"""Windows over a long sequence: every token is answered once, where it has the most context."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.training.prediction.windows import SHORTEST, Window, windows_of

LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=2)
LONGEST = st.integers(SHORTEST, 40)
STRIDE = st.none() | st.integers(1, 38)


def cut(lengths: list[int], longest: int, stride: int | None = None) -> list[Window]:
    return list(windows_of(lengths, longest, stride))


def places_of_texts(lengths: list[int]) -> list[range]:
    """The places of the tokens of each text, without [CLS] and [SEP]."""
    starts = [1, 2 + lengths[0]]
    return [range(start, start + n) for start, n in zip(starts, lengths, strict=False)]


@given(lengths=LENGTHS, longest=LONGEST, stride=STRIDE)
def test_every_token_is_answered_exactly_once(
    lengths: list[int], longest: int, stride: int | None
) -> None:
    windows = cut(lengths, longest, stride)
    owned = np.concatenate([window.places[window.owned] for window in windows])
    assert sorted(owned.tolist()) == list(range(sum(lengths) + 1 + len(lengths)))
    assert all(window.owned.any() for window in windows)


@given(lengths=LENGTHS, longest=LONGEST, stride=STRIDE)
def test_a_window_is_a_shorter_sequence_of_the_same_form(
    lengths: list[int], longest: int, stride: int | None
) -> None:
    """[CLS], a part of each text, and [SEP] behind each part; never longer than the model reads."""
    special = [0, *(text.stop for text in places_of_texts(lengths))]
    windows = cut(lengths, longest, stride)
    for window in windows:
        assert window.places.size <= longest
        assert set(special) <= set(window.places.tolist())
        assert window.places[0] == 0
        for text in places_of_texts(lengths):
            part = [place for place in window.places.tolist() if place in text]
            assert part == list(range(part[0], part[-1] + 1)) if part else not text
    assert len({window.places.size for window in windows}) == 1
    if len(windows) > 1:
        assert windows[0].places.size == longest, "no room is wasted"


@given(lengths=LENGTHS, longest=LONGEST, stride=STRIDE)
def test_a_token_is_answered_where_it_has_the_most_context(
    lengths: list[int], longest: int, stride: int | None
) -> None:
    windows = cut(lengths, longest, stride)
    for text in places_of_texts(lengths):
        parts = [[place for place in w.places.tolist() if place in text] for w in windows]
        for place in text:
            context = [
                min(place - part[0], part[-1] - place) if place in part else -1 for part in parts
            ]
            answers = next(
                number
                for number, window in enumerate(windows)
                if place in window.places[window.owned]
            )
            assert answers == context.index(max(context))


@given(lengths=LENGTHS, longest=LONGEST, stride=STRIDE)
def test_neighbours_are_at_most_a_stride_apart(
    lengths: list[int], longest: int, stride: int | None
) -> None:
    windows = cut(lengths, longest, stride)
    for text in places_of_texts(lengths):
        parts = [[place for place in w.places.tolist() if place in text] for w in windows]
        if text:
            assert parts[0][0] == text.start
            assert parts[-1][-1] == text.stop - 1
            step = max(1, len(parts[0]) // 2) if stride is None else min(stride, len(parts[0]))
            assert all(0 <= after[0] - before[0] <= step for before, after in pairwise(parts))


def test_an_example_by_hand() -> None:
    """Ten tokens, six of them in a window, which moves by two: 0-5, 2-7, 4-9."""
    windows = cut([10], 8, 2)
    assert [window.places.tolist() for window in windows] == [
        [0, 1, 2, 3, 4, 5, 6, 11],
        [0, 3, 4, 5, 6, 7, 8, 11],
        [0, 5, 6, 7, 8, 9, 10, 11],
    ]
    assert [window.places[window.owned].tolist() for window in windows] == [
        [0, 1, 2, 3, 4],
        [5, 6],
        [7, 8, 9, 10, 11],
    ]


@pytest.mark.parametrize(
    ("lengths", "shown"),
    [([3, 30], (3, 14)), ([30, 3], (14, 3)), ([30, 40], (8, 9)), ([40, 8], (9, 8))],
)
def test_a_short_text_of_a_pair_is_in_every_window(
    lengths: list[int], shown: tuple[int, int]
) -> None:
    first, second = places_of_texts(lengths)
    for window in cut(lengths, 20):
        places = window.places.tolist()
        assert len(set(places) & set(first)) == shown[0]
        assert len(set(places) & set(second)) == shown[1]


def test_a_pair_may_have_an_empty_text() -> None:
    windows = cut([0, 20], 11, 3)
    assert [window.places[:3].tolist() for window in windows] == [
        [0, 1, start] for start in (2, 5, 8, 11, 14)
    ]


def test_what_fits_is_one_window() -> None:
    (window,) = cut([3, 2], 8, 1)
    assert window.places.tolist() == list(range(8))
    assert window.owned.all()
    assert len(cut([3, 3], 8)) > 1
