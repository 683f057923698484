"""How many spans were found: precision, recall and F1 of spans with the right words and type.

    precision = right / found        recall = right / there        F1 = 2 right / (found + there)

The counts are those of all sentences together (micro average). A span is right only if its first
word, its last word and its type are. A ratio of nothing is 0.
Source: conlleval of CoNLL-2000, whose figures, and seqeval's, these are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import NamedTuple


class Counts(NamedTuple):
    """Numbers of spans by type."""

    right: Counter[str]
    found: Counter[str]
    there: Counter[str]


def count_spans(pairs: Iterable[tuple[Iterable[tuple[str, Hashable]], ...]]) -> Counts:
    """Count the spans of sentences: of each those that are there and those that were found.

    A span is its type and what tells it from the others of the sentence.
    """
    counts = Counts(Counter(), Counter(), Counter())
    for there, found in pairs:
        there, found = set(there), set(found)  # noqa: PLW2901
        counts.there.update(kind for kind, _ in there)
        counts.found.update(kind for kind, _ in found)
        counts.right.update(kind for kind, _ in there & found)
    return counts


def span_scores(counts: Counts) -> dict[str, float]:
    """Return F1, precision and recall, and F1 of each type that is there or was found."""
    right, found, there = (counter.total() for counter in counts)
    scores = {
        "f1": _f1(right, found, there),
        "precision": _ratio(right, found),
        "recall": _ratio(right, there),
    }
    for kind in sorted(counts.found | counts.there):
        scores[f"f1_{kind}"] = _f1(*(counter[kind] for counter in counts))
    return scores


def _f1(right: int, found: int, there: int) -> float:
    return _ratio(2 * right, found + there)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
