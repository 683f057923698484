"""Scores of answers as SQuAD defines them: exact match and F1, and the best threshold for none.

    exact   1 if the normalized answer is one of the normalized true ones, otherwise 0
    F1      2 P R / (P + R), P and R over the words that both have; the best of the true answers

Normalized: lower case, without ASCII punctuation, without the words a, an, the, with one space
between words. A true answer that normalizes to nothing does not count, unless there is no other;
no answer is right where there is none (``exact`` and ``F1`` 1).

With questions that have no answer, "" is the answer where the null odds are above the threshold.
``best_exact`` and ``best_f1`` are the scores at the best threshold for these answers, which is
given, too: it is one of the null odds, or 0 where answering nothing is best. The official script
moves the threshold past equal null odds one by one, and so may find a best score that no threshold
has; here it moves past all of them at once.
Source: Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1; Rajpurkar et al. 2018,
arXiv:1806.03822, section 5; the official evaluate-v2.0.py of the data set.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Answer(NamedTuple):
    """An answer, and what is true."""

    text: str  # the best one that is not ""; "" if there is none
    null_odds: float | None  # large where there is no answer; None if "" is never the answer
    gold: tuple[str, ...]  # empty where the question has no answer


class _Scored(NamedTuple):
    exact: float
    f1: float
    has_answer: bool
    is_empty: bool  # the answer is "" whatever the threshold
    null_odds: float


def squad_scores(answers: Iterable[Answer], threshold: float) -> dict[str, float]:
    """Return the scores in percent, their counts and the thresholds, by the official names.

    ``HasAns`` and ``NoAns`` are there if some questions have no answer, the best thresholds if the
    answers have null odds as well. No answers at all have no scores.
    """
    scored = [_score(answer) for answer in answers]
    if not scored:
        return {}
    decided = [_decide(one, threshold) for one in scored]
    without = [one for one in decided if not one.has_answer]
    scores = _means(decided, "")
    if without and all(one.null_odds > -math.inf for one in scored):
        exact, exact_threshold = _best_threshold(scored, [one.exact for one in scored])
        best_f1, f1_threshold = _best_threshold(scored, [one.f1 for one in scored])
        scores |= {"best_exact": exact, "best_f1": best_f1}
        scores |= {"best_exact_thresh": exact_threshold, "best_f1_thresh": f1_threshold}
    if without:
        scores |= _means([one for one in decided if one.has_answer], "HasAns_")
        scores |= _means(without, "NoAns_")
        scores |= {"HasAns_total": len(scored) - len(without), "NoAns_total": len(without)}
    scores["total"] = len(scored)
    return scores


def normalize(text: str) -> str:
    """Return ``text`` as it is compared."""
    text = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", text).split())


def exact_match(text: str, gold: Sequence[str]) -> float:
    """Return 1 if ``text`` is one of ``gold``, or 0."""
    return float(any(normalize(text) == normalize(one) for one in _counted(gold)))


def f1(text: str, gold: Sequence[str]) -> float:
    """Return how far ``text`` agrees with the one of ``gold`` that is most like it."""
    return max(_f1(normalize(text).split(), normalize(one).split()) for one in _counted(gold))


def _counted(gold: Sequence[str]) -> Sequence[str]:
    """Return the true answers that count; "" where none does."""
    return [one for one in gold if normalize(one)] or [""]


def _f1(words: list[str], gold: list[str]) -> float:
    if not words or not gold:
        return float(words == gold)
    common = (Counter(words) & Counter(gold)).total()
    return 2.0 * common / (len(words) + len(gold))  # = 2 P R / (P + R)


def _score(answer: Answer) -> _Scored:
    return _Scored(
        exact=exact_match(answer.text, answer.gold),
        f1=f1(answer.text, answer.gold),
        has_answer=bool(answer.gold),
        is_empty=not answer.text,
        null_odds=-math.inf if answer.null_odds is None else answer.null_odds,
    )


def _decide(one: _Scored, threshold: float) -> _Scored:
    """Return the scores after the threshold has decided for "" or for the text."""
    if one.null_odds <= threshold:
        return one
    right = float(not one.has_answer)
    return one._replace(exact=right, f1=right)


def _means(scored: Sequence[_Scored], prefix: str) -> dict[str, float]:
    """Return the means in percent; none at all have no scores."""
    if not scored:
        return {}
    percent = 100.0 / len(scored)
    return {
        f"{prefix}exact": percent * sum(one.exact for one in scored),
        f"{prefix}f1": percent * sum(one.f1 for one in scored),
    }


def _best_threshold(scored: Sequence[_Scored], points: Sequence[float]) -> tuple[float, float]:
    """Return the best mean of ``points`` in percent, and the smallest threshold that reaches it.

    First every answer is "". Then the threshold rises over the null odds, one after the other.
    """
    points_now = best = float(sum(not one.has_answer for one in scored))
    threshold = 0.0
    ascending = sorted(zip(scored, points, strict=True), key=lambda pair: pair[0].null_odds)
    for odds, group in groupby(ascending, key=lambda pair: pair[0].null_odds):
        for one, own in group:
            if one.has_answer:
                points_now += own
            elif not one.is_empty:
                points_now -= 1.0
        if points_now > best:
            best, threshold = points_now, odds
    return 100.0 * best / len(scored), threshold
