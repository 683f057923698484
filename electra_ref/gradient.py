"""Where the gradient of one parameter is summed, part by part, in place.

A parameter that is read twice (a table that two networks share, an output matrix that is also the
input table) has a gradient of two parts. The first part replaces what the array holds; the others
are added. No part has an array of its own, and nothing has to be set to zero before.
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.arrays import Array


class GradientSum(NamedTuple):
    """A view into the gradients, in the shape of the parameter or of its transpose."""

    array: Array
    is_empty: bool  # no part was added yet: what ``array`` holds does not count

    def add(self, part: Array) -> None:
        """Add ``part``, which has the shape of ``array``."""
        if self.is_empty:
            self.array[...] = part
        else:
            self.array[...] += part

    def add_nothing(self) -> None:
        """Let the sum be 0 if no part was added yet."""
        if self.is_empty:
            self.array.fill(0)

    def transpose(self) -> GradientSum:
        """Return the same sum for an operation that read the transpose of the parameter."""
        return GradientSum(self.array.T, self.is_empty)
