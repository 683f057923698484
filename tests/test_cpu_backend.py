"""What the CPU backend promises for a whole step: one result for any number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from electra_ref.backends import Backend, cpu
from electra_ref.backends.cpu import bfloat16, matrix_product
from electra_ref.backends.cpu.bfloat16 import matrix_product as bfloat16_product
from electra_ref.gradient import GradientSum
from tests import fixed_steps
from tests.test_backends import WITHOUT_AVX512
from tests.tiny_electra import gradients_of, loss_of, make_problem

ROOT = Path(__file__).parents[1]
GRADIENT_ERROR = 5e-5  # of the norm of a tensor's gradient: u times the thousand roundings below it


@pytest.mark.parametrize("scale", [0.02, 0.5])
@pytest.mark.parametrize("projected", [True, False], ids=["projected", "same-width"])
def test_every_gradient_of_the_model_matches_the_formulas(scale: float, projected: bool) -> None:
    widths: dict[str, Any] = {"embedding_size": 8, "generator_hidden_size": 1.0}
    exact = make_problem(scale, seed=1, **({} if projected else widths))
    fast = exact._replace(vector=exact.vector.astype(np.float32))
    exact = exact._replace(vector=fast.vector.astype(np.float64))
    loss, exact_loss = loss_of(fast, fast.vector, cpu), loss_of(exact, exact.vector)
    np.testing.assert_allclose(loss, exact_loss, rtol=1e-6)
    gradients, expected = gradients_of(fast, cpu), gradients_of(exact)
    assert gradients.vector.dtype == np.float32
    for spec in exact.specs:
        difference = np.linalg.norm(gradients[spec.name] - expected[spec.name])
        assert difference <= GRADIENT_ERROR * np.linalg.norm(expected[spec.name]), spec.name


@pytest.mark.parametrize("scale", [0.02, 0.5])
def test_gradients_in_bfloat16_are_within_its_rounding(scale: float) -> None:
    """All gradients as one vector: each of its factors passed a few dozen roundings of 2**-9."""
    exact = make_problem(scale, seed=1)
    fast = exact._replace(vector=exact.vector.astype(np.float32))
    expected = gradients_of(exact).vector
    got = gradients_of(fast, bfloat16).vector
    assert np.linalg.norm(got - expected) <= 16 * 2.0**-9 * np.linalg.norm(expected)


@pytest.mark.parametrize("backend", [cpu, bfloat16])
def test_products_of_nothing_compile_no_kernel(backend: Backend) -> None:
    """Waiting for the compiler would take the time of many steps."""
    kernels: list[Any] = [matrix_product._multiply, bfloat16_product._multiply]
    before = [kernel.signatures.copy() for kernel in kernels]
    for rows, width in ((0, 3), (5, 0)):
        x, weight, bias = np.ones((rows, width), "f4"), np.ones((width, 4), "f4"), np.ones(4, "f4")
        y, cache = backend.linear(x, weight, bias)
        sums = GradientSum(weight, is_empty=True), GradientSum(bias, is_empty=True)
        backend.linear_backward(y, cache, *sums)
    assert before == [kernel.signatures for kernel in kernels]


def steps_elsewhere(
    path: Path, size: str, *threads: int, **environment: str
) -> dict[str, npt.NDArray[np.float32]]:
    """Return what ``fixed_steps`` computes in a process with ``environment``."""
    command = [sys.executable, "-m", "tests.fixed_steps", str(path), size, *map(str, threads)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=True, timeout=600)
    with np.load(path) as results:
        return dict(results)


def test_bits_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    """Nor on where they come from: one to five of them, in another process than this one's."""
    here = {name: fixed_steps.steps("large", name) for name in fixed_steps.BACKENDS}
    there = steps_elsewhere(tmp_path / "steps.npz", "large", 1, 2, 3, 5, NUMBA_NUM_THREADS="5")
    assert len(there) == 4 * len(here)
    for name, vector in there.items():
        expected = here[name.split()[0]]
        assert np.isfinite(expected).all()
        np.testing.assert_array_equal(vector, expected, err_msg=name)
    assert (here["cpu"] != here["bfloat16"]).any()


def test_kernels_compute_the_same_without_compilation(tmp_path: Path) -> None:
    """As plain Python, sums are taken in another order; there is no bfloat16 then."""
    assert_same_steps(steps_elsewhere(tmp_path / "steps.npz", "tiny", 1, NUMBA_DISABLE_JIT="1"))


def assert_same_steps(elsewhere: dict[str, npt.NDArray[np.float32]]) -> None:
    """Compare steps that were computed in other orders of summation.

    An update of Adam is at most 0.1 / sqrt(0.001) = 3.2 learning rates; off by twice the relative
    error of its gradient, in each of two steps. That error is float32's, or a factor that another
    order of a sum before it rounds to the other neighbour in bfloat16.
    """
    for key, vector in elsewhere.items():
        name = key.split()[0]
        error = 2.0**-7 if name == "bfloat16" else GRADIENT_ERROR
        tolerance = 2 * 3.2 * fixed_steps.COMMON["learning_rate"] * 2 * error
        expected = fixed_steps.steps("tiny", name)
        np.testing.assert_allclose(vector, expected, rtol=0, atol=tolerance)


def test_a_nan_in_any_parameter_reaches_the_loss() -> None:
    problem = make_problem(0.1, seed=0)
    vector = problem.vector.astype(np.float32)
    starts = np.cumsum([0, *(int(np.prod(spec.shape)) for spec in problem.specs)])
    unread = "embeddings.position_embeddings.weight"  # its last row: rows are shorter
    for spec, start in zip(problem.specs, starts, strict=False):
        if spec.name != unread:
            broken = vector.copy()
            broken[start] = np.nan
            assert np.isnan(loss_of(problem, broken, cpu)), spec.name


@pytest.mark.slow
def test_steps_on_a_processor_without_avx512(tmp_path: Path) -> None:
    assert_same_steps(steps_elsewhere(tmp_path / "steps.npz", "tiny", 1, **WITHOUT_AVX512))
