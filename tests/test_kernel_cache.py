"""Compiled kernels on disk: what makes them outdated; bad disks; several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_compilation import ROOT, run_python

CALLEE = (
    "from electra_ref import constants\nfrom electra_ref.compilation import jit\n"
    "FACTOR = constants.FACTOR\n@jit()\ndef once(x):\n    return {expression}\n"
)
CALLER = (
    "from electra_ref.callee import once\nfrom electra_ref.compilation import jit\n"
    "@jit()\ndef twice(x):\n    return 2 * once(x)\n"
)
RUN = (
    "import numba.core.event as event\n"
    "with event.install_recorder('numba:compile') as compiled:\n"
    "    from electra_ref.caller import twice\n    result = twice({argument})\n"
    "print(result, len(compiled.buffer) > 0)"
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with the name of this one and its way to compile, and two kernels."""
    folder = tmp_path / "electra_ref"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name in ("compilation.py", "kernel_cache.py"):
        (folder / name).write_bytes((ROOT / "electra_ref" / name).read_bytes())
    (folder / "constants.py").write_text("FACTOR = 3\n")
    (folder / "callee.py").write_text(CALLEE.format(expression="FACTOR * x"))
    (folder / "caller.py").write_text(CALLER)
    return tmp_path


def run(package: Path, argument: str = "1", **environment: str) -> tuple[int, bool]:
    """Return what the kernel returned, and whether anything was compiled."""
    code = RUN.format(argument=argument)
    result, compiled = run_python(code, PYTHONPATH=str(package), **environment).split()
    return int(result), compiled == "True"


def entries(package: Path) -> list[str]:
    return sorted(path.name for path in package.rglob("*.nb?"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("callee.py", CALLEE.format(expression="FACTOR * x + 2")),
        ("constants.py", "FACTOR = 5\n"),
    ],
)
def test_an_edit_of_another_file_is_noticed(package: Path, name: str, text: str) -> None:
    assert run(package) == (6, True)
    assert run(package) == (6, False)
    before = entries(package)
    (package / "electra_ref" / name).write_text(text)
    assert run(package) == (10, True)
    assert run(package) == (10, False)
    assert entries(package) == before  # old entries do not pile up


def test_files_that_are_not_imported_and_times_do_not_matter(package: Path) -> None:
    assert run(package) == (6, True)
    (package / "electra_ref/other.py").touch()
    os.utime(package / "electra_ref/callee.py", (0, 0))
    assert run(package) == (6, False)


def test_each_kind_of_argument_has_an_entry(package: Path) -> None:
    assert run(package) == (6, True)
    assert run(package, "True") == (6, True)
    assert run(package) == (6, False)
    assert run(package, "True") == (6, False)


def test_each_processor_has_an_entry(package: Path) -> None:
    other = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    assert run(package) == (6, True)
    assert run(package, **other) == (6, True)
    assert run(package) == (6, False)
    assert run(package, **other) == (6, False)


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"\x80\x05]."])
def test_a_damaged_entry_is_compiled_again(package: Path, damage: bytes) -> None:
    assert run(package) == (6, True)
    for path in package.rglob("*.nbc"):
        path.write_bytes(damage)
    assert run(package) == (6, True)
    assert run(package) == (6, False)


FAILING_DISK = """
import os
def fail(*_):
    raise OSError(28, "No space left on device")
import electra_ref.caller
os.replace = fail
print(electra_ref.caller.twice(1))
"""


def test_a_disk_that_fills_up_ends_no_run(package: Path) -> None:
    assert run_python(FAILING_DISK, PYTHONPATH=str(package)) == "6"
    assert entries(package) == []
    assert not list(package.rglob("*.tmp.*"))
    assert run(package) == (6, True)


def test_a_folder_that_cannot_be_made_ends_no_run(package: Path) -> None:
    assert run(package, NUMBA_CACHE_DIR="/dev/null/cache") == (6, True)


def test_processes_that_save_at_once_leave_entries_that_fit(package: Path) -> None:
    """Each compiles another signature of the same kernels."""
    arguments = ["1", "True", "np.int32(1)", "np.uint8(1)"]
    environment = {**os.environ, "PYTHONPATH": str(package)}
    running = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", "import numpy as np\n" + RUN.format(argument=argument)],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        for argument in arguments
    ]
    assert [process.wait(timeout=300) for process in running] == [0, 0, 0, 0]
    code = "import numpy as np\n" + RUN
    for argument in arguments:
        assert run_python(code.format(argument=argument), **environment) == "6 False"
