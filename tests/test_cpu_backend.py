"""What the CPU backend promises as a whole: one protocol, one result for any number of threads."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from electra_ref import backends, rng
from electra_ref.backends import Backend, open_backend
from electra_ref.backends.cpu import CpuBackend, bfloat16
from electra_ref.backends.cpu.bfloat16 import Bfloat16Backend
from electra_ref.backends.reference import ReferenceBackend
from electra_ref.errors import UserError
from electra_ref.rng import Purpose, RandomStream
from tests import fixed_steps
from tests.tiny_electra import gradients_of, loss_of, make_problem

OPERATIONS = [name for name in vars(Backend) if not name.startswith("_")]
BACKENDS: list[Backend] = [ReferenceBackend(), CpuBackend(), Bfloat16Backend()]
ROOT = Path(__file__).parents[1]
GRADIENT_ERROR = 5e-5  # of the norm of a tensor's gradient: u times the thousand roundings below it


@pytest.mark.parametrize("name", OPERATIONS)
def test_signatures_agree(name: str) -> None:
    """The same names in the same order, in the protocol, the formulas and the kernels."""
    protocol = list(inspect.signature(getattr(Backend, name)).parameters.values())[1:]  # no self
    expected = [(p.name, p.kind, p.default) for p in protocol]
    for backend in BACKENDS:
        parameters = inspect.signature(getattr(backend, name)).parameters.values()
        assert [(p.name, p.kind, p.default) for p in parameters] == expected, backend


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: type(backend).__name__)
def test_backends_have_the_operations_of_the_protocol_and_no_others(backend: Backend) -> None:
    """An operation that only one of them had could not be called by the model."""
    names = {name for name in dir(backend) if not name.startswith("_")}
    assert names == set(OPERATIONS)
    for name in OPERATIONS:
        if name.endswith("_backward"):
            assert name.removesuffix("_backward") in names


@pytest.mark.parametrize("scale", [0.02, 0.5])
@pytest.mark.parametrize("projected", [True, False], ids=["projected", "same-width"])
def test_every_gradient_of_the_model_matches_the_formulas(scale: float, projected: bool) -> None:
    widths: dict[str, Any] = {"embedding_size": 8, "generator_hidden_size": 1.0}
    exact = make_problem(scale, seed=1, **({} if projected else widths))
    fast = exact._replace(vector=exact.vector.astype(np.float32))
    exact = exact._replace(vector=fast.vector.astype(np.float64))
    loss, exact_loss = loss_of(fast, fast.vector, CpuBackend()), loss_of(exact, exact.vector)
    np.testing.assert_allclose(loss, exact_loss, rtol=1e-6)
    gradients, expected = gradients_of(fast, CpuBackend()), gradients_of(exact)
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
    got = gradients_of(fast, Bfloat16Backend()).vector
    assert np.linalg.norm(got - expected) <= 16 * 2.0**-9 * np.linalg.norm(expected)


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
    here = {type(b).__name__: fixed_steps.steps("large", b) for b in fixed_steps.BACKENDS}
    there = steps_elsewhere(tmp_path / "steps.npz", "large", 1, 2, 3, 5, NUMBA_NUM_THREADS="5")
    assert len(there) == 4 * len(here)
    for name, vector in there.items():
        expected = here[name.split()[0]]
        assert np.isfinite(expected).all()
        np.testing.assert_array_equal(vector, expected, err_msg=name)
    assert (here["CpuBackend"] != here["Bfloat16Backend"]).any()


def test_kernels_compute_the_same_without_compilation(tmp_path: Path) -> None:
    """As plain Python, sums are taken in another order.

    An update of Adam is at most 0.1 / sqrt(0.001) = 3.2 learning rates; off by twice the relative
    error of its gradient, in each of two steps. That error is float32's, or a factor that another
    order of a sum before it rounds to the other neighbour in bfloat16.
    """
    assert_same_steps(steps_elsewhere(tmp_path / "steps.npz", "tiny", 1, NUMBA_DISABLE_JIT="1"))


def assert_same_steps(elsewhere: dict[str, npt.NDArray[np.float32]]) -> None:
    for backend in fixed_steps.BACKENDS:
        error = 2.0**-7 if isinstance(backend, Bfloat16Backend) else GRADIENT_ERROR
        tolerance = 2 * 3.2 * fixed_steps.COMMON["learning_rate"] * 2 * error
        vector = elsewhere[f"{type(backend).__name__} 1"]
        expected = fixed_steps.steps("tiny", backend)
        np.testing.assert_allclose(vector, expected, rtol=0, atol=tolerance)


def test_what_is_dropped_is_what_the_documented_bits_say() -> None:
    stream = RandomStream(2**40 + 3, Purpose.DROPOUT, step=9, first_example=4)
    bits = CpuBackend().dropout_bits(stream, 3, 35)
    y, _ = CpuBackend().dropout(np.ones((15, 7), np.float32), bits, 0.25)
    keep = rng.dropout_bits(stream, 3, 35).reshape(15, 7) >= 0.25 * 65536
    np.testing.assert_array_equal(y, keep * np.float32(4 / 3))
    with pytest.raises(ValueError, match="reshape"):
        CpuBackend().dropout(np.ones((15, 8), np.float32), bits, 0.25)
    with pytest.raises(ValueError, match=r"rate .* 1\.0"):
        CpuBackend().dropout(np.ones((15, 7), np.float32), bits, 1.0)


def test_nan_and_infinity_are_not_hidden() -> None:
    """A NaN in any parameter reaches the loss; a logit of -inf is a probability of 0."""
    problem = make_problem(0.1, seed=0)
    vector = problem.vector.astype(np.float32)
    starts = np.cumsum([0, *(int(np.prod(spec.shape)) for spec in problem.specs)])
    unread = "embeddings.position_embeddings.weight"  # its last row: rows are shorter
    for spec, start in zip(problem.specs, starts, strict=False):
        if spec.name != unread:
            broken = vector.copy()
            broken[start] = np.nan
            assert np.isnan(loss_of(problem, broken, CpuBackend())), spec.name

    backend, logits = CpuBackend(), np.zeros((2, 3), np.float32)
    logits[:, 1] = -np.inf
    loss, cache = backend.softmax_cross_entropy(logits, np.zeros(2, np.int32), np.ones(2, bool))
    np.testing.assert_allclose(loss, 2 * np.log(2), rtol=1e-6)
    assert (backend.softmax_cross_entropy_backward(1.0, cache)[:, 1] == 0).all()


REFUSALS = {
    "float64 on cpu": "--precision float64: the CPU's kernels have none; use --device reference",
    "bfloat16 elsewhere": "--precision bfloat16 needs --device cpu; use float32",
    "no gpu": "--device gpu: there is none; use --device cpu",
}
IN_FLOAT32 = CpuBackend, "cpu", "float32", "device: cpu, float32"
IN_BFLOAT16 = (
    Bfloat16Backend,
    "cpu, bfloat16 products",
    "float32",
    "device: cpu, bfloat16 products, float32 sums and parameters",
)


def by_formula(dtype: str) -> tuple[type, str, str, str]:
    return ReferenceBackend, "reference", dtype, f"device: cpu, {dtype}"


def with_reason(opened: tuple[type, str, str, str], more: str) -> tuple[type, str, str, str]:
    return (*opened[:3], opened[3] + more)


NO_BFLOAT16 = "; this processor has no AVX512_BF16"
NO_GPU = " (auto: there is none)"
CHOICES: list[tuple[str, str, bool, tuple[type, str, str, str] | str]] = [
    # device, precision, does the processor multiply bfloat16, what is opened or why not
    ("cpu", "auto", True, IN_BFLOAT16),
    ("cpu", "auto", False, with_reason(IN_FLOAT32, NO_BFLOAT16)),
    ("cpu", "bfloat16", True, IN_BFLOAT16),
    ("cpu", "bfloat16", False, with_reason(IN_FLOAT32, NO_BFLOAT16)),
    ("cpu", "float32", True, IN_FLOAT32),
    ("cpu", "float32", False, IN_FLOAT32),
    ("cpu", "float64", True, "float64 on cpu"),
    ("auto", "auto", True, with_reason(IN_BFLOAT16, NO_GPU)),
    ("auto", "auto", False, with_reason(IN_FLOAT32, NO_BFLOAT16 + NO_GPU)),
    ("auto", "bfloat16", True, with_reason(IN_BFLOAT16, NO_GPU)),
    ("auto", "float32", True, with_reason(IN_FLOAT32, NO_GPU)),
    ("auto", "float64", True, "float64 on cpu"),
    ("reference", "auto", True, by_formula("float32")),
    ("reference", "float32", True, by_formula("float32")),
    ("reference", "float64", True, by_formula("float64")),
    ("reference", "bfloat16", True, "bfloat16 elsewhere"),
    *(("gpu", precision, True, "no gpu") for precision in ("auto", "bfloat16", "float32")),
]


@pytest.mark.parametrize(("device", "precision", "multiplies_bfloat16", "expected"), CHOICES)
def test_every_device_and_precision_opens_its_backend_or_says_why_not(
    device: str,
    precision: str,
    multiplies_bfloat16: bool,
    expected: tuple[type, str, str, str] | str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backends, "why_no_gpu", lambda: "there is none")
    monkeypatch.setattr(bfloat16, "is_compiled", lambda: multiplies_bfloat16)
    if isinstance(expected, str):
        with pytest.raises(UserError) as refused:
            open_backend(device, precision)
        assert str(refused.value) == REFUSALS[expected]
    else:
        opened = open_backend(device, precision)
        found = type(opened.backend), opened.name, opened.dtype, opened.reason
        assert found == expected
        assert opened.device == "cpu"


PRODUCTS = """
import numpy as np
from electra_ref.backends.cpu.matrix_product import multiply
from electra_ref.backends import open_backend
from electra_ref.backends.cpu.register_tile import LANES
assert LANES == 8
for precision in ("auto", "bfloat16"):
    opened = open_backend("cpu", precision)
    assert opened.name == "cpu"
    assert "this processor has no AVX512_BF16" in opened.reason
random = np.random.default_rng(0)
for m, k, n in ((1, 1, 1), (7, 300, 17), (12, 5, 33)):
    a, b = random.standard_normal((m, k)), random.standard_normal((k, n))
    a, b, out = a.astype("f4"), b.astype("f4"), np.empty((m, n), "f4")
    for left in (a, np.asfortranarray(a)):
        for right in (b, np.asfortranarray(b)):
            multiply(left, right, out)
            bound = k * 2.0**-24 * (np.abs(a).astype(float) @ np.abs(b).astype(float))
            assert (np.abs(out - a.astype(float) @ b.astype(float)) <= bound).all()
"""


WITHOUT_AVX512 = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+sse4.2",
}


@pytest.mark.slow
def test_products_on_a_processor_without_avx512() -> None:
    """And bfloat16 is not to be had there: one line says so."""
    subprocess.run(
        [sys.executable, "-c", PRODUCTS],
        env={**os.environ, **WITHOUT_AVX512},
        check=True,
        timeout=600,
    )


@pytest.mark.slow
def test_steps_on_a_processor_without_avx512(tmp_path: Path) -> None:
    assert_same_steps(steps_elsewhere(tmp_path / "steps.npz", "tiny", 1, **WITHOUT_AVX512))
