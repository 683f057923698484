"""What the CPU backend promises as a whole: one protocol, one result for any number of threads."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import numba
import numpy as np
import numpy.typing as npt
import pytest

from electra_ref import rng
from electra_ref.backends import Backend, open_backend
from electra_ref.backends.cpu import CpuBackend
from electra_ref.backends.cpu.dropout import draw_scales, plan
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
    changes = {} if projected else {"embedding_size": 8, "generator_hidden_size": 1.0}
    exact = make_problem(scale, seed=1, **changes)
    fast = exact._replace(vector=exact.vector.astype(np.float32))
    exact = exact._replace(vector=fast.vector.astype(np.float64))
    loss, exact_loss = loss_of(fast, fast.vector, CpuBackend()), loss_of(exact, exact.vector)
    np.testing.assert_allclose(loss, exact_loss, rtol=1e-6)
    gradients, expected = gradients_of(fast, CpuBackend()), gradients_of(exact)
    assert gradients.vector.dtype == np.float32
    for spec in exact.specs:
        difference = np.linalg.norm(gradients[spec.name] - expected[spec.name])
        assert difference <= GRADIENT_ERROR * np.linalg.norm(expected[spec.name]), spec.name


def train(threads: int) -> npt.NDArray[np.float32]:
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
    backend = CpuBackend()
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


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    expected = train(1)
    assert np.isfinite(expected).all()
    for threads in range(2, numba.config.NUMBA_NUM_THREADS + 1):
        np.testing.assert_array_equal(train(threads), expected)


@pytest.mark.parametrize("start", [0, 1, 7, 8, 21])
@pytest.mark.parametrize("count", [1, 8, 100])
def test_kernels_draw_the_bits_that_are_documented(start: int, count: int) -> None:
    stream = RandomStream(2**40 + 3, Purpose.DROPOUT, step=9, first_example=4)
    drop = plan(CpuBackend().dropout_bits(stream, 3, start + count), 0.25, 3 * (start + count))
    scales = np.empty(count, np.float32)
    draw_scales(drop, 2, start, scales)
    keep = rng.dropout_bits(stream, 3, start + count)[2, start:] >= 0.25 * 65536
    np.testing.assert_array_equal(scales, keep * np.float32(4 / 3))


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
