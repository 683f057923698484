"""What the CPU backend promises as a whole: one protocol, one result for any number of threads."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest

from electra_ref import rng
from electra_ref.backends import Backend, open_backend
from electra_ref.backends.cpu import CpuBackend, bfloat16
from electra_ref.backends.cpu.bfloat16 import Bfloat16Backend
from electra_ref.backends.reference import ReferenceBackend
from electra_ref.batch import Batch, SpecialTokens
from electra_ref.errors import UserError
from electra_ref.model.electra import electra_of
from electra_ref.rng import Purpose, RandomStream
from electra_ref.training.optimizer import TrainingState
from electra_ref.training.step import train_step
from tests.tiny_electra import VOCAB_SIZE, gradients_of, loss_of, make_problem, tiny_config

OPERATIONS = [name for name in vars(Backend) if not name.startswith("_")]
GRADIENT_ERROR = 5e-5  # of the norm of a tensor's gradient: u times the thousand roundings below it


@pytest.mark.parametrize("name", OPERATIONS)
def test_signatures_agree(name: str) -> None:
    """The same names in the same order, in the protocol, the formulas and the kernels."""
    signatures = [
        [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]
        for function in (getattr(ReferenceBackend(), name), getattr(CpuBackend(), name))
    ]
    protocol = list(inspect.signature(getattr(Backend, name)).parameters.values())[1:]  # no self
    assert signatures[0] == signatures[1] == [(p.name, p.kind, p.default) for p in protocol]


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


def train(threads: int, backend: Backend) -> npt.NDArray[np.float32]:
    """Return the parameters after two steps of a small model on ``threads`` threads."""
    config = tiny_config(
        hidden_size=40, intermediate_size=70, max_length=20, max_position_embeddings=20,
        mask_probability=0.3, warmup_steps=0, learning_rate=0.01,
    )  # fmt: skip
    shape = 5, config.max_length
    ids = np.random.default_rng(0).integers(5, VOCAB_SIZE, shape).astype(np.int32)
    batch = Batch(
        ids, np.zeros(shape, np.int32), np.arange(20) < np.array([[20], [3], [9], [20], [1]])
    )
    state, before = TrainingState(config, backend, "float32"), numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        for _ in range(2):
            train_step(
                config, backend, electra_of(config), state, [batch], SpecialTokens(0, 1, 2, 3, 4)
            )
    finally:
        numba.set_num_threads(before)
    return state.parameters.vector


@pytest.mark.parametrize("backend", [CpuBackend(), Bfloat16Backend()])
def test_bits_do_not_depend_on_the_number_of_threads(backend: Backend) -> None:
    expected = train(1, backend)
    assert np.isfinite(expected).all()
    for threads in range(2, numba.get_num_threads() + 1):
        np.testing.assert_array_equal(train(threads, backend), expected)


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


def test_open_backend_takes_the_fast_one_on_the_cpu() -> None:
    assert isinstance(open_backend("cpu", "float32").backend, CpuBackend)
    assert isinstance(open_backend("reference", "float64").backend, ReferenceBackend)
    with pytest.raises(UserError, match="--device reference"):
        open_backend("cpu", "float64")
    with pytest.raises(UserError, match="--device cpu"):
        open_backend("reference", "bfloat16")


@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_without_the_instructions_float32_is_taken(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bfloat16, "is_compiled", lambda: False)
    opened = open_backend("cpu", precision)
    assert opened.name == "cpu"
    assert ("no AVX512_BF16" in opened.reason) == (precision == "bfloat16")


PRODUCTS = """
import numpy as np
from electra_ref.backends.cpu.matrix_product import multiply
from electra_ref.backends.cpu.register_tile import LANES
assert LANES == 8
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


@pytest.mark.slow
def test_products_on_a_processor_without_avx512() -> None:
    features = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+sse4.2"}
    subprocess.run(
        [sys.executable, "-c", PRODUCTS], env={**os.environ, **features}, check=True, timeout=600
    )
