"""Compiled kernels on disk: what makes them outdated; damage; who may write; several processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from electra_ref.kernel_cache import FOLDER, Entries, caching
from electra_ref.private_folder import PrivateFolder
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
    for name in (
        "__init__.py",
        "compilation.py",
        "errors.py",
        "files.py",
        "kernel_cache.py",
        "private_folder.py",
    ):
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
    return sorted(path.name for path in package.rglob("*.kernel"))


def test_a_process_keeps_nothing_of_files_that_were_saved_after_it_began(package: Path) -> None:
    """It has imported the old number, and finds the new one where it would look for changes."""
    edit = (
        "from pathlib import Path\nfrom electra_ref import constants\n"
        "Path(constants.__file__).write_text('FACTOR = 5')\n"
    )
    code = edit + RUN.format(argument="1")
    assert run_python(code, PYTHONPATH=str(package)).split() == ["6", "True"]
    assert entries(package) == []
    assert run(package) == (10, True)
    assert run(package) == (10, False)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("callee.py", CALLEE.format(expression="FACTOR * x + 2")),
        ("constants.py", "FACTOR = 5\n"),
    ],
)
@pytest.mark.slow
def test_an_edit_of_another_file_is_noticed(package: Path, name: str, text: str) -> None:
    assert run(package) == (6, True)
    assert run(package) == (6, False)
    before = entries(package)
    (package / "electra_ref" / name).write_text(text)
    assert run(package) == (10, True)
    assert run(package) == (10, False)
    assert entries(package) == before  # old entries do not pile up


@pytest.mark.slow
def test_files_that_are_not_imported_and_times_do_not_matter(package: Path) -> None:
    assert run(package) == (6, True)
    (package / "electra_ref/other.py").touch()
    os.utime(package / "electra_ref/callee.py", (0, 0))
    assert run(package) == (6, False)


@pytest.mark.slow
def test_each_kind_of_argument_has_an_entry(package: Path) -> None:
    assert run(package) == (6, True)
    assert run(package, "True") == (6, True)
    assert run(package) == (6, False)
    assert run(package, "True") == (6, False)


@pytest.mark.slow
def test_each_processor_has_an_entry(package: Path) -> None:
    other = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    assert run(package) == (6, True)
    assert run(package, **other) == (6, True)
    assert run(package) == (6, False)
    assert run(package, **other) == (6, False)


@pytest.mark.slow
def test_a_damaged_entry_is_compiled_again(package: Path) -> None:
    assert run(package) == (6, True)
    for path in package.rglob("*.kernel"):
        path.write_bytes(path.read_bytes()[:-1])
    assert run(package) == (6, True)
    assert run(package) == (6, False)


KEY = ("int64",), ("x86_64", "znver4", "+avx2"), ("bytecode", "cells")
OTHERS = (
    (("float64",), *KEY[1:]),
    (KEY[0], ("x86_64", "znver3", "+avx2"), KEY[2]),
    (*KEY[:2], ("other bytecode", "cells")),
)


@pytest.fixture
def folder(tmp_path: Path) -> PrivateFolder:
    return PrivateFolder(tmp_path / "kernels")


def test_no_byte_of_a_damaged_entry_is_unpickled(
    folder: PrivateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flip bits, clear pages, cut and append; machine code that is loaded so can do anything."""
    random = np.random.default_rng(0)
    cache = Entries(folder, "kernel", "stamp")
    data = random.bytes(3 * 4096)
    cache.save(KEY, data)
    (path,) = folder.path.iterdir()
    intact = path.read_bytes()
    assert cache.load(KEY) == data
    monkeypatch.setattr(caching.pickle, "loads", lambda _: pytest.fail("it was unpickled"))
    for damaged in damages(intact, random):
        path.write_bytes(damaged)
        assert cache.load(KEY) is None


def damages(intact: bytes, random: np.random.Generator) -> Iterator[bytes]:
    """Yield the bytes of an entry with one fault each."""
    for bit in [*range(8 * 64), *random.integers(8 * len(intact), size=300).tolist()]:
        flipped = bytearray(intact)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)
    for start in range(0, len(intact), 4096):
        page = intact[start : start + 4096]
        yield intact[:start] + bytes(len(page)) + intact[start + 4096 :]
    for length in [*range(64), *random.integers(len(intact), size=50).tolist()]:
        yield intact[:length]
    yield intact + b"\0"
    yield intact + intact


def test_an_entry_serves_nothing_but_what_it_was_made_for(folder: PrivateFolder) -> None:
    """Not another kernel, source, processor or bytecode: not even under the name of its file."""
    cache = Entries(folder, "kernel", "stamp")
    cache.save(KEY, "of KEY")
    (path,) = folder.path.iterdir()
    entry = path.read_bytes()
    for name, stamp, key in (
        ("another", "stamp", KEY),
        ("kernel", "outdated", KEY),
        *(("kernel", "stamp", other) for other in OTHERS),
    ):
        other = Entries(folder, name, stamp)
        other.save(key, "of another")
        for each in folder.path.iterdir():
            each.write_bytes(entry)
        assert other.load(key) is None
    assert cache.load(KEY) == "of KEY"


def test_an_entry_that_names_what_is_gone_is_compiled_again(folder: PrivateFolder) -> None:
    cache = Entries(folder, "kernel", "stamp")
    cache.save(KEY, "data")
    (path,) = folder.path.iterdir()
    content = b"cno_such_module\nname\n."
    path.write_bytes(cache._digest(KEY, content) + content)
    assert cache.load(KEY) is None


def test_flush_deletes_the_entries_of_one_kernel(folder: PrivateFolder) -> None:
    caches = [Entries(folder, name, "stamp") for name in ("m.kernel", "m.kernel_two")]
    for cache in caches:
        for key in (KEY, OTHERS[0]):
            cache.save(key, "data")
    caches[0].flush()
    assert [cache.load(KEY) for cache in caches] == [None, "data"]
    assert len(list(folder.path.iterdir())) == 2


@pytest.mark.slow
def test_entries_are_private_whatever_the_umask(package: Path) -> None:
    for umask in (0o000, 0o077):
        code = f"import os; os.umask({umask})\n" + RUN.format(argument="1")
        assert run_python(code, PYTHONPATH=str(package)) == "6 True"
        folder = package / "electra_ref/__pycache__" / FOLDER.format(os.geteuid())
        assert folder.stat().st_mode & 0o777 == 0o700
        paths = list(folder.iterdir())
        assert len(paths) == 2
        for path in paths:
            assert path.stat().st_mode & 0o777 == 0o600
        shutil.rmtree(folder)


def make_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


SPOILS: dict[str, Callable[[Path], None]] = {
    "group": lambda path: path.chmod(path.stat().st_mode | 0o020),
    "others": lambda path: path.chmod(path.stat().st_mode | 0o002),
    "link": make_link,
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_an_entry_that_others_could_write_is_not_loaded(folder: PrivateFolder, spoil: str) -> None:
    cache = Entries(folder, "kernel", "stamp")
    cache.save(KEY, "data")
    (path,) = folder.path.iterdir()
    SPOILS[spoil](path)
    assert cache.load(KEY) is None
    cache.save(KEY, "data")  # takes its place
    assert cache.load(KEY) == "data"


@pytest.mark.parametrize("spoil", [*SPOILS, "file"])
def test_a_folder_that_others_could_write_is_not_used(folder: PrivateFolder, spoil: str) -> None:
    cache = Entries(folder, "kernel", "stamp")
    cache.save(KEY, "data")
    if spoil == "file":
        shutil.rmtree(folder.path)
        folder.path.touch()
    else:
        SPOILS[spoil](folder.path)
    assert cache.load(KEY) is None
    reason = "Not a directory" if spoil in ("file", "link") else "not of this user alone"
    with pytest.raises(OSError, match=reason):
        cache.save(KEY, "data")
    with pytest.raises(OSError, match=reason):
        PrivateFolder(folder.path)


@pytest.mark.slow
def test_a_folder_that_is_not_private_is_left_for_the_user_s_own(package: Path) -> None:
    own = package / "own"
    folder = package / "electra_ref/__pycache__" / FOLDER.format(os.geteuid())
    folder.mkdir(parents=True)
    folder.chmod(0o770)
    assert run(package, XDG_CACHE_HOME=str(own)) == (6, True)
    assert run(package, XDG_CACHE_HOME=str(own)) == (6, False)
    (found,) = own.rglob(folder.name)
    found.chmod(0o770)
    assert run(package, XDG_CACHE_HOME=str(own)) == (6, True)  # in memory


def test_a_folder_of_another_user_is_not_used(
    folder: PrivateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Entries(folder, "kernel", "stamp")
    cache.save(KEY, "data")
    monkeypatch.setattr(os, "geteuid", lambda: folder.path.stat().st_uid + 1)
    assert cache.load(KEY) is None
    with pytest.raises(PermissionError):
        cache.save(KEY, "data")
    with pytest.raises(PermissionError, match="not of this user alone"):
        PrivateFolder(folder.path)


def test_a_named_pipe_in_the_place_of_an_entry_is_not_waited_for(folder: PrivateFolder) -> None:
    cache = Entries(folder, "kernel", "stamp")
    cache.save(KEY, "data")
    (path,) = folder.path.iterdir()
    path.unlink()
    os.mkfifo(path, 0o600)
    assert cache.load(KEY) is None


@pytest.mark.slow
def test_runs_survive_damaged_entries(package: Path) -> None:
    """Whole processes, with the machine code of real kernels."""
    random = np.random.default_rng(0)
    assert run(package) == (6, True)
    for _ in range(20):
        for path in package.rglob("*.kernel"):
            path.write_bytes(random.choice(list(damages(path.read_bytes(), random))))
        assert run(package) == (6, True)
        assert run(package) == (6, False)


FAILING_DISK = """
import os
def fail(*_, **__):
    raise OSError(28, "No space left on device")
import electra_ref.caller
os.replace = fail
print(electra_ref.caller.twice(1))
"""


def test_a_disk_that_fills_up_ends_no_run(package: Path) -> None:
    assert run_python(FAILING_DISK, PYTHONPATH=str(package)) == "6"
    assert entries(package) == []
    assert not list(package.rglob("*.tmp"))
    assert run(package) == (6, True)


def test_a_folder_that_cannot_be_made_ends_no_run(package: Path) -> None:
    assert run(package, NUMBA_CACHE_DIR="/dev/null/cache") == (6, True)


@pytest.mark.slow
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
