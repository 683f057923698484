"""The sum of the gradients of a step's micro-batches, in an order that depends on nothing else.

The micro-batches are the leaves of a binary tree. Two neighbours are added, then two neighbouring
sums of two, and so on; what is left over at the end is added from left to right:

    1   2   3   4   5   6   7
     \\ /     \\ /     \\ /    |
     1+2     3+4     5+6    7        ((1+2)+(3+4)) + (5+6), then + 7
        \\   /

Whoever computes which leaves, the sums are the same, bit for bit. A binary counter does it: as many
vectors are in use as there are ones in the number of leaves so far, and one more.
"""

from __future__ import annotations

from electra_ref.arrays import get_xp
from electra_ref.backends import Backend
from electra_ref.model.parameters import Gradients


class GradientTree:
    """Hands out a vector for each micro-batch and adds them up; keeps them for later steps."""

    def __init__(self, backend: Backend, first: Gradients) -> None:
        """Start with one vector, ``first``; more are made when they are needed."""
        self._backend = backend
        self._free = [first]
        self._like = first
        self._waiting: list[tuple[int, Gradients]] = []  # (leaves below, their sum), left to right

    def leaf(self) -> Gradients:
        """Return an empty vector for the next micro-batch."""
        gradients = self._free.pop() if self._free else self._another()
        gradients.restart()
        return gradients

    def add(self, gradients: Gradients) -> None:
        """Take back a vector that ``leaf`` handed out. Raises ValueError if it is incomplete."""
        gradients.require_complete()
        leaves = 1
        while self._waiting and self._waiting[-1][0] == leaves:
            _, left = self._waiting.pop()
            gradients, leaves = self._merge(left, gradients), 2 * leaves
        self._waiting.append((leaves, gradients))

    def total(self) -> Gradients:
        """Return the sum of all leaves and begin anew; it is valid until the next ``leaf``."""
        (_, total), *others = self._waiting
        for _, part in others:
            self._merge(total, part)
        self._waiting = []
        self._free.append(total)
        return total

    def _another(self) -> Gradients:
        vector = get_xp(self._like.vector).empty_like(self._like.vector)
        return Gradients(self._like.specs, vector)

    def _merge(self, left: Gradients, right: Gradients) -> Gradients:
        self._backend.add_gradients(left.vector, right.vector)
        self._free.append(right)
        return left
