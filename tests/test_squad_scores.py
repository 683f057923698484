"""The scores of SQuAD, by hand."""

from __future__ import annotations

import math

import pytest

from electra_ref.training.finetuning.scores.squad import (
    Answer,
    exact_match,
    f1,
    normalize,
    squad_scores,
)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Cat's hat.", "cats hat"),
        ("an apple, a day", "apple day"),
        ("Theatre another", "theatre another"),  # articles are whole words
        ("U.S.A.", "usa"),
        ("the", ""),
        ("50\u201360 %", "50\u201360"),  # punctuation of ASCII only
        ("the-a", "thea"),  # punctuation goes first
        ("\u00a0x\ty\n", "x y"),
    ],
)
def test_normalization(text: str, normalized: str) -> None:
    assert normalize(text) == normalized


def test_exact_match_of_any_answer() -> None:
    assert exact_match("the Cat", ("dog", "cat.")) == 1.0
    assert exact_match("cats", ("dog", "cat")) == 0.0


def test_f1_by_hand() -> None:
    """P = 2/3, R = 2/4: of "x x b" and "x x c d" two words are common."""
    assert f1("x x b", ("x x c d",)) == pytest.approx(4 / 7, rel=1e-15)
    assert f1("x x b", ("y", "x x c d", "b")) == pytest.approx(4 / 7, rel=1e-15)
    assert f1("x b b", ("x x",)) == pytest.approx(2 / 5, rel=1e-15)  # a word counts as often
    assert f1("x", ("y",)) == 0.0


def test_nothing_is_right_where_there_is_nothing() -> None:
    assert (exact_match("", ()), f1("", ())) == (1.0, 1.0)
    assert (exact_match("x", ()), f1("x", ())) == (0.0, 0.0)
    assert (exact_match("", ("x",)), f1("", ("x",))) == (0.0, 0.0)
    assert f1("the", ()) == 1.0
    assert exact_match("", ("the", "x")) == 0.0  # an answer of an article alone does not count
    assert exact_match("", ("the",)) == 1.0


def test_scores_without_impossible_questions() -> None:
    answers = [Answer("cat", None, ("cat",)), Answer("a b c", None, ("b d",))]
    scores = squad_scores(answers, threshold=-2.75)
    assert list(scores) == ["exact", "f1", "total"]
    assert scores["exact"] == 50.0
    assert scores["f1"] == pytest.approx(75.0)  # 2 * 1 / (2 + 2): "a" is an article
    assert scores["total"] == 2.0


EXAMPLES = [
    Answer("cat", -5.0, ("cat",)),  # right
    Answer("dog", -4.0, ()),  # wrong: there is no answer
    Answer("x y", -3.0, ("x", "z")),  # F1 2/3
    Answer("cow", -2.0, ("cow",)),  # right, but above the threshold
    Answer("owl", -1.0, ()),  # right above the threshold
]


def test_scores_with_impossible_questions() -> None:
    scores = squad_scores(EXAMPLES, threshold=-2.75)
    assert scores["exact"] == pytest.approx(100 * 2 / 5)
    assert scores["f1"] == pytest.approx(100 * (1 + 2 / 3 + 1) / 5)
    assert scores["HasAns_exact"] == pytest.approx(100 / 3)
    assert scores["HasAns_f1"] == pytest.approx(100 * (1 + 2 / 3) / 3)
    assert scores["NoAns_exact"] == scores["NoAns_f1"] == 50.0
    assert (scores["total"], scores["HasAns_total"], scores["NoAns_total"]) == (5.0, 3.0, 2.0)
    assert list(scores)[:4] == ["exact", "f1", "best_exact", "best_f1"]


def test_best_thresholds() -> None:
    """Points by threshold: all "" 2; -5: 3; -4: 2; -3: 2 or 2.67; -2: 3 or 3.67; -1: one less."""
    scores = squad_scores(EXAMPLES, threshold=-2.75)
    assert squad_scores(EXAMPLES[::-1], threshold=-2.75) == pytest.approx(scores)
    assert scores["best_exact"] == pytest.approx(60.0)
    assert scores["best_exact_thresh"] == -5.0
    assert scores["best_f1"] == pytest.approx(100 * (2 / 3 + 3) / 5)
    assert scores["best_f1_thresh"] == -2.0


def test_the_threshold_itself_still_answers() -> None:
    answers = [Answer("x", 1.0, ("x",)), Answer("y", 2.0, ())]
    assert squad_scores(answers, threshold=1.0)["exact"] == 100.0
    assert squad_scores(answers, threshold=0.9)["exact"] == 50.0
    assert squad_scores(answers, threshold=2.0)["exact"] == 50.0


def test_where_answering_nothing_is_best_the_threshold_is_0() -> None:
    scores = squad_scores([Answer("x", -3.0, ("y",)), Answer("y", -4.0, ())], 0.0)
    assert (scores["best_exact"], scores["best_exact_thresh"]) == (50.0, 0.0)


def test_an_answer_that_is_empty_costs_nothing_at_any_threshold() -> None:
    scores = squad_scores([Answer("", -3.0, ()), Answer("x", -2.0, ("x",))], 0.0)
    assert (scores["best_exact"], scores["best_exact_thresh"]) == (100.0, -2.0)


def test_equal_null_odds_are_passed_together() -> None:
    """No threshold lies between the two, so 1 of 2 is the best; one by one it would be 2."""
    answers = [Answer("x", -3.0, ("x",)), Answer("y", -3.0, ())]
    for order in (answers, answers[::-1]):
        scores = squad_scores(order, 0.0)
        assert (scores["best_exact"], scores["best_exact_thresh"]) == (50.0, 0.0)


def test_best_is_at_least_as_good_as_any_threshold() -> None:
    for threshold in (-math.inf, *(answer.null_odds or 0.0 for answer in EXAMPLES), math.inf):
        scores = squad_scores(EXAMPLES, threshold)
        assert scores["exact"] <= scores["best_exact"]
        assert scores["f1"] <= scores["best_f1"]
    at_best = squad_scores(EXAMPLES, scores["best_f1_thresh"])
    assert at_best["f1"] == pytest.approx(scores["best_f1"])


def test_impossible_questions_without_null_odds_and_no_questions_at_all() -> None:
    scores = squad_scores([Answer("x", None, ("x",)), Answer("y", None, ())], 0.0)
    assert scores["exact"] == 50.0
    assert not [name for name in scores if name.startswith("best")]
    assert "HasAns_exact" not in squad_scores([Answer("y", 1.0, ())], 0.0)
    assert squad_scores([], 0.0) == {}
