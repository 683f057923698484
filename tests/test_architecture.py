"""Imports go down the floors only; slow libraries are imported only where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import electra_ref

PACKAGE = Path(electra_ref.__file__).parent
FLOORS = {
    0: (
        "process",
        "processes",
        "message_passing",
        "nccl_processes",
        "slices",
        "errors",
        "arrays",
        "gradient",
        "compilation",
        "config",
        "counting",
        "rng",
        "batch",
        "files",
        "locks",
        "sealed_folder",
        "freed_memory",
        "gradient",
        "kernel_cache",
        "private_folder",
        "standard_error",
        "tensor_file",
        "terminal_text",
        "process",
        "__init__",
    ),
    1: ("text", "masking", "sampling", "uniform_draws", "gumbel"),
    2: ("backends",),
    3: ("model",),
    4: ("training",),
    5: (
        "command_line",
        "running",
        "train",
        "finetune",
        "evaluate",
        "predict",
        "convert",
        "report",
        "__main__",
    ),
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"), key=str)


def imports(path: Path) -> Iterator[str]:
    """Yield the full names of the modules that the file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor_of(dotted: str) -> int:
    """Return the floor of ``electra_ref.x.y``; a module that is on no floor is a KeyError."""
    return FLOOR_OF[[*dotted.split("."), "__init__"][1]]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    here = floor_of(".".join(("electra_ref", *path.relative_to(PACKAGE).with_suffix("").parts)))
    for imported in imports(path):
        library = imported.partition(".")[0]
        assert library not in ("torch", "transformers", "jax", "tensorflow", "pickle")
        assert library not in ("cupy", "cupyx") or path.name == "arrays.py"
        assert library != "mpi4py" or path.name == "processes.py"
        if library == "electra_ref" and imported.count(".") > 1:
            assert floor_of(imported) <= here, imported


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_kernels_are_compiled_in_one_place(path: Path) -> None:
    """What keeps NaN and infinity meaningful is decided there: see ``electra_ref.compilation``."""
    compilers = {"njit", "jit", "vectorize", "guvectorize", "stencil", "cfunc", "generated_jit"}
    if path.name == "compilation.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "numba":
            assert node.attr not in compilers, f"line {node.lineno}"
    for imported in imports(path):
        library, _, name = imported.rpartition(".")
        assert not (library.partition(".")[0] == "numba" and name in compilers), imported


@pytest.mark.parametrize(
    "statement",
    [
        "import electra_ref, electra_ref.config.pretraining",
        "import electra_ref.train; electra_ref.train.main(['--print-config'])",
        "import runpy; sys.argv[1:] = ['--help']; "
        "runpy.run_module('electra_ref.train', run_name='__main__')",
        "import electra_ref.__main__; electra_ref.__main__.main(['train', '--print-config'])",
        *(
            f"import electra_ref.{name}; electra_ref.{name}.main(['--help'])"
            for name in ("finetune", "evaluate", "predict", "convert", "report")
        ),
    ],
    ids=[
        "package",
        "--print-config",
        "--help",
        "electra-ref",
        "finetune",
        "evaluate",
        "predict",
        "convert",
        "report",
    ],
)
def test_slow_libraries_wait(statement: str) -> None:
    """``--help`` answers at once: numba, SciPy and the like are loaded by a run only."""
    code = (
        "import sys\n"
        f"try:\n    {statement}\n"
        "except SystemExit:\n    pass\n"
        "slow = {'numba', 'cupy', 'scipy', 'sklearn', 'torch', 'transformers', 'matplotlib'}\n"
        "print(*sorted(slow & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.stderr.strip(), done.returncode) == ("", 0)
