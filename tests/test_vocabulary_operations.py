"""The operations over a vocabulary: memory, parts, threads, and arrays on a device."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.backends import Backend, cpu, gpu, reference
from electra_ref.backends.cpu import bfloat16
from electra_ref.backends.reference.vocabulary_log_likelihood import ROWS_AT_A_TIME, parts_of
from electra_ref.gradient import GradientSum
from tests import fixed_operations, stand_in_cupy
from tests.gradient_checks import Array, check_vjp, complex_step
from tests.operation_cases import CASES, SEEDS, SIZES, SMOOTH_EPS, Sizes

ROOT = Path(__file__).parents[1]
BACKENDS: dict[str, Backend] = {"reference": reference, "cpu": cpu, "bfloat16": bfloat16}
FORMULA = importlib.import_module("electra_ref.backends.reference.vocabulary_log_likelihood")
NAME = "vocabulary_log_likelihood"


@given(count=st.integers(0, 30), size=st.integers(1, 12))
def test_parts_are_all_rows_once_and_in_order(count: int, size: int) -> None:
    parts = parts_of(count, size)
    rows = [n for part in parts for n in range(count)[part]]
    assert rows == list(range(count))
    assert [part.stop - part.start for part in parts[:-1]] == [size] * (len(parts) - 1)
    assert parts[-1].stop - parts[-1].start <= size


@pytest.mark.parametrize("rows_at_a_time", [1, 2, 3])
@given(sizes=SIZES, seed=SEEDS)
def test_gradients_of_several_parts_match_the_complex_step(
    rows_at_a_time: int, sizes: Sizes, seed: int
) -> None:
    random = np.random.default_rng(seed)
    case = CASES[NAME](reference, sizes, random, SMOOTH_EPS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FORMULA, "ROWS_AT_A_TIME", rows_at_a_time)
        check_vjp(complex_step, case.forward, case.backward, case.inputs, random)


@pytest.mark.parametrize("name", BACKENDS)
def test_the_logits_of_all_rows_never_exist(name: str) -> None:
    """They would take 98 MB or, in float32, 49 MB. Compilation comes before the measurement.

    What is allowed: the logits of one part, with what NumPy holds beside them for a moment, and
    copies of the table. The memory that a kernel allocates itself is not seen; it is a copy of the
    table at most, since a product packs its right factor.
    """
    backend, rows, words, width = BACKENDS[name], 12 * ROWS_AT_A_TIME, 4000, 4
    random, dtype = np.random.default_rng(0), np.float64 if name == "reference" else np.float32
    shapes = (rows, width), (words, width), (words,)
    x, table, bias = (random.standard_normal(shape).astype(dtype) for shape in shapes)
    labels, dy = random.integers(0, words, rows), np.ones(rows, dtype)

    def forward_and_backward() -> None:
        sums = [GradientSum(np.empty_like(array), is_empty=True) for array in (table, bias)]
        _, cache = backend.vocabulary_log_likelihood(x, table, bias, labels)
        backend.vocabulary_log_likelihood_backward(dy, cache, *sums)

    forward_and_backward()
    peak = peak_of(forward_and_backward)
    part, all_rows = ROWS_AT_A_TIME * words * dy.itemsize, rows * words * dy.itemsize
    # bfloat16: half as much again packed, in whole panels; the formulas: a part being replaced
    assert part <= peak <= 2.2 * part + 4 * 32 * words * dy.itemsize
    assert peak < all_rows / 4


def peak_of(run: Callable[[], None]) -> int:
    """Return the most bytes that NumPy and Python hold at a time while ``run`` runs."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_formula_keeps_nothing_of_the_size_of_the_logits() -> None:
    x, table = np.ones((2 * ROWS_AT_A_TIME, 3)), np.ones((50, 3))
    labels = np.zeros(x.shape[0], int)
    for backend, dtype in ((reference, np.float64), (cpu, np.float32), (bfloat16, np.float32)):
        arguments = (array.astype(dtype) for array in (x, table, table[:, 0]))
        _, cache = backend.vocabulary_log_likelihood(*arguments, labels)
        assert max(array.size for array in cache) == x.size


@pytest.mark.parametrize("name", ["cpu", "bfloat16"])
def test_relaxed_embeddings_keep_one_array_of_the_size_of_the_logits(name: str) -> None:
    logits, table, ids = np.ones((8, 50), "f4"), np.ones((50, 3), "f4"), np.arange(8)
    _, cache = BACKENDS[name].relax_embeddings(logits, logits.copy(), 1.0, table, ids, False)
    large = [array for array in cache if np.shape(array) == logits.shape]
    assert len(large) == 1
    assert large[0] is not logits


@pytest.mark.parametrize(("name", "allowed"), [("cpu", 1e-3), ("bfloat16", 2.0**-6)])
def test_a_mixture_that_is_almost_the_sampled_word_keeps_its_digits(
    name: str, allowed: float
) -> None:
    """The difference is a thousandth of an embedding: of two in bfloat16 it would be noise."""
    random = np.random.default_rng(0)
    logits = np.where(np.arange(50) == 7, 0.0, -10.0 - random.random((3, 50))).astype(np.float32)
    table, ids = random.standard_normal((50, 8)).astype(np.float32), np.full(3, 7)
    delta, _ = BACKENDS[name].relax_embeddings(logits, 0 * logits, 1.0, table, ids, False)
    exactly = logits.astype(np.float64), table.astype(np.float64)
    exact, _ = reference.relax_embeddings(exactly[0], 0 * exactly[0], 1.0, exactly[1], ids, False)
    error = np.linalg.norm(delta - exact) / np.linalg.norm(exact)
    assert error < allowed


@pytest.mark.parametrize("name", BACKENDS)
def test_no_rows_and_no_gradient(name: str) -> None:
    """No rows add zeros; rows whose likelihood has no gradient do so, too."""
    backend = BACKENDS[name]
    table, bias = np.ones((5, 3), "f4"), np.ones(5, "f4")
    for rows in (0, 4):
        x, labels = np.ones((rows, 3), "f4"), np.zeros(rows, int)
        likelihood, cache = backend.vocabulary_log_likelihood(x, table, bias, labels)
        np.testing.assert_allclose(likelihood, -np.log(np.full(rows, 5.0)), rtol=1e-6)
        sums = [GradientSum(np.full_like(p, np.nan), is_empty=True) for p in (table, bias)]
        dx = backend.vocabulary_log_likelihood_backward(np.zeros(rows, "f4"), cache, *sums)
        for array, like in zip((dx, *(s.array for s in sums)), (x, table, bias), strict=True):
            np.testing.assert_array_equal(array, np.zeros_like(like))
        logits = np.ones((rows, 5), "f4")
        delta, kept = backend.relax_embeddings(logits, logits, 1.0, table, labels, False)
        backend.relax_embeddings_backward(np.zeros((rows, 3), "f4"), kept, sums[0])
        np.testing.assert_allclose(delta, np.zeros((rows, 3)), rtol=0, atol=1e-6)
        np.testing.assert_array_equal(sums[0].array, np.zeros((5, 3)))


def test_bits_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    """Nor on where they come from: one to five of them, in another process than this one's."""
    path = tmp_path / "results.npz"
    command = [sys.executable, "-m", "tests.fixed_operations", str(path), "1", "2", "3", "5"]
    environment = {**os.environ, "NUMBA_NUM_THREADS": "5"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=600)
    here = {name: fixed_operations.results(BACKENDS[name]) for name in ("cpu", "bfloat16")}
    with np.load(path) as there:
        assert len(there) == 4 * len(here)
        for name, array in there.items():
            expected = here[name.split()[0]]
            assert np.isfinite(expected).all()
            np.testing.assert_array_equal(array, expected, err_msg=name)
    assert (here["cpu"] != here["bfloat16"]).any()


def test_the_formulas_keep_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """No NumPy function and no host array on the way, and the same results."""
    expected = on_device(reference, lambda array: array)
    stand_in_cupy.install(monkeypatch)
    results = on_device(gpu, gpu.to_device)
    assert {type(array).__module__ for array in results} == {"cupy"}
    for got, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(gpu.to_host(got), wanted)


@pytest.mark.gpu
def test_a_gpu_computes_the_same() -> None:
    expected = on_device(reference, lambda array: array)
    for got, wanted in zip(on_device(gpu, gpu.to_device), expected, strict=True):
        np.testing.assert_allclose(gpu.to_host(got), wanted, rtol=1e-9, atol=1e-12)


def on_device(backend: Backend, to_device: Callable[[Array], Array]) -> list[Array]:
    """Return the results and gradients of the new operations on arrays of a device."""
    random = np.random.default_rng(0)

    def draw(*shape: int) -> Array:
        return to_device(random.standard_normal(shape))

    ids, is_copy = to_device(random.integers(0, 9, 6)), to_device(np.arange(6) % 2 == 0)
    table, bias = draw(9, 4), draw(9)
    sums = [GradientSum(to_device(np.empty(shape)), True) for shape in ((9, 4), (9, 4), 9)]
    results: list[Any] = []
    for straight_through, dtable in ((False, sums[0]), (True, None)):
        delta, cache = backend.relax_embeddings(
            draw(6, 9), draw(6, 9), 0.7, table, ids, straight_through
        )
        results += [delta, backend.relax_embeddings_backward(draw(6, 4), cache, dtable)]
    likelihood, cache = backend.vocabulary_log_likelihood(draw(6, 4), table, bias, ids)
    dx = backend.vocabulary_log_likelihood_backward(draw(6), cache, *sums[1:])
    loss, cache = backend.copy_gate_cross_entropy(draw(6), likelihood, is_copy, draw(6))
    results += [likelihood, dx, loss, *backend.copy_gate_cross_entropy_backward(0.5, cache)]
    return [*results, *(total.array for total in sums)]
