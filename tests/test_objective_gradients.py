"""The proof for every variant: hand-written gradients of its whole loss against the complex step.

As in ``test_electra_gradients``: padding and dropout on, shared tensors, every tensor alone, query,
key and value separately, relative to its own norm. Where a gradient is scaled or stopped on purpose
(a generator that fools, tables that are read only), the complex step sees the same factor.
"""

from __future__ import annotations

import numpy as np
import pytest

from electra_ref.backends import gpu, reference
from tests import stand_in_cupy
from tests.test_electra_gradients import assert_small
from tests.tiny_electra import remembering_backend
from tests.variants import (
    VARIANTS,
    gradients_of_variant,
    output_of,
    variant_problem,
    worst_errors,
)


@pytest.mark.parametrize(
    ("scale", "seed"), [pytest.param(0.02, 2, marks=pytest.mark.slow), (0.5, 3)]
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_of_every_tensor(variant: str, scale: float, seed: int) -> None:
    problem = variant_problem(variant, scale, seed)
    assert_small(worst_errors(problem, seed, remembering_backend()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_that_learns_has_a_gradient(variant: str) -> None:
    """Some token, position or segment of each table is read, so no tensor has a gradient of 0."""
    problem = variant_problem(variant, 0.5, seed=4)
    unchanged = set(problem.objective.unchanged(problem.model))
    for name, gradient in gradients_of_variant(problem).views.items():
        assert gradient.any() == (name not in unchanged), name


def test_the_second_stage_has_its_gradient_too() -> None:
    problem = variant_problem("two stages", 0.5, 3, step=10)
    assert [term.name for term in output_of(problem, problem.vector).terms] == ["rtd"]
    assert_small(worst_errors(problem, 3, remembering_backend()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_keeps_to_the_device(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No host array among those of the device on the way, and the same bits."""
    problem = variant_problem(variant, 0.5, seed=5)
    expected = gradients_of_variant(problem).vector
    stand_in_cupy.install(monkeypatch)
    vector = gradients_of_variant(problem, gpu).vector
    assert type(vector).__module__ == "cupy"
    np.testing.assert_array_equal(gpu.to_host(vector), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_gpu_computes_the_same_gradients(variant: str) -> None:
    problem = variant_problem(variant, 0.5, seed=5)
    expected = gradients_of_variant(problem, reference).vector
    vector = gpu.to_host(gradients_of_variant(problem, gpu).vector)
    np.testing.assert_allclose(vector, expected, rtol=1e-8, atol=1e-12 * np.abs(expected).max())
