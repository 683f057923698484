"""What the generator does at the masked positions: how undecided it is, and how varied.

The entropy of a row of logits l, with p = softmax(l), in nats:

    H = - sum_v p_v log p_v = log Z - (sum_v s_v exp s_v) / Z,    s = l - max l,  Z = sum_v exp s_v

It is that of the generator itself: the sampling temperature is left out.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Array, get_xp

ROWS = 64  # whose exponentials are held at a time


def entropy_sum(logits: Array) -> float:
    """Return the sum of the entropies of the rows of ``logits`` (R, V), in nats.

    NaN where a logit is not finite. ``logits`` may be on a GPU.
    """
    xp = get_xp(logits)
    total = 0.0
    for first in range(0, len(logits), ROWS):
        rows = logits[first : first + ROWS]
        with np.errstate(invalid="ignore"):  # infinity less infinity
            shifted = rows - rows.max(axis=1, keepdims=True)
            exponentials = xp.exp(shifted)
            sums = exponentials.sum(axis=1)
            means = (shifted * exponentials).sum(axis=1) / sums
        total += float((xp.log(sums) - means).sum(dtype=np.float64))
    return total


def generator_figures(
    entropies: float, samples: npt.NDArray[np.integer], originals: npt.NDArray[np.integer]
) -> dict[str, float | None]:
    """Return the mean entropy and the numbers of distinct tokens at the masked positions.

    ``entropies`` is their sum over the positions, ``samples`` and ``originals`` hold a token for
    each. The mean is None without a position, and where a logit was not finite.
    """
    mean = entropies / samples.size if samples.size else math.nan
    return {
        "generator_entropy": mean if math.isfinite(mean) else None,
        "distinct_samples": np.unique(samples).size,
        "distinct_originals": np.unique(originals).size,
    }
