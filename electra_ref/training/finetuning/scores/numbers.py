"""Scores of numbers: Pearson's and Spearman's correlation, and the mean squared error."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def number_scores(
    right: npt.NDArray[np.float64], predicted: npt.NDArray[np.float64]
) -> dict[str, float]:
    """Return the scores of ``predicted`` (N,) against the ``right`` numbers (N,).

    A correlation is 0 where it is not defined: for fewer than two numbers, or equal ones.
    """
    from scipy import stats  # noqa: PLC0415  (slow to import)

    is_defined = len(right) > 1 and np.ptp(right) > 0 and np.ptp(predicted) > 0
    return {
        "pearson": float(stats.pearsonr(right, predicted).statistic) if is_defined else 0.0,
        "spearman": float(stats.spearmanr(right, predicted).statistic) if is_defined else 0.0,
        "mean_squared_error": float(np.mean((right - predicted) ** 2)),
    }
