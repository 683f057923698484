"""The proof: hand-written gradients of the whole loss against the complex step."""

from __future__ import annotations

import numpy as np
import pytest

from electra_ref.model.parameters import FlatParameters
from tests.tiny_electra import (
    Problem,
    complex_step_gradient,
    gradients_of,
    make_problem,
)

RELATIVE_ERROR = 1e-12


def worst_relative_error(problem: Problem) -> tuple[float, str]:
    """Return the largest |hand - complex step| / |complex step| of all tensors, and its name."""
    exact = FlatParameters(problem.specs, complex_step_gradient(problem))
    hand = gradients_of(problem)
    errors = {
        spec.name: float(
            np.linalg.norm(hand[spec.name] - exact[spec.name]) / np.linalg.norm(exact[spec.name])
        )
        for spec in problem.specs
    }
    name = max(errors, key=lambda key: errors[key])
    return errors[name], name


@pytest.mark.parametrize("scale", [0.02, 0.5])
@pytest.mark.parametrize("projected", [True, False], ids=["projected", "same-width"])
def test_every_gradient_matches_the_complex_step(scale: float, projected: bool) -> None:
    """MLM + 50 RTD through the shared tensors, with padding and dropout, all tensors."""
    changes = {} if projected else {"embedding_size": 8, "generator_hidden_size": 1.0}
    error, name = worst_relative_error(make_problem(scale, seed=1, **changes))
    assert error <= RELATIVE_ERROR, f"{name}: {error:.1e}"
