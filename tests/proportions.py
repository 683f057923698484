"""Exact tests of frequencies, with known rates of false alarms and of misses.

A statistical test can be wrong in two ways: it can fail for correct code, and it can pass for wrong
code. Both rates here come from the binomial distribution, without an approximation for large
numbers. Source of the idea to fix them before counting: TensorFlow Probability,
statistical_testing.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

FALSE_ALARM_RATE = 1e-6  # of a whole call, all its cells together
MISS_RATE = 1e-6  # for one cell whose probability is off by the factor 1 - detect or 1 + detect


def assert_proportions(
    counts: npt.ArrayLike, trials: int, probabilities: npt.ArrayLike, *, detect: float
) -> None:
    """Assert that each of ``counts`` (cells,) is what ``trials`` independent trials may give.

    ``probabilities``, (cells,) or one number, are those of one trial to fall into each cell;
    cells may overlap. ``detect`` is the relative error of a probability that must not be
    missed; the number of trials is asserted to be large enough for that.
    """
    observed = np.atleast_1d(counts)
    p = np.broadcast_to(np.asarray(probabilities, np.float64), observed.shape)
    lowest, highest = _accepted(observed.size, trials, p)
    for wrong in (p * (1 - detect), p * (1 + detect)):
        missed: Any = binom.cdf(highest, trials, wrong) - binom.cdf(lowest - 1, trials, wrong)
        assert missed.max() <= MISS_RATE, f"{trials} trials are too few to detect {detect:.1%}"
    bad = np.flatnonzero((observed < lowest) | (observed > highest))
    assert bad.size == 0, (
        f"cells {bad[:5]} hold {observed[bad[:5]]} of {trials}, "
        f"expected {trials * p[bad[:5]]} or about that"
    )


def _accepted(cells: int, trials: int, p: npt.NDArray[np.float64]) -> tuple[Any, Any]:
    """Return the least and the greatest count that is accepted in each cell."""
    tail = FALSE_ALARM_RATE / (2 * cells)
    return binom.ppf(tail, trials, p), binom.isf(tail, trials, p)
