"""A run directory belongs to one run and one process; other folders are never touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import pytest

from electra_ref.errors import UserError
from electra_ref.training import environment, run_directory
from electra_ref.training.environment import describe_environment, fingerprint_changes
from electra_ref.training.run_directory import RunDirectory, is_run, new_run_path, newest_run

CONFIG = "seed = 1\n"
ENVIRONMENT = {"python": "3.11", "fingerprint": {"cores": 2}}
# Holds the run's lock until it is killed.
HOLDER = """
import sys, time
from pathlib import Path
from electra_ref.training.run_directory import RunDirectory
with RunDirectory.create(Path(sys.argv[1]), "seed = 1\\n", {}):
    print("ready", flush=True)
    time.sleep(600)
"""


def everything_in(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def make_run(path: Path) -> Path:
    RunDirectory.create(path, CONFIG, ENVIRONMENT).close()
    return path


@pytest.mark.parametrize("exists", [False, True])
def test_begins_in_a_missing_or_empty_folder(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "a" / "b"
    if exists:
        path.mkdir(parents=True)
    with RunDirectory.create(path, CONFIG, ENVIRONMENT) as run:
        assert is_run(path)
        assert run.config.read_text() == CONFIG
        assert run.checkpoints.is_dir()
    reader = RunDirectory.open(path)
    assert reader.environment() == {"format": "electra_ref run 1", **ENVIRONMENT}


def test_a_link_to_a_folder_is_fine(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    make_run(tmp_path / "link" / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "direct").symlink_to("other")
    make_run(tmp_path / "direct")
    assert is_run(tmp_path / "disk" / "run")
    assert is_run(tmp_path / "other")


@pytest.mark.parametrize(
    "name",
    [
        "thesis.tex",
        "config.toml",
        "environment.json",
        "checkpoints/old",
        ".git/HEAD",
        "metrics.jsonl",
    ],
)
def test_never_writes_where_something_else_lies(tmp_path: Path, name: str) -> None:
    path = tmp_path / "folder"
    (path / name).parent.mkdir(parents=True)
    (path / name).write_text('{"format": "something else"}')
    before = everything_in(tmp_path)
    with pytest.raises(UserError, match="never overwritten; choose another --output-dir"):
        RunDirectory.create(path, CONFIG, ENVIRONMENT)
    for attempt in (RunDirectory.resume, RunDirectory.open):
        with pytest.raises(UserError, match="holds no run"):
            attempt(path)
    assert everything_in(tmp_path) == before


def test_an_earlier_run_is_not_overwritten(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    before = everything_in(path)
    with pytest.raises(UserError, match="use --resume to continue it, or another --output-dir"):
        RunDirectory.create(path, "seed = 2\n", ENVIRONMENT)
    assert everything_in(path) == before


def test_a_file_or_a_dangling_link_is_no_output_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("file", "dangling", "file/below"):
        with pytest.raises(UserError):
            RunDirectory.create(tmp_path / name, CONFIG, ENVIRONMENT)
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="folder that you may write to"):
        RunDirectory.create(tmp_path / "run", CONFIG, ENVIRONMENT)
    tmp_path.chmod(0o700)


def test_a_run_stopped_before_it_began_can_be_begun_again(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    (path / "config.toml").unlink()
    with pytest.raises(UserError, match="start it again without --resume"):
        RunDirectory.resume(path)
    make_run(path)
    RunDirectory.resume(path).close()


def test_what_a_killed_process_left_goes_at_the_next_start(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    before = everything_in(path)
    for name in (
        ".config.toml.0123abcd.tmp",
        "checkpoints/.step-00000001.0123abcd.tmp/m.safetensors",
    ):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("half")
    (path / "checkpoints" / ".step-00000001.0123abcd.tmp" / "m.safetensors").rename(
        path / "checkpoints" / ".step-00000001.0123abcd.tmp" / "model.safetensors"
    )
    RunDirectory.resume(path).close()
    assert everything_in(path).keys() == before.keys()


def test_a_link_in_place_of_the_checkpoints_is_refused(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / ".step-00000001.0123abcd.tmp").mkdir()
    (path / "checkpoints").rmdir()
    (path / "checkpoints").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="symbolic link"):
        RunDirectory.resume(path)
    assert os.listdir(tmp_path / "precious") == [".step-00000001.0123abcd.tmp"]


def test_two_processes_cannot_work_in_one_folder(tmp_path: Path) -> None:
    path = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        before = everything_in(path)
        with pytest.raises(UserError, match=rf"another process \({holder.pid}\) is at work in"):
            RunDirectory.resume(path)
        with pytest.raises(UserError, match="holds a run already"):
            RunDirectory.create(path, CONFIG, ENVIRONMENT)
        assert everything_in(path) == before
        RunDirectory.open(path)  # needs no lock
        holder.send_signal(signal.SIGKILL)
        holder.wait(60)
        RunDirectory.resume(path).close()  # the kernel has released the lock
    finally:
        holder.kill()
        holder.communicate()


def test_of_many_that_begin_at_once_one_wins(tmp_path: Path) -> None:
    def begin(number: int) -> bool:
        try:
            # not closed before the end of the test: it keeps the lock
            runs.append(RunDirectory.create(tmp_path / "run", f"seed = {number}\n", ENVIRONMENT))
        except UserError:
            return False
        return True

    runs: list[RunDirectory] = []
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(begin, range(32))) == 1
    runs[0].close()
    runs[0].close()  # does nothing


def test_a_run_that_came_and_went_just_before_we_had_the_lock_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire = run_directory._lock

    def be_late(path: Path) -> FileIO:
        monkeypatch.undo()
        make_run(path)
        return acquire(path)

    monkeypatch.setattr(run_directory, "_lock", be_late)
    with pytest.raises(UserError, match="holds a run already"):
        RunDirectory.create(tmp_path / "run", "seed = 2\n", ENVIRONMENT)
    assert (tmp_path / "run" / "config.toml").read_text() == CONFIG


def test_new_runs_get_new_names(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    names = [new_run_path(root, "tiny").name for _ in range(3)]
    assert names == ["tiny", "tiny-2", "tiny-3"]
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: new_run_path(root, "small"), range(40)))
    assert len(set(paths)) == 40
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot create a folder"):
        new_run_path(tmp_path / "file", "tiny")


def test_the_newest_run_is_the_one_last_worked_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run to resume"):
        newest_run(tmp_path / "missing")
    new_run_path(tmp_path, "begun-but-empty")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="no run to resume"):
        newest_run(tmp_path)
    for number, name in enumerate(("b", "a", "c")):
        make_run(tmp_path / name)
        os.utime(tmp_path / name / ".lock", (number, number))
    assert newest_run(tmp_path) == tmp_path / "c"
    RunDirectory.resume(tmp_path / "a").close()
    assert newest_run(tmp_path) == tmp_path / "a"


def test_the_environment_tells_what_the_bits_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment._THREAD_VARIABLES + environment._KERNEL_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    then = describe_environment(device="cpu", precision="float32", backend="reference")
    assert json.loads(json.dumps(then)) == then
    assert then["fingerprint"]["packages"].keys() >= {"numpy", "numba", "safetensors"}
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    now = describe_environment(device="cpu", precision="float64", backend="reference")
    assert fingerprint_changes(then, then) == []
    assert fingerprint_changes(then, now) == [
        "precision: float32 then, float64 now",
        "variables: {'OMP_NUM_THREADS': '1'} then, {'OMP_NUM_THREADS': '2'} now",
    ]
    of_cpu = describe_environment(device="cpu", precision="float32", backend="cpu")
    assert "cores" not in of_cpu["fingerprint"]  # its products are our own
    assert "OMP_NUM_THREADS" not in of_cpu["fingerprint"]["variables"]
    older = {"fingerprint": {**of_cpu["fingerprint"], "cores": 2}}
    assert fingerprint_changes(older, of_cpu) == []
    assert len(fingerprint_changes({}, now)) == len(now["fingerprint"]) - (
        not now["fingerprint"]["variables"]
    )


def test_the_environment_names_the_commit_and_the_packages_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def version(name: str) -> str:
        asked.append(name)
        return "1"

    monkeypatch.setattr(environment, "version", version)
    folders: list[Path] = []

    def commit(folder: Path) -> str:
        folders.append(folder)
        return "0123"

    monkeypatch.setattr(environment, "_git_commit", commit)
    for device, cupy in (("cpu", False), ("gpu", True)):
        asked.clear()
        told = describe_environment(device=device, precision="float32", backend="reference")
        assert told["git_commit"] == "0123"
        assert ("cupy-cuda13x" in asked) == ("cupy-cuda12x" in asked) == cupy
    assert (folders[0] / "electra_ref" / "training" / "environment.py").exists()


@pytest.mark.parametrize(
    "name",
    [
        *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"),
        *("OPENBLAS_CORETYPE", "MKL_CBWR", "NPY_DISABLE_CPU_FEATURES", "NUMBA_CPU_NAME"),
        *("NUMBA_CPU_FEATURES", "NUMBA_DISABLE_JIT"),
    ],
)
def test_every_variable_that_decides_bits_is_recorded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "something")
    told = describe_environment(device="cpu", precision="float32", backend="reference")
    assert told["fingerprint"]["variables"][name] == "something"


def test_the_commit_is_read_from_the_files_of_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a branch with a file of its own, a packed branch, no branch, and of no checkout."""
    read, encodings = Path.read_text, []

    def recorded(path: Path, encoding: str | None = None) -> str:
        encodings.append(encoding)
        return read(path, encoding)

    monkeypatch.setattr(Path, "read_text", recorded)
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n", encoding="utf-8")
    (git / "packed-refs").write_text(
        "# pack-refs with: peeled\n111 refs/heads/other\n222 refs/heads/main\n", encoding="utf-8"
    )
    assert environment._git_commit(tmp_path) == "222"
    (git / "refs" / "heads" / "main").write_text("333\n", encoding="utf-8")
    assert environment._git_commit(tmp_path) == "333"
    (git / "HEAD").write_text("444\n", encoding="utf-8")
    assert environment._git_commit(tmp_path) == "444"
    assert set(encodings) == {"utf-8"}  # whatever the locale
    assert environment._git_commit(tmp_path / "nothing") is None


def test_a_marker_that_has_become_unreadable_is_named(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    (tmp_path / "run" / "environment.json").write_text("{", encoding="utf-8")
    assert not is_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"environment\.json cannot be read"):
        run.environment()


def test_a_run_without_a_lock_file_is_the_oldest(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_run(tmp_path / name)
    os.utime(tmp_path / "a" / ".lock", ns=(0, 0))
    (tmp_path / "b" / ".lock").unlink()
    assert run_directory.last_used(tmp_path / "b") == 0
    os.utime(tmp_path / "a" / ".lock", ns=(1, 1))
    assert newest_run(tmp_path) == tmp_path / "a"


def test_a_run_that_is_taken_back_leaves_no_cache_and_spares_what_is_not_ours(
    tmp_path: Path,
) -> None:
    run = RunDirectory.create(tmp_path / "run", "", {})
    (run.path / "cache").mkdir()
    (run.path / "cache" / "tokens.bin").touch()
    (run.path / "notes.txt").touch()
    run.discard(folder=True)  # and no error, although the folder is not empty
    assert [path.name for path in run.path.iterdir()] == ["notes.txt"]


def test_the_folder_of_the_checkpoints_is_made_durably(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "run" / "checkpoints").rmdir()
    forced: list[tuple[Path, bool]] = []
    made = tmp_path / "run" / "checkpoints"
    monkeypatch.setattr(
        run_directory, "sync_folder", lambda folder: forced.append((folder, made.is_dir()))
    )
    RunDirectory.resume(tmp_path / "run").close()
    assert forced == [(tmp_path / "run", True)]
