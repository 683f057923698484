"""Kill the process, or let the disk fail, at every call: no finished save is ever lost.

``saved`` below are the steps whose ``save_checkpoint`` had returned. After any crash the next start
must find the newest of them complete, or a newer one whose save was about to return, and nothing
incomplete. test_power_loss.py tests what a power cut can do in addition.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from electra_ref.errors import UserError
from electra_ref.files import write_bytes_atomically
from electra_ref.text.cache_folder import CacheFolder, cache_key, open_intact, open_or_build
from electra_ref.training.checkpoint import (
    CheckpointError,
    list_checkpoints,
    load_checkpoint,
    load_newest_checkpoint,
    recover_checkpoints,
    save_checkpoint,
)
from electra_ref.training.records import read_records, truncate_records
from electra_ref.training.run_directory import RunDirectory, is_run
from tests.file_system_calls import CHANGES, Killed, counting, fail_at, kill_at, watching
from tests.killed_run import CONFIG, tensors_at

FILES = ["checkpoint.json", "model.safetensors", "optimizer.safetensors"]
TEMPORARY = re.compile(r"\..*\.(tmp|old|replaced)")


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if TEMPORARY.fullmatch(path.name)]


def steps_in(directory: Path) -> list[int]:
    return sorted(int(path.name[-8:]) for path in list_checkpoints(directory))


def assert_whole(directory: Path, *, at_least: int) -> int:
    """Assert that ``directory`` holds nothing incomplete and no older step; return the newest."""
    assert temporaries(directory) == []
    for path in list_checkpoints(directory):
        checkpoint = load_checkpoint(path)
        for group, tensors in tensors_at(checkpoint.step).items():
            for name, tensor in tensors.items():
                np.testing.assert_array_equal(checkpoint.groups[group][name], tensor, strict=True)
    newest = max(steps_in(directory), default=0)
    assert newest >= at_least
    return newest


# A real SIGKILL


@pytest.fixture(scope="module")
def killed_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    # one thread: the runs are made by fork()
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.killed_run", str(folder)]
    subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parents[1], timeout=240)
    return folder


def test_a_run_killed_at_any_call_starts_again_and_has_lost_nothing(killed_runs: Path) -> None:
    runs = sorted(killed_runs.glob("run-*"))
    begun = 0
    for path in runs:
        notebook = path.with_name(path.name.replace("run", "saved"))
        saved = [int(line) for line in notebook.read_text().split()] if notebook.exists() else []
        if not is_run(path) or not (path / "config.toml").exists():
            assert not saved
            RunDirectory.create(path, CONFIG, {"python": "3"}).close()  # takes it for nobody else's
        with RunDirectory.resume(path) as run:
            assert run.config.read_text() == CONFIG
            assert temporaries(run.path) == []
            newest = assert_whole(run.checkpoints, at_least=max(saved, default=0))
            truncate_records(run.metrics, newest)
            steps = [record["step"] for record in read_records(run.metrics)]
            assert steps == [step for step in (5, 10, 15, 20, 25, 30) if step <= newest]
        begun += bool(saved)
    assert len(runs) > 100
    assert begun > 50


# The disk fails


def save_three(directory: Path, saved: list[int]) -> None:
    """Save, delete an old one, and replace one: every path through ``save_checkpoint``."""
    for step in (20, 30, 30):
        save_checkpoint(directory, step, tensors_at(step), {}, keep=2)
        saved.append(step)


def count_calls(tmp_path: Path, kinds: tuple[str, ...]) -> int:
    calls: list[str] = []
    directory = tmp_path / "counted"
    directory.mkdir()
    save_checkpoint(directory, 10, tensors_at(10), {})
    with watching(counting(calls)):
        save_three(directory, [])
    return sum(name in kinds for name in calls)


GROWING = ("mkdir", "write")  # what a full disk refuses, for as long as it is full
ANY = ("open", "write", "fsync", "mkdir", "rename", "unlink", "rmdir")


@pytest.mark.parametrize(
    ("error", "kinds", "forever"),
    [
        (errno.ENOSPC, GROWING, True),
        (errno.EDQUOT, GROWING, True),
        (errno.ENOSPC, ANY, False),
        (errno.EIO, ANY, False),
        (errno.EROFS, ANY, False),
        (errno.EACCES, ANY, False),
        (errno.EMFILE, ANY, False),
    ],
)
def test_a_failing_disk_is_reported_and_costs_nothing(
    tmp_path: Path, error: int, kinds: tuple[str, ...], forever: bool
) -> None:
    for number in range(count_calls(tmp_path, kinds)):
        directory, saved = tmp_path / str(number), [10]
        directory.mkdir()
        save_checkpoint(directory, 10, tensors_at(10), {})
        with (
            pytest.raises(UserError, match=os.strerror(error)) as raised,
            watching(fail_at(number, error, kinds=kinds, forever=forever)),
        ):
            save_three(directory, saved)
        assert "\n" not in str(raised.value)
        assert_whole(directory, at_least=max(saved))


def test_a_disk_that_refuses_everything_from_some_call_on_costs_nothing(tmp_path: Path) -> None:
    for number in range(count_calls(tmp_path, ANY)):
        directory, saved = tmp_path / str(number), [10]
        directory.mkdir()
        save_checkpoint(directory, 10, tensors_at(10), {})
        with (
            pytest.raises(UserError),
            watching(fail_at(number, errno.EIO, kinds=ANY, forever=True)),
        ):
            save_three(directory, saved)
        recover_checkpoints(directory)  # once the disk is back
        assert_whole(directory, at_least=max(saved))


def test_what_was_replaced_is_brought_back_for_good_before_anything_is_deleted(
    tmp_path: Path,
) -> None:
    path = save_checkpoint(tmp_path, 10, tensors_at(10), {})
    path.rename(tmp_path / ".step-00000010.0123abcd.replaced")
    (tmp_path / ".step-00000010.89abcdef.tmp").mkdir()
    calls: list[str] = []
    with watching(counting(calls)):
        recover_checkpoints(tmp_path)
    assert calls == ["rename", "open", "fsync", "rmdir"]
    assert_whole(tmp_path, at_least=10)


@pytest.mark.parametrize("size", [1, 7])
def test_short_writes_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:size]))
    save_checkpoint(tmp_path, 10, tensors_at(10), {})
    assert_whole(tmp_path, at_least=10)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    for failure in (kill_at, lambda number: fail_at(number, errno.ENOSPC)):
        for number in range(7):
            path.write_bytes(b"old")
            try:
                with watching(failure(number)):
                    write_bytes_atomically(path, b"new")
            except (Killed, UserError):
                assert path.read_bytes() in (b"old", b"new")
            else:
                assert path.read_bytes() == b"new"
                assert number >= 6


# Cached folders

KEY = cache_key("test", content="x")


def build(folder: Path) -> dict[str, Any]:
    for name in ("a.bin", "b.bin"):
        (folder / name).write_bytes(bytes(100))
    return {"made": "here"}


def damaged_cache(cache_dir: Path) -> CacheFolder:
    """Build a folder and damage it, so that the next build removes it; return what it was."""
    cache_dir.mkdir()
    whole = open_or_build(cache_dir, KEY, build)
    (whole.path / "a.bin").write_bytes(b"")
    return whole


def count_cache_calls(tmp_path: Path, kinds: tuple[str, ...] = CHANGES) -> int:
    calls: list[str] = []
    damaged_cache(tmp_path / "counted")
    with watching(counting(calls)):
        open_or_build(tmp_path / "counted", KEY, build)
    return sum(name in kinds for name in calls)


def assert_complete_or_absent(cache_dir: Path, whole: CacheFolder) -> None:
    assert open_intact(cache_dir, KEY) in (None, whole)
    assert open_or_build(cache_dir, KEY, build) == whole
    assert sorted(os.listdir(cache_dir)) == sorted([KEY, f".{KEY}.lock"])


def test_a_cache_killed_at_any_call_is_complete_or_absent(tmp_path: Path) -> None:
    for number in range(count_cache_calls(tmp_path)):
        whole = damaged_cache(tmp_path / str(number))
        with pytest.raises(Killed), watching(kill_at(number)):
            open_or_build(tmp_path / str(number), KEY, build)
        assert_complete_or_absent(tmp_path / str(number), whole)


@pytest.mark.parametrize(
    ("error", "kinds", "forever"),
    [
        (errno.ENOSPC, ("mkdir", "write", "ftruncate"), True),
        (errno.EIO, CHANGES, True),
        (errno.EIO, CHANGES, False),
        (errno.EACCES, CHANGES, False),
    ],
)
def test_a_failing_disk_leaves_no_half_of_a_cache(
    tmp_path: Path, error: int, kinds: tuple[str, ...], forever: bool
) -> None:
    refusals: list[str] = []
    for number in range(count_cache_calls(tmp_path, kinds)):
        whole = damaged_cache(tmp_path / str(number))
        try:
            with watching(fail_at(number, error, kinds=kinds, forever=forever)):
                open_or_build(tmp_path / str(number), KEY, build)
        except UserError as refusal:  # not raised where a read fails: such a folder is built anew
            refusals.append(str(refusal))
        assert_complete_or_absent(tmp_path / str(number), whole)
    assert len(refusals) >= 3
    assert not any("\n" in refusal for refusal in refusals)


# All of it in any order


class CheckpointFolder(RuleBasedStateMachine):
    """Compare the folder with a list: saves that return, saves that die, damage, new starts."""

    def __init__(self) -> None:
        super().__init__()
        self.temporary = tempfile.TemporaryDirectory()
        self.directory = Path(self.temporary.name)
        self.steps: list[int] = []  # what must be in the folder, ascending

    def teardown(self) -> None:
        self.temporary.cleanup()

    def expected_after(self, step: int, keep: int) -> list[int]:
        return [*(earlier for earlier in self.steps if earlier < step), step][-keep:]

    @rule(distance=st.integers(0, 3), keep=st.integers(1, 3))
    def save(self, distance: int, keep: int) -> None:
        step = max(self.steps, default=0) + distance
        save_checkpoint(self.directory, step, tensors_at(step), {}, keep=keep)
        self.steps = self.expected_after(step, keep)

    @rule(distance=st.integers(0, 3), keep=st.integers(1, 3), number=st.integers(0, 40))
    def save_and_die(self, distance: int, keep: int, number: int) -> None:
        step = max(self.steps, default=0) + distance
        try:
            with watching(kill_at(number)):
                save_checkpoint(self.directory, step, tensors_at(step), {}, keep=keep)
        except Killed:
            recover_checkpoints(self.directory)
        here = steps_in(self.directory)
        if here != self.steps:  # then the new one is there; older ones are deleted only after that
            kept = self.expected_after(step, keep)
            assert set(kept) <= set(here) <= {*self.steps, step}
        self.steps = here

    @precondition(lambda self: self.steps)
    @rule(place=st.floats(0, 1, exclude_max=True), name=st.sampled_from(FILES))
    def damage_the_newest_and_go_on(self, place: float, name: str) -> None:
        path = self.directory / f"step-{self.steps[-1]:08d}"
        contents = bytearray((path / name).read_bytes())
        contents[int(place * len(contents))] ^= 1
        (path / name).write_bytes(contents)
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
        warnings: list[str] = []
        *before, _ = self.steps
        if before:
            found = load_newest_checkpoint(self.directory, warn=warnings.append).step
            assert (found, len(warnings)) == (before[-1], 1)
        step = max(before, default=-1) + 1
        save_checkpoint(self.directory, step, tensors_at(step), {}, keep=2)
        self.steps = [*before, step][-2:]

    @invariant()
    def folder_is_as_expected(self) -> None:
        assert_whole(self.directory, at_least=max(self.steps, default=0))
        assert steps_in(self.directory) == self.steps


TestCheckpointFolder = CheckpointFolder.TestCase
TestCheckpointFolder.settings = settings(stateful_step_count=20)
