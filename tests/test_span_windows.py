"""Windows over a context: their parts, which one answers a token, and what they learn."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.finetuning.formats.squad import Question
from electra_ref.training.finetuning.span_windows import (
    Limits,
    Window,
    owned_of,
    parts_of,
    windows_of,
)
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Feature

WORDS = ("who", "what", "ann", "##a", "b", "c", "d", "e", "f", ".")
TOKENIZER = WordPiece(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS))
CLS, SEP = 2, 3
WHO, WHAT, ANN, A_PIECE, B, C, D, E, F, DOT = range(5, 15)


def question_of(context: str, answer: str | None = None, **changes: Any) -> Question:
    start = -1 if answer is None else context.index(answer)
    span = None if answer is None else (start, start + len(answer))
    texts = () if answer is None else (answer,)
    question = Question("q", "who", context, texts, span, False, answer is not None)
    return question._replace(**changes)


def features_of(question: Question, limits: Limits, tally: Tally | None = None) -> list[Feature]:
    return windows_of(4, question, TOKENIZER, limits, tally or Tally())


def detail_of(feature: Feature) -> Window:
    window: Window = feature.detail
    return window


@pytest.mark.parametrize(
    ("length", "room", "stride", "parts"),
    [
        (0, 5, 2, [(0, 0)]),
        (5, 5, 2, [(0, 5)]),
        (6, 5, 2, [(0, 5), (2, 6)]),
        (7, 5, 2, [(0, 5), (2, 7)]),
        (8, 5, 2, [(0, 5), (2, 7), (4, 8)]),
        (8, 5, 9, [(0, 5), (2, 7), (4, 8)]),  # half of the room at most
        (3, 1, 2, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_parts(length: int, room: int, stride: int, parts: list[tuple[int, int]]) -> None:
    assert parts_of(length, room, stride) == parts


def most_context(parts: list[tuple[int, int]], token: int) -> int:
    """Return the window with the most context, by the definition, one window after the other."""
    best, found = -1.0, -1
    for number, (start, end) in enumerate(parts):
        if start <= token < end:
            context = min(token - start, end - 1 - token) + 0.01 * (end - start)
            if context > best:
                best, found = context, number
    return found


@pytest.mark.parametrize(("room", "stride"), [(5, 2), (5, 1), (384, 128), (300, 150), (250, 1)])
def test_each_token_is_answered_where_it_has_the_most_context(room: int, stride: int) -> None:
    for length in (1, room, room + 1, room + stride, room + stride + 1, 3 * room + 7):
        parts = parts_of(length, room, stride)
        owned = owned_of(parts)
        answering = [
            number
            for token in range(length)
            for number, (first, end) in enumerate(owned)
            if first <= token < end
        ]
        assert answering == [most_context(parts, token) for token in range(length)]


def test_a_short_last_window_has_less_context_for_its_length() -> None:
    """It adds one token; what both show is answered by the longer one (0.01 a token)."""
    parts = parts_of(385, 384, 128)
    assert parts == [(0, 384), (128, 385)]
    assert owned_of(parts) == [(0, 384), (384, 385)]


def test_the_rows_of_a_context_in_windows() -> None:
    tally = Tally()
    question = question_of("anna b c d e f .", "c d")
    features = features_of(question, Limits(9, 4, 2), tally)
    assert [feature.record for feature in features] == [4, 4, 4]
    ids = [feature.rows[0].ids.tolist() for feature in features]
    assert ids == [
        [CLS, WHO, SEP, ANN, A_PIECE, B, C, D, SEP],
        [CLS, WHO, SEP, B, C, D, E, F, SEP],
        [CLS, WHO, SEP, D, E, F, DOT, SEP],
    ]
    assert features[0].rows[0].segments.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    windows = list(map(detail_of, features))
    assert [window.first for window in windows] == [3, 3, 3]
    assert [window.answer for window in windows] == [(6, 7), (4, 5), (0, 0)]
    assert [window.owned for window in windows] == [(0, 4), (2, 4), (2, 4)]
    assert windows[0].offsets.tolist() == [[0, 3], [3, 4], [5, 6], [7, 8], [9, 10]]
    assert all(window.is_labelled and not window.impossible for window in windows)
    assert tally.counts() == {
        "contexts in several windows of 9 tokens": 1,
        "windows without the whole answer": 1,
    }


def test_an_answer_that_ends_after_a_window_is_not_in_it() -> None:
    features = features_of(question_of("anna b c d e f .", "d e"), Limits(9, 4, 2))
    assert [detail_of(feature).answer for feature in features] == [(0, 0), (5, 6), (3, 4)]
    features = features_of(question_of("anna b c d e f .", "anna b"), Limits(9, 4, 2))
    assert [detail_of(feature).answer for feature in features] == [(3, 5), (0, 0), (0, 0)]


def test_tokens_are_answered_once_over_all_windows() -> None:
    for longest, stride in itertools.product(range(8, 20), (1, 2, 5)):
        features = features_of(question_of("b c d e f b c d e f . b c"), Limits(longest, 4, stride))
        places = [
            tuple(window.offsets[token].tolist())
            for window in map(detail_of, features)
            for token in range(*window.owned)
        ]
        assert places == [(2 * i, 2 * i + 1) for i in range(13)]


def test_a_long_question_is_cut_and_counted() -> None:
    tally = Tally()
    question = question_of("b", question="who what who what who")
    (feature,) = features_of(question, Limits(20, 3, 2), tally)
    assert feature.rows[0].ids.tolist() == [CLS, WHO, WHAT, WHO, SEP, B, SEP]
    (feature,) = features_of(question, Limits(8, 64, 2), tally)  # half of the room
    assert feature.rows[0].ids.tolist() == [CLS, WHO, WHAT, SEP, B, SEP]
    assert list(tally.lines()) == [
        "1 question cut to 3 tokens (the first: id q)",
        "1 question cut to 2 tokens (the first: id q)",
    ]
    features_of(question_of("b", question="who what who"), Limits(20, 3, 2), other := Tally())
    assert other.counts() == {}


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        ("anna", (0, 1)),
        ("ann", (0, 0)),
        ("nn", (0, 0)),  # the piece that the characters touch
        ("na b", (0, 2)),
        ("b", (2, 2)),
        (" b ", (2, 2)),
        ("Anna b c", (0, 3)),
        ("c", (3, 3)),
    ],
)
def test_the_answer_is_the_pieces_that_its_characters_touch(
    answer: str, tokens: tuple[int, int]
) -> None:
    context = "Anna b c"
    start = context.lower().index(answer.lower())
    question = question_of(context, span=(start, start + len(answer)))
    (feature,) = features_of(question, Limits(20, 4, 2))
    assert detail_of(feature).answer == (3 + tokens[0], 3 + tokens[1])


def test_an_impossible_question_and_one_that_nobody_answered() -> None:
    impossible = question_of("b c", impossible=True, is_labelled=True)
    (window,) = map(detail_of, features_of(impossible, Limits(20, 4, 2), tally := Tally()))
    assert (window.answer, window.impossible, window.is_labelled) == ((0, 0), True, True)
    (window,) = map(detail_of, features_of(question_of("b c"), Limits(20, 4, 2), tally))
    assert (window.answer, window.impossible, window.is_labelled) == ((0, 0), False, False)
    not_found = question_of("b c", answers=("x",), is_labelled=True)
    (window,) = map(detail_of, features_of(not_found, Limits(20, 4, 2), tally))
    assert not window.is_labelled
    assert tally.counts() == {}


def test_a_context_without_tokens_and_an_answer_without_one() -> None:
    (feature,) = features_of(question_of(" "), Limits(20, 4, 2))
    window = detail_of(feature)
    assert (window.owned, window.offsets.shape) == ((0, 0), (0, 2))
    assert feature.rows[0].ids.tolist()[:3] == [CLS, WHO, SEP]
    dropped = question_of("b \u200d c", span=(2, 3))  # a character that the tokenizer drops
    features = features_of(dropped, Limits(20, 4, 2), tally := Tally())
    assert detail_of(features[0]).answer == (0, 0)
    assert not detail_of(features[0]).is_labelled  # [CLS] would mean that there is no answer
    assert tally.counts() == {"answers without a token": 1}
