"""The sum of the micro-batches' gradients: a fixed tree, whatever the number of leaves."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from electra_ref.arrays import Array
from electra_ref.backends import Backend, reference
from electra_ref.model.parameters import Gradients, ParameterSpec
from electra_ref.training.summation import GradientTree

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
        """Write the sum as text."""
        total[0] = f"({total[0]}+{part[0]})"


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


def test_a_leaf_that_is_incomplete_is_refused() -> None:
    """What it holds is of an earlier step."""
    tree = GradientTree(reference, Gradients(SPECS, np.zeros(1)))
    with pytest.raises(ValueError, match=r"no gradient was computed for a$"):
        tree.add(tree.leaf())
