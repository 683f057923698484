"""From what the head says to answers: each rule of the original by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from electra_ref.model.heads.joint_span import Beam
from electra_ref.model.heads.span import SpanLogits
from electra_ref.training.finetuning.span_decoding import DecodingLimits, SpanPrediction, decode
from electra_ref.training.finetuning.span_windows import Window

CONTEXT = "a b c d e f"
LIMITS = DecodingLimits(n_best=20, longest=30)


def window_of(start: int, end: int, owned: tuple[int, int] | None = None) -> Window:
    """Return a window over the letters [start, end) of CONTEXT; its row has 3 tokens before."""
    offsets = np.array([[2 * i, 2 * i + 1] for i in range(start, end)], np.int32)
    return Window(3, offsets.reshape(-1, 2), owned or (0, end - start), (0, 0), False, True)


def beam_of(impossible: float, *spans: tuple[int, int, float]) -> Beam:
    """Return a beam of K spans (start, end, score), each the best end of its start."""
    count = len(spans)
    ends = np.zeros((count, count), np.int32)
    end_scores = np.full((count, count), -1e3, np.float32)
    for number, (_, end, score) in enumerate(spans):
        ends[number, 0], end_scores[number, 0] = end, score + 1.0
    starts = np.array([start for start, *_ in spans], np.int32)
    return Beam(
        starts, np.full(count, -1.0, np.float32), ends, end_scores, np.array(impossible, np.float32)
    )


def decode_one(beam: Beam, window: Window | None = None, limits: Any = LIMITS) -> SpanPrediction:
    return decode(CONTEXT, [window or window_of(0, 6)], [beam], limits)


def texts_of(prediction: SpanPrediction) -> list[str]:
    return [candidate.text for candidate in prediction.candidates]


def test_the_best_span_is_a_piece_of_the_context() -> None:
    beam = beam_of(0.25, (4, 6, -2.0), (3, 3, -1.0), (5, 8, -3.0))
    prediction = decode_one(beam)
    assert texts_of(prediction) == ["a", "b c d", "c d e f"]
    best = prediction.candidates[0]
    assert (best.start, best.end, best.score) == (0, 1, -1.0)
    assert json.loads(json.dumps(prediction)) == [list(map(list, prediction.candidates)), 0.25]
    assert CONTEXT[slice(*prediction.candidates[2][1:3])] == "c d e f"
    assert prediction.null_odds == 0.25


def test_probabilities_are_a_softmax_of_the_scores() -> None:
    prediction = decode_one(beam_of(0.0, (3, 3, math.log(0.2)), (4, 4, math.log(0.6))))
    probabilities = [candidate.probability for candidate in prediction.candidates]
    np.testing.assert_allclose(probabilities, [0.75, 0.25], rtol=1e-6)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (0, 0),  # [CLS]
        (1, 4),  # starts in the question
        (2, 4),
        (3, 9),  # [SEP] after the context
        (3, 12),  # padding
        (9, 9),
        (5, 4),  # ends before it starts
        (3, 0),
    ],
)
def test_spans_that_are_no_answers(start: int, end: int) -> None:
    prediction = decode_one(beam_of(0.0, (start, end, -0.1), (5, 5, -9.0)))
    assert texts_of(prediction) == ["c"]


def test_long_answers_are_dropped() -> None:
    beam = beam_of(0.0, (3, 6, -1.0), (3, 5, -2.0))
    assert texts_of(decode_one(beam, limits=DecodingLimits(20, 3))) == ["a b c"]
    assert texts_of(decode_one(beam, limits=DecodingLimits(20, 4))) == ["a b c d", "a b c"]


def test_only_starts_that_the_window_owns() -> None:
    """The end may be a token that another window answers."""
    window = window_of(0, 6, owned=(1, 3))
    beam = beam_of(0.0, (3, 5, -1.0), (4, 8, -2.0), (6, 6, -3.0), (5, 5, -4.0))
    assert texts_of(decode_one(beam, window)) == ["b c d e f", "c"]


def test_all_windows_compete_and_the_smallest_null_odds_count() -> None:
    windows = [window_of(0, 3), window_of(3, 6)]
    said = [beam_of(2.0, (3, 3, -2.0), (4, 4, -3.0)), beam_of(-1.0, (3, 4, -1.0), (5, 5, -2.5))]
    prediction = decode(CONTEXT, windows, said, LIMITS)
    assert texts_of(prediction) == ["d e", "a", "f", "b"]
    assert prediction.null_odds == -1.0


def test_of_equal_texts_the_best_stays() -> None:
    prediction = decode(
        "x y x", [window_of(0, 3)], [beam_of(0.0, (5, 5, -1.0), (3, 3, -2.0))], LIMITS
    )
    assert [candidate[:4] for candidate in prediction.candidates] == [("x", 4, 5, -1.0)]


def test_of_equal_scores_the_first_comes_first() -> None:
    prediction = decode_one(beam_of(0.0, (5, 5, -1.0), (3, 3, -1.0)))
    assert texts_of(prediction) == ["c", "a"]
    even = decode(CONTEXT, [window_of(0, 5)], [logits_of([0.0] * 8, [0.0] * 8)], LIMITS)
    assert texts_of(even)[:6] == ["a", "a b", "a b c", "a b c d", "a b c d e", "b"]


def test_as_many_as_are_wanted() -> None:
    beam = beam_of(0.0, (3, 3, -1.0), (4, 4, -2.0), (5, 5, -3.0))
    assert texts_of(decode_one(beam, limits=DecodingLimits(2, 30))) == ["a", "b"]


def test_no_span_at_all() -> None:
    prediction = decode_one(beam_of(1.5, (0, 0, -0.1)), window_of(0, 0))
    assert prediction == SpanPrediction((), 1.5)


def logits_of(starts: list[float], ends: list[float]) -> SpanLogits:
    return SpanLogits(np.array(starts, np.float32), np.array(ends, np.float32))


def test_logits_of_the_form_huggingface() -> None:
    """The best starts with the best ends; null odds are start[0] + end[0] less the best score."""
    logits = logits_of([1, 0, 0, 5, 2, 0, 9, 9], [2, 0, 0, 1, 4, 0, 9, 9])
    window = window_of(0, 3)
    prediction = decode(CONTEXT, [window], [logits], DecodingLimits(8, 30))
    assert texts_of(prediction)[:4] == ["a b", "a", "b", "a b c"]
    assert prediction.candidates[0].score == 9.0
    assert prediction.null_odds == 3.0 - 9.0
    second = logits_of([0, 0, 0, 1, 0, 0, 0, 0], [0.5, 0, 0, 1, 0, 0, 0, 0])
    both = decode(CONTEXT, [window, window_of(3, 6)], [logits, second], DecodingLimits(8, 30))
    assert both.null_odds == 0.5 - 9.0
    assert "d" in texts_of(both)


def test_logits_are_read_only_as_far_as_the_best() -> None:
    """With two starts and two ends, both go to padding and [CLS] here: nothing is left."""
    logits = logits_of([8, 0, 0, 5, 2, 0, 0, 9], [2, 0, 0, 1, 4, 0, 9, 9])
    assert decode(CONTEXT, [window_of(0, 3)], [logits], DecodingLimits(2, 30)).candidates == ()
    prediction = decode(CONTEXT, [window_of(0, 3)], [logits], DecodingLimits(3, 30))
    assert texts_of(prediction) == ["a b"]
    assert prediction.null_odds == 10.0 - 9.0
