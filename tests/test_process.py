"""How threads wait and where they come from: set by commands, never by an import."""

from __future__ import annotations

import pytest

from electra_ref.process import BLAS_TIMEOUT, LAYERS, SPIN_TURNS
from tests.test_compilation import run_python

PREPARE = "from electra_ref.process import prepare_process\nprepare_process()\n"
LOOP = (
    "import numpy, numba\n"
    "from electra_ref.rng import RandomStream, random_words\n"
    "random_words(RandomStream(0, 1, 0), 2, 4)\n"
    "print(numba.threading_layer())"
)
NO_OPENMP = "import sys\nsys.modules['numba.np.ufunc.omppool'] = None\n"
IMPORTS = """
import importlib, os, pkgutil
import numba, sklearn  # which sets variables of its own
def settings():
    return {name: str(value) for name, value in vars(numba.config).items() if name.isupper()}
environment, before = dict(os.environ), settings()
import electra_ref
for info in pkgutil.walk_packages(electra_ref.__path__, "electra_ref."):
    importlib.import_module(info.name)
assert settings() == before
assert dict(os.environ) == environment, set(os.environ.items()) ^ set(environment.items())
print("unchanged")
"""
SHOW = "import os; print(*(os.environ.get(name) for name in (\n"
SHOW += "'OPENBLAS_THREAD_TIMEOUT', 'GOMP_SPINCOUNT', 'NUMBA_THREADING_LAYER_PRIORITY')), sep=', ')"


def test_importing_changes_neither_the_environment_nor_numba() -> None:
    assert run_python(IMPORTS) == "unchanged"


def test_preparing_a_process_imports_neither_numpy_nor_numba() -> None:
    code = "import sys; print({'numpy', 'numba'} & set(sys.modules))"
    assert run_python(PREPARE + code) == "set()"


@pytest.mark.parametrize("first", ["", "import numba\n"])
def test_threads_come_from_openmp_even_if_numba_was_imported_before(first: str) -> None:
    pytest.importorskip("numba.np.ufunc.omppool")
    assert run_python(first + PREPARE + LOOP) == "omp"


@pytest.mark.slow
def test_what_numba_has_read_before_is_replaced() -> None:
    pytest.importorskip("numba.np.ufunc.omppool")
    other = "import numba; numba.config.THREADING_LAYER_PRIORITY = ['workqueue', 'omp', 'tbb']\n"
    assert run_python(other + LOOP) == "workqueue"
    assert run_python(other + PREPARE + LOOP) == "omp"


def test_threads_come_from_workqueue_where_openmp_cannot_be_loaded() -> None:
    assert run_python(PREPARE + NO_OPENMP + LOOP) == "workqueue"


@pytest.mark.slow
@pytest.mark.parametrize(
    "chosen",
    [
        {"NUMBA_THREADING_LAYER": "workqueue"},
        {"NUMBA_THREADING_LAYER_PRIORITY": "workqueue omp tbb"},
    ],
    ids=lambda chosen: next(iter(chosen)),
)
def test_the_threading_layer_of_the_environment_is_kept(chosen: dict[str, str]) -> None:
    assert run_python(PREPARE + LOOP, **chosen) == "workqueue"


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, [BLAS_TIMEOUT, SPIN_TURNS, LAYERS]),
        ({"OMP_WAIT_POLICY": "passive"}, [BLAS_TIMEOUT, "None", LAYERS]),
        ({"GOMP_SPINCOUNT": "7"}, [BLAS_TIMEOUT, "7", LAYERS]),
        ({"OPENBLAS_THREAD_TIMEOUT": "20"}, ["20", SPIN_TURNS, LAYERS]),
        ({"NUMBA_THREADING_LAYER_PRIORITY": "omp"}, [BLAS_TIMEOUT, SPIN_TURNS, "omp"]),
    ],
    ids=str,
)
def test_what_the_user_has_set_stays(chosen: dict[str, str], expected: list[str]) -> None:
    assert run_python(PREPARE + SHOW, **chosen) == ", ".join(expected)
