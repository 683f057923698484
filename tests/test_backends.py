"""What every backend promises: one protocol, and a device and precision that open it."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from types import FunctionType

import numba
import numpy as np
import pytest

from electra_ref import backends, rng
from electra_ref.backends import Backend, cpu, gpu, open_backend, reference
from electra_ref.backends.cpu import bfloat16
from electra_ref.errors import UserError
from electra_ref.rng import Purpose, RandomStream

OPERATIONS = [name for name in vars(Backend) if not name.startswith("_")]
BACKENDS: dict[str, Backend] = {
    "reference": reference,
    "gpu": gpu,
    "cpu": cpu,
    "bfloat16": bfloat16,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_signatures_agree(name: str) -> None:
    """The same names in the same order, in the protocol, the formulas and the kernels."""
    protocol = list(inspect.signature(getattr(Backend, name)).parameters.values())[1:]  # no self
    expected = [(p.name, p.kind, p.default) for p in protocol]
    for backend in BACKENDS.values():
        parameters = inspect.signature(getattr(backend, name)).parameters.values()
        assert [(p.name, p.kind, p.default) for p in parameters] == expected, backend


@pytest.mark.parametrize("name", BACKENDS)
def test_backends_have_the_operations_of_the_protocol_and_no_others(name: str) -> None:
    """An operation that only one of them had could not be called by the model."""
    names = {
        name
        for name, value in vars(BACKENDS[name]).items()
        if isinstance(value, FunctionType) and value.__module__.startswith("electra_ref.backends.")
    }
    assert names - {"is_compiled", "has_feature", "is_interpreted"} == set(OPERATIONS)
    for operation in OPERATIONS:
        if operation.endswith("_backward"):
            assert operation.removesuffix("_backward") in names


def test_what_is_dropped_is_what_the_documented_bits_say() -> None:
    stream = RandomStream(2**40 + 3, Purpose.DROPOUT, step=9, first_example=4)
    bits = cpu.dropout_bits(stream, 3, 35)
    y, _ = cpu.dropout(np.ones((15, 7), np.float32), bits, 0.25)
    keep = rng.dropout_bits(stream, 3, 35).reshape(15, 7) >= 0.25 * 65536
    np.testing.assert_array_equal(y, keep * np.float32(4 / 3))
    with pytest.raises(ValueError, match="reshape"):
        cpu.dropout(np.ones((15, 8), np.float32), bits, 0.25)
    with pytest.raises(ValueError, match=r"rate .* 1\.0"):
        cpu.dropout(np.ones((15, 7), np.float32), bits, 1.0)


def test_a_logit_of_minus_infinity_is_a_probability_of_zero() -> None:
    logits = np.zeros((2, 3), np.float32)
    logits[:, 1] = -np.inf
    loss, cache = cpu.softmax_cross_entropy(logits, np.zeros(2, np.int32), np.ones(2, bool))
    np.testing.assert_allclose(loss, 2 * np.log(2), rtol=1e-6)
    assert (cpu.softmax_cross_entropy_backward(1.0, cache)[:, 1] == 0).all()


REFUSALS = {
    "float64 on cpu": "--precision float64: the CPU's kernels have none; use --device reference",
    "bfloat16 elsewhere": "--precision bfloat16 needs --device cpu; use float32",
    "no gpu": "--device gpu: there is none; use --device cpu",
}
Opened = tuple[Backend, str, str, str]
IN_FLOAT32: Opened = cpu, "cpu", "float32", "device: cpu, float32"
IN_BFLOAT16: Opened = (
    bfloat16,
    "cpu, bfloat16 products",
    "float32",
    "device: cpu, bfloat16 products, float32 sums and parameters",
)


def by_formula(dtype: str) -> Opened:
    return reference, "reference", dtype, f"device: cpu, {dtype}"


def with_reason(opened: Opened, more: str) -> Opened:
    return (*opened[:3], opened[3] + more)


NO_BFLOAT16 = "; this processor has no AVX512_BF16"
NO_GPU = " (auto: there is none)"
CHOICES: list[tuple[str, str, bool, Opened | str]] = [
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
    expected: Opened | str,
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
        found = opened.backend, opened.name, opened.dtype, opened.reason
        assert found == expected
        assert opened.device == "cpu"


def test_kernels_in_plain_python_are_the_reason_where_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert open_backend("cpu", "bfloat16").reason == (
        "device: cpu, float32; NUMBA_DISABLE_JIT is set"
    )


@pytest.mark.parametrize(
    ("has_instructions", "is_interpreted", "expected"),
    [(True, 0, True), (True, 1, False), (False, 0, False)],
)
def test_bfloat16_needs_the_instructions_and_compilation(
    has_instructions: bool,
    is_interpreted: int,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        bfloat16, "has_feature", lambda name: has_instructions and name == "avx512bf16"
    )
    monkeypatch.setattr(numba.config, "DISABLE_JIT", is_interpreted)
    assert bfloat16.is_compiled() == expected


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
@pytest.mark.parametrize("environment", [WITHOUT_AVX512, {"NUMBA_CPU_NAME": "generic"}], ids=str)
def test_products_on_a_processor_without_avx512(environment: dict[str, str]) -> None:
    """And bfloat16 is not available there: one line says so."""
    subprocess.run(
        [sys.executable, "-c", PRODUCTS],
        env={**os.environ, **environment},
        check=True,
        timeout=600,
    )
