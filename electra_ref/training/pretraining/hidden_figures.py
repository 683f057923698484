"""How alike the hidden states of different tokens are: their mean cosine.

With the unit rows u_i of n hidden states, the mean cosine over all pairs i != j needs only the sum
of the rows:

    (|u_1 + ... + u_n|^2 - n) / (n (n - 1))

0 where the states point everywhere, 1 where all point the same way, and the encoder says nothing
of a token any more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class UnitSum(NamedTuple):
    """What is kept of n hidden states of width C."""

    rows: int  # n
    total: npt.NDArray[np.float64]  # (C,)  sum of the unit rows


def unit_sum(hidden: npt.NDArray[np.floating]) -> UnitSum:
    """Return the sum of the rows of ``hidden`` (n, C), each divided by its length."""
    rows = hidden.astype(np.float64)
    with np.errstate(invalid="ignore"):  # a row of zeros has no direction
        units = rows / np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    return UnitSum(len(rows), units.sum(axis=0))


def mean_cosine(sums: Sequence[UnitSum]) -> float | None:
    """Return the mean cosine of all pairs of different rows.

    None for fewer than two rows, and if a row holds zeros only or a value that is not finite.
    """
    n = sum(part.rows for part in sums)
    total = np.sum([part.total for part in sums], axis=0)
    square = float(total @ total)
    return (square - n) / (n * (n - 1)) if n > 1 and math.isfinite(square) else None
