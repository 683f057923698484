"""Scores of labels: one for each text, or any number of them.

    accuracy                 share of the texts whose label is right
    matthews_correlation     of two labels, or more: Gorodkin 2004
    f1                       of the label number 1, from 0: 2 P R / (P + R)
    macro_f1                 mean of the F1 of each label that occurs
    micro_f1                 F1 of all pairs of a text and a label together
    exact_match              share of the texts whose labels are all right

All are from 0 to 1, correlations from -1. A score that is not defined is 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


def accuracy(right: Numbers, predicted: Numbers) -> float:
    """Return the accuracy of the labels ``predicted`` (N,) against the ``right`` ones (N,)."""
    return float(np.mean(right == predicted))


def matthews_correlation(right: Numbers, predicted: Numbers) -> float:
    """Return the correlation of ``predicted`` (N,) and ``right`` (N,) labels."""
    if len(np.union1d(right, predicted)) < 2:
        return 0.0
    from sklearn.metrics import matthews_corrcoef  # noqa: PLC0415  (slow to import)

    return float(matthews_corrcoef(right, predicted))


def f1_of_positive(right: Numbers, predicted: Numbers) -> float:
    """Return the F1 of the label 1 among ``predicted`` (N,) against ``right`` (N,)."""
    from sklearn.metrics import f1_score  # noqa: PLC0415  (slow to import)

    return float(f1_score(right == 1, predicted == 1, zero_division=0.0))


def macro_f1(right: Numbers, predicted: Numbers) -> float:
    """Return the mean F1 of the labels that occur in ``predicted`` (N,) or ``right`` (N,)."""
    from sklearn.metrics import f1_score  # noqa: PLC0415  (slow to import)

    return float(f1_score(right, predicted, average="macro", zero_division=0.0))


def label_set_scores(
    right: npt.NDArray[np.bool_], predicted: npt.NDArray[np.bool_]
) -> dict[str, float]:
    """Return the scores of sets of labels (N, K) against the ``right`` ones (N, K)."""
    doubled = 2 * (right & predicted).sum(axis=0)
    totals = right.sum(axis=0) + predicted.sum(axis=0)
    occurs = totals > 0
    is_defined = bool(occurs.any())
    each = doubled[occurs] / totals[occurs]
    return {
        "micro_f1": float(doubled.sum() / totals.sum()) if is_defined else 0.0,
        "macro_f1": float(each.mean()) if is_defined else 0.0,
        "exact_match": float(np.mean((right == predicted).all(axis=1))),
    }
