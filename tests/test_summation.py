"""The sum of the micro-batches' gradients: a fixed tree, whatever the number of leaves and of
processes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest

from electra_ref.arrays import Array
from electra_ref.backends import Backend, reference
from electra_ref.model.parameters import Gradients, ParameterSpec
from electra_ref.processes import Processes, share_of
from electra_ref.training import summation
from electra_ref.training.summation import GradientTree, Node, nodes_of
from tests.threaded_mpi import in_processes

SPECS = [ParameterSpec("a", (1,), "zeros", True)]
TREES = {  # written out by hand
    1: "1",
    2: "(1+2)",
    3: "((1+2)+3)",
    4: "((1+2)+(3+4))",
    5: "(((1+2)+(3+4))+5)",
    6: "(((1+2)+(3+4))+(5+6))",
    7: "((((1+2)+(3+4))+(5+6))+7)",
    8: "(((1+2)+(3+4))+((5+6)+(7+8)))",
}


class Writing:
    """A backend that writes down what is added to what, in place of numbers."""

    def add_gradients(self, total: Array, part: Array) -> None:
        """Write the sums as text."""
        for place in range(len(total)):
            total[place] = f"({total[place]}+{part[place]})"


def written_sum(tree: GradientTree, leaves: int, processes: Processes) -> list[str]:
    """Return the sum of one step as text, of each parameter."""
    own = share_of(leaves, processes.rank, processes.size)
    tree.begin(own.start)
    for number in own:
        leaf = tree.leaf()
        leaf.sum_of("a").add(np.full(leaf.vector.size, str(number + 1), object))
        tree.add(leaf)
    total = tree.total(leaves, processes)
    total.require_complete()
    return [str(text) for text in total.vector]


def written_sums(processes: Processes, leaves: int, parameters: int = 1) -> Iterator[list[str]]:
    """Yield the sums of two steps; the second finds what the first has left."""
    specs = [ParameterSpec("a", (parameters,), "zeros", True)]
    tree = GradientTree(cast("Backend", Writing()), Gradients(specs, np.empty(parameters, object)))
    for _ in range(2):
        yield written_sum(tree, leaves, processes)


@pytest.mark.parametrize("leaves", TREES)
def test_the_order_is_that_of_the_tree(leaves: int) -> None:
    first = Gradients(SPECS, np.empty(1, object))
    tree = GradientTree(cast("Backend", Writing()), first)
    for _ in range(2):  # a second step finds what the first has left
        for number in range(1, leaves + 1):
            leaf = tree.leaf()
            leaf.sum_of("a").add(np.array([str(number)], object))
            tree.add(leaf)
        assert tree.total().vector[0] == TREES[leaves]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("leaves", [1, 3, 6, 7, 8])
def test_the_order_is_the_same_for_any_number_of_processes(leaves: int, size: int) -> None:
    """Also with more processes than leaves, and more than parameters; each gets all sums."""
    expected = [[TREES[leaves]] * 5] * 2
    sums = in_processes(size, lambda own: list(written_sums(own, leaves, 5)))
    assert sums == [expected] * size


@pytest.mark.parametrize(
    ("leaves", "nodes"),
    [
        (range(6), [(0, 4), (4, 2)]),
        (range(2, 6), [(2, 2), (4, 2)]),  # of one size, and not neighbours in the tree
        (range(3, 7), [(3, 1), (4, 2), (6, 1)]),
        (range(1, 8), [(1, 1), (2, 2), (4, 4)]),
        (range(8, 12), [(8, 4)]),
        (range(5, 5), []),
    ],
)
def test_what_waits_for_other_processes(leaves: range, nodes: list[tuple[int, int]]) -> None:
    assert nodes_of(leaves) == [Node(*node) for node in nodes]


def test_vectors_are_few_and_used_again() -> None:
    """Sixteen leaves need five vectors: one for each level, and the one being written."""
    tree = GradientTree(reference, Gradients(SPECS, np.zeros(1)))
    seen = set()
    for _ in range(3):
        for _ in range(16):
            leaf = tree.leaf()
            seen.add(id(leaf))
            leaf.sum_of("a").add(np.ones(1))
            tree.add(leaf)
        assert tree.total().vector[0] == 16.0
    assert len(seen) == 5


@pytest.mark.parametrize("leaves", [5, 8, 13])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_several_processes_need_few_vectors_more(
    leaves: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Gradients] = []
    another = GradientTree._another

    def counted(tree: GradientTree) -> Gradients:
        made.append(another(tree))
        return made[-1]

    monkeypatch.setattr(GradientTree, "_another", counted)
    list(in_processes(1, lambda own: list(written_sums(own, leaves)))[0])
    alone = len(made)
    for rank in range(size):
        made.clear()

        def count(own: Processes, rank: int = rank) -> int:
            before = len(made)
            tree = GradientTree(reference, Gradients(SPECS, np.zeros(1)))
            share = share_of(leaves, rank, size)
            tree.begin(share.start)
            for _ in share:
                leaf = tree.leaf()
                leaf.sum_of("a").add(np.ones(1))
                tree.add(leaf)
            del own
            return len(made) - before

        (more,) = in_processes(1, count)
        assert more <= alone + math.floor(math.log2(leaves)) + 1


def test_a_leaf_that_is_incomplete_is_refused() -> None:
    """What it holds is of an earlier step."""
    tree = GradientTree(reference, Gradients(SPECS, np.zeros(1)))
    with pytest.raises(ValueError, match=r"no gradient was computed for a$"):
        tree.add(tree.leaf())


def swapped(level: int) -> Any:
    """Return a ``push`` that adds the wrong way round where two sums of 2^level leaves meet."""

    def push(waiting: Any, node: Any, value: Any, merge: Any) -> None:
        while waiting and waiting[-1][0] == Node(node.first - node.leaves, node.leaves):
            if node.first // node.leaves % 2 == 0:
                break
            left, before = waiting.pop()
            pair = (value, before) if node.leaves == 2**level else (before, value)
            node, value = Node(left.first, 2 * left.leaves), merge(*pair)
        waiting.append((node, value))

    return push


def left_out(waiting: Any, node: Any, value: Any, merge: Any) -> None:
    """Lose the third leaf."""
    if node != Node(2, 1):
        ORIGINAL_PUSH(waiting, node, value, merge)


def misplaced(waiting: Any, node: Any, value: Any, merge: Any) -> None:
    """Add what stands side by side, whether or not the tree has them together."""
    while waiting and waiting[-1][0].leaves == node.leaves:
        left, before = waiting.pop()
        node, value = Node(left.first, 2 * left.leaves), merge(before, value)
    waiting.append((node, value))


ORIGINAL_PUSH = summation.push


@pytest.mark.parametrize(
    "push",
    [swapped(0), swapped(1), swapped(2), left_out, misplaced],
    ids=["swapped-0", "swapped-1", "swapped-2", "left_out", "misplaced"],
)
def test_the_comparison_notices_another_tree(push: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With children swapped at one level, a leaf dropped, or neighbours of another pair added."""
    monkeypatch.setattr(summation, "push", push)
    try:
        sums = in_processes(3, lambda own: list(written_sums(own, 8)))
    except (AssertionError, IndexError, TypeError, ValueError):
        return
    assert sums != [[[TREES[8]]] * 2] * 3
