"""The sum of the gradients of a step's micro-batches, in an order that depends on nothing else.

The micro-batches are the leaves of a binary tree. Two neighbours are added, then two neighbouring
sums of two, and so on; what is left over at the end is added from left to right:

    1   2   3   4   5   6   7
     \\ /     \\ /     \\ /    |
     1+2     3+4     5+6    7        ((1+2)+(3+4)) + (5+6), then + 7
        \\   /

Whoever computes which leaves, the sums are the same, bit for bit. A binary counter does it: as many
vectors are in use as there are ones in the number of leaves so far, and one more.

Of several processes, each has some leaves in a row, and adds up what belongs together in the tree.
Its other sums wait: with leaves 2 to 6, these are 2, 3+4 and 5+6, at most two of each size. Then
the processes exchange slices of them, and each adds the rest of the tree for its slice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from electra_ref.arrays import Array, get_xp
from electra_ref.backends import Backend
from electra_ref.model.parameters import Gradients
from electra_ref.processes import ALONE, Processes, share_of

V = TypeVar("V")


class Node(NamedTuple):
    """Neighbouring leaves whose sum the tree has: ``leaves`` is a power of two that divides
    ``first``."""

    first: int  # number of the first leaf, from 0
    leaves: int


def push(waiting: list[tuple[Node, V]], node: Node, value: V, merge: Callable[[V, V], V]) -> None:
    """Put ``node`` behind those that are ``waiting``, merged with its left neighbours in the tree.

    ``merge`` adds its second argument to the first, and returns the sum.
    """
    while waiting and waiting[-1][0] == Node(node.first - node.leaves, node.leaves):
        if node.first // node.leaves % 2 == 0:
            break  # the left neighbour is the right child of another node
        left, before = waiting.pop()
        node, value = Node(left.first, 2 * left.leaves), merge(before, value)
    waiting.append((node, value))


def nodes_of(leaves: range) -> list[Node]:
    """Return what waits when all ``leaves`` were pushed one by one."""
    waiting: list[tuple[Node, None]] = []
    for leaf in leaves:
        push(waiting, Node(leaf, 1), None, lambda left, _: left)
    return [node for node, _ in waiting]


class GradientTree:
    """Hands out a vector for each micro-batch and adds them up; keeps them for later steps."""

    def __init__(self, backend: Backend, first: Gradients) -> None:
        """Start with one vector, ``first``; more are made when they are needed."""
        self._backend = backend
        self._free = [first]
        self._like = first
        self._waiting: list[tuple[Node, Gradients]] = []  # left to right
        self._next = 0  # number of the next leaf

    def begin(self, leaf: int) -> None:
        """Let ``leaf`` be the number of the next leaf; it is 0 unless other processes have some."""
        self._next = leaf

    def leaf(self) -> Gradients:
        """Return an empty vector for the next micro-batch."""
        gradients = self._free.pop() if self._free else self._another()
        gradients.restart()
        return gradients

    def add(self, gradients: Gradients) -> None:
        """Take back a vector that ``leaf`` handed out. Raises ValueError if it is incomplete."""
        gradients.require_complete()
        push(self._waiting, Node(self._next, 1), gradients, self._merge)
        self._next += 1

    def total(self, leaves: int | None = None, processes: Processes = ALONE) -> Gradients:
        """Return the sum of all leaves and begin anew; it is valid until the next ``leaf``.

        With several ``processes`` there are so many ``leaves`` in all, and process r has those of
        ``share_of(leaves, r, processes.size)``.
        """
        count = self._next if leaves is None else leaves
        shares = [share_of(count, rank, processes.size) for rank in range(processes.size)]
        nodes = [nodes_of(share) for share in shares]
        own = [gradients for _, gradients in self._waiting] or [self._free.pop()]
        total, *others = own
        total.complete()  # where this process had no leaf
        processes.sum_slices(
            [gradients.vector for _, gradients in self._waiting],
            [len(each) for each in nodes],
            total.vector,
            lambda vectors: self._fold([node for each in nodes for node in each], vectors),
        )
        self._free += [*others, total]
        self._waiting, self._next = [], 0
        return total

    def _fold(self, nodes: Sequence[Node], vectors: Sequence[Array]) -> None:
        """Add all ``vectors``, the sums of ``nodes``, into the first one."""

        def merge(left: Array, right: Array) -> Array:
            self._backend.add_gradients(left, right)
            return left

        waiting: list[tuple[Node, Array]] = []
        for node, vector in zip(nodes, vectors, strict=True):
            push(waiting, node, vector, merge)
        (_, total), *others = waiting
        for _, part in others:
            merge(total, part)

    def _another(self) -> Gradients:
        vector = get_xp(self._like.vector).empty_like(self._like.vector)
        return Gradients(self._like.specs, vector)

    def _merge(self, left: Gradients, right: Gradients) -> Gradients:
        self._backend.add_gradients(left.vector, right.vector)
        self._free.append(right)
        return left
