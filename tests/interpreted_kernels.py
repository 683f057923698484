"""A copy of the CPU backend that runs as plain Python; the mutants of its kernels are made from it.

The modules are imported a second time with a ``jit`` that returns its function unchanged.
``numba.prange`` is ``range`` there, and the intrinsics have twins in NumPy. Block sizes are small,
so that small arrays have several blocks and all kinds of borders between them.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any
from unittest import mock

import numpy as np

from electra_ref import compilation
from electra_ref.backends import cpu
from tests import bfloat16_twins

SMALL = {  # names of block sizes in any of the modules, and their size here
    "ROWS": 2,
    "COLUMNS": 4,
    "DEPTH": 5,
    "LEAST_TASKS": 2,
    "MOST_STRIPS": 2,
    "QUERIES": 4,
    "LANES": 3,
    "CHUNK": 3,
    "ROWS_AT_A_TIME": 4,
}
PACKAGE = cpu.__name__
Shape = tuple[int, ...]
INSTRUCTIONS = {  # around the bfloat16 tile: see test_bfloat16_product, _attention, test_processor
    "processor",
    "bfloat16",
    "bfloat16.attention",
    "bfloat16.dropout_runs",
    "bfloat16.head_products",
    "bfloat16.matrix_product",
    "bfloat16.packing",
    "bfloat16.rounding",
}
BY_PRODUCTS = "linear", "relax_embeddings", "vocabulary_log_likelihood"  # of bfloat16


def import_interpreted() -> dict[str, ModuleType]:
    """Return all modules of the CPU backend by name, imported again as plain Python."""
    compiled = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_ours(name)}
    plain: Callable[..., Any] = lambda **_: lambda function: function  # noqa: E731
    try:
        with mock.patch.object(compilation, "jit", plain):
            package = importlib.import_module(PACKAGE)
            for info in pkgutil.walk_packages(package.__path__, PACKAGE + "."):
                importlib.import_module(info.name)
        modules = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_ours(name)}
    finally:
        sys.modules.update(compiled)
        importlib.import_module("electra_ref.backends").__dict__["cpu"] = compiled[PACKAGE]
    numpy = _numpy_with_marked_memory()
    for module in modules.values():
        if hasattr(module, "np"):
            setattr(module, "np", numpy)  # noqa: B010  (mypy)
        for name, size in SMALL.items():
            if hasattr(module, name):
                setattr(module, name, size)
        for name, allowed in SHAPES.items():
            if hasattr(module, name) and not hasattr(module, "ir"):
                setattr(module, name, _strict(getattr(module, name), allowed))
    for operation in BY_PRODUCTS:
        module = modules[f"{PACKAGE}.bfloat16.{operation}"]
        for name in ("multiply", "multiply_and_pack", "pack"):  # the kernels need compilation
            if hasattr(module, name):
                setattr(module, name, getattr(bfloat16_twins, name))
    return modules


def _shapes_of_tiles(a: Shape, b: Shape, start: Shape, out: Shape) -> bool:
    columns = SMALL["COLUMNS"]
    return a[0] > 0 and b == (a[1], columns) and start == out == (a[0], columns)


def _shapes_of_panel(b: Shape, panel: Shape, sums: Shape) -> bool:
    return b == panel == (b[0], SMALL["COLUMNS"]) and sums == (1, SMALL["COLUMNS"])


def _shapes_of_columns(source: Shape, panel: Shape) -> bool:
    return source[0] == panel[0] and source[1] <= panel[1]


def _shapes_of_transpose(source: Shape, panel: Shape) -> bool:
    return source[1] == panel[0] and source[0] <= panel[1]


SHAPES: dict[str, Callable[..., bool]] = {  # what the processor would overrun elsewhere
    "multiply_tiles": _shapes_of_tiles,
    "copy_panel": _shapes_of_panel,
    "copy_columns": _shapes_of_columns,
    "transpose_panel": _shapes_of_transpose,
}


def _strict(twin: Callable[..., None], allowed: Callable[..., bool]) -> Callable[..., None]:
    """Return ``twin``, which now refuses what NumPy would broadcast and the processor overrun."""

    def call(*arrays: Any) -> None:
        shapes = [array.shape for array in arrays]
        if not allowed(*shapes):
            raise IndexError(f"{shapes} do not fit")
        twin(*arrays)

    return call


def _is_ours(name: str) -> bool:
    return name == PACKAGE or name.startswith(PACKAGE + ".")


def functions_of(modules: dict[str, ModuleType]) -> list[FunctionType]:
    """Return the functions of ``modules`` whose kernels are numbers and loops.

    Those that write machine instructions cannot run here, and what calls them has a twin in NumPy.
    """
    return [
        value
        for name, module in modules.items()
        if not hasattr(module, "ir")  # of llvmlite
        if name.removeprefix(PACKAGE + ".") not in INSTRUCTIONS
        for value in vars(module).values()
        if isinstance(value, FunctionType) and value.__module__ == name
    ]


def _numpy_with_marked_memory() -> ModuleType:
    """Return NumPy with an ``empty`` that holds NaN (or -1): nothing is found there by chance.

    It is a module of its own, since numba must not see it.
    """
    numpy = ModuleType("numpy")
    vars(numpy).update(vars(np))

    def marked(original: Callable[..., Any]) -> Callable[..., Any]:
        def allocate(*arguments: Any, **keywords: Any) -> Any:
            array = original(*arguments, **keywords)
            array.reshape(-1, order="A").view(np.uint8).fill(255)
            return array

        return allocate

    vars(numpy).update(empty=marked(np.empty), empty_like=marked(np.empty_like))
    return numpy
