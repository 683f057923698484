"""Figures by step: the records of one split as columns, and fewer points where there are many.

A curve of n points is thinned to the smallest and the largest value of each of PARTS equal parts,
with the first and the last point. So a peak of a single step is still seen, and all points drawn
are real ones.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

PARTS = 300
MOST_POINTS = 2 * PARTS + 2

Numbers = npt.NDArray[np.float64]


class Curve(NamedTuple):
    """One figure by step; NaN where it is undefined. The steps do not fall."""

    steps: Numbers  # (n,)
    values: Numbers  # (n,)


class Columns:
    """The numbers of many records, 8 bytes each."""

    def __init__(self) -> None:
        self._steps = array("d")
        self._columns: dict[str, array[float]] = {}

    def append(self, record: Mapping[str, Any]) -> None:
        """Add the numbers of ``record``; what is no number is undefined.

        Raises OverflowError if a number is too large for a float; then nothing is added.
        """
        numbers = {}
        for key, value in record.items():  # a million times: no calls
            if type(value) is float:
                numbers[key] = value
            elif type(value) is int:
                numbers[key] = float(value)
        step, before = numbers.pop("step"), len(self._steps)
        for key in numbers.keys() - self._columns.keys():
            self._columns[key] = array("d", [math.nan]) * before
        for key, column in self._columns.items():
            column.append(numbers.get(key, math.nan))
        self._steps.append(step)

    def __len__(self) -> int:
        return len(self._steps)

    def figures(self) -> list[str]:
        """Return the figures that are defined in some record."""
        return [key for key in self._columns if np.isfinite(self._columns[key]).any()]

    def curve(self, key: str) -> Curve:
        """Return the curve of ``key`` over all records, which need not have it."""
        steps = np.array(self._steps)
        values = np.array(self._columns.get(key, array("d", [math.nan]) * len(steps)))
        values[~np.isfinite(values)] = np.nan
        order = np.argsort(steps, kind="stable")
        return Curve(steps[order], values[order])

    @property
    def last_step(self) -> int:
        """The largest step of a record; 0 without any."""
        return int(max(self._steps, default=0))


def thinned(curve: Curve) -> Curve:
    """Return ``curve``, or MOST_POINTS of its points at most."""
    count = len(curve.steps)
    if count <= MOST_POINTS:
        return curve
    chosen = {0, count - 1}
    edges = np.linspace(0, count, PARTS + 1).astype(np.int64).tolist()
    for first, end in itertools.pairwise(edges):
        part = curve.values[first:end]
        if np.isnan(part).all():
            chosen.add(first)  # the gap stays a gap
        else:
            chosen |= {first + int(np.nanargmin(part)), first + int(np.nanargmax(part))}
    order = sorted(chosen)
    return Curve(curve.steps[order], curve.values[order])


def last_defined(curve: Curve) -> tuple[int, float] | None:
    """Return the last step at which ``curve`` is defined, and its value there."""
    defined = np.flatnonzero(np.isfinite(curve.values))
    if not defined.size:
        return None
    return int(curve.steps[defined[-1]]), float(curve.values[defined[-1]])
