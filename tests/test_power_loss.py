"""Cut the power at every call of a series of saves, in every way a disk may then have kept them.

After kill -9 the kernel still writes everything it holds, so kill -9 cannot find a missing fsync.
This model can. Its rules follow Pillai et al. 2014 (OSDI):

* Of the pages written to a file since its last fsync, any subset may be on the disk. Of the last
  page, a part may be.
* Of the changes to the names in a folder since its last fsync, the first n may be on the disk, for
  any n.
* Files and folders are independent of each other.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from electra_ref.files import sync_folder
from electra_ref.text.cache_folder import cache_key, open_intact, open_or_build
from electra_ref.training import checkpoint
from electra_ref.training.checkpoint import (
    CheckpointError,
    Groups,
    list_checkpoints,
    load_checkpoint,
    recover_checkpoints,
    save_checkpoint,
)
from tests.file_system_calls import watching
from tests.killed_run import tensors_at


@dataclass(eq=False)
class File:
    """What was written to a file, and when it was forced to the disk."""

    page: int  # bytes
    writes: list[tuple[int, bytes]] = field(default_factory=list)  # (time, data), all appended
    syncs: list[int] = field(default_factory=list)

    def states(self, time: int) -> Iterator[bytes]:
        """Yield what the file may hold after a power cut at ``time``."""
        synced = max((sync for sync in self.syncs if sync <= time), default=0)
        durable = b"".join(data for at, data in self.writes if at <= synced)
        pending = b"".join(data for at, data in self.writes if synced < at <= time)
        pages = [pending[at : at + self.page] for at in range(0, len(pending), self.page)]
        for kept in itertools.product((False, True), repeat=len(pages)):
            lost = b"".join(p if k else bytes(len(p)) for p, k in zip(pages, kept, strict=True))
            yield durable + lost
            if any(kept):
                yield durable + lost[: -len(pages[-1]) // 2]
        if pages:
            yield durable


@dataclass(eq=False)
class Folder:
    """The changes of a folder's names, each at once, and when they were forced to the disk."""

    changes: list[tuple[int, dict[str, Any]]] = field(default_factory=list)  # name: node or None
    syncs: list[int] = field(default_factory=list)

    def names(self, changes: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
        """Return the names after ``changes``."""
        merged: dict[str, Any] = {}
        for _, change in changes:
            merged |= change
        return {name: node for name, node in merged.items() if node is not None}

    def states(self, time: int) -> Iterator[tuple[tuple[str, Any], ...]]:
        """Yield what the folder and all below may hold after a power cut at ``time``."""
        synced = max((sync for sync in self.syncs if sync <= time), default=0)
        durable = sum(at <= synced for at, _ in self.changes)
        for end in range(durable, sum(at <= time for at, _ in self.changes) + 1):
            names = self.names(self.changes[:end])
            for states in itertools.product(*(node.states(time) for node in names.values())):
                yield tuple(sorted(zip(names, states, strict=True)))


class Disk:
    """Records what is done below ``root``, with a clock that ticks at each call."""

    def __init__(self, root: Path, page: int, ignored: type | None) -> None:
        self.root, self.page = root, page
        self.ignored = ignored  # what the program never syncs, as far as this disk can tell
        self.top = Folder()
        self.time = 0
        self.acknowledged: list[tuple[int, int]] = []  # (time, step, or 1 for a cache)
        self._open: dict[int, Any] = {}

    def find(self, path: Path) -> Any:
        """Return the node that ``path`` names now."""
        node: Any = self.top
        for name in path.relative_to(self.root).parts:
            node = node.names(node.changes)[name]
        return node

    def change(self, path: Path, **more: Any) -> None:
        """Record that the folder of ``path`` changes names, at once."""
        self.find(path.parent).changes.append((self.time, more))

    def record(self, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        """Record a call of the program, after it."""
        self.time += 1
        path = Path(arguments[0]) if isinstance(arguments[0], str | os.PathLike) else None
        if path is not None and name == "open":
            if arguments[1] & os.O_CREAT:
                self.change(path, **{path.name: File(self.page)})
            self._open[result] = self.find(path)
        elif path is not None and name == "mkdir":
            self.change(path, **{path.name: Folder()})
        elif path is not None and name in ("unlink", "rmdir"):
            self.change(path, **{path.name: None})
        elif path is not None and name == "rename":
            target = Path(arguments[1])
            assert target.parent == path.parent, "a rename across folders is not one change"
            self.change(path, **{path.name: None, target.name: self.find(path)})
        elif name == "write":
            self._open[arguments[0]].writes.append((self.time, bytes(arguments[1][:result])))
        elif name == "fsync":
            node = self._open[arguments[0]]
            if self.ignored is None or not isinstance(node, self.ignored):
                node.syncs.append(self.time)
        elif name != "ftruncate":  # of a lock, whose contents are for people
            raise AssertionError(f"the model does not know {name}{arguments}")


STEPS = (10, 20, 30, 30)  # the third rotates one out, the fourth replaces
Write = Callable[[Path, Mapping[str, Any], Groups], None]

WHOLE = 10**6  # a page that holds any file: enough to find what is plainly wrong


def record_saves(
    directory: Path,
    *,
    page: int = WHOLE,
    ignored: type | None = None,
    steps: Sequence[int] = STEPS,
) -> Disk:
    """Save a checkpoint of each of ``steps`` in an empty folder that is already on the disk."""
    directory.mkdir()
    disk = Disk(directory, page, ignored)
    with watching(lambda *_: None, disk.record):
        for step in steps:
            save_checkpoint(directory, step, tensors_at(step), {}, keep=2)
            disk.acknowledged.append((disk.time, step))
    return disk


def restore(state: tuple[tuple[str, Any], ...], folder: Path) -> None:
    """Write ``state`` as real files."""
    folder.mkdir()
    for name, content in state:
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            restore(content, folder / name)


def violation(folder: Path, acknowledged: int) -> str:
    """Return what is wrong with ``folder`` after the power is back, or ""."""
    for path in list_checkpoints(folder):
        try:
            load_checkpoint(path)
        except CheckpointError:
            return "a half-written checkpoint has a checkpoint's name"
    recover_checkpoints(folder)
    steps = [load_checkpoint(path).step for path in list_checkpoints(folder)]
    if acknowledged and not steps:
        return "no valid checkpoint is left"
    if acknowledged > max(steps, default=0):
        return "an acknowledged save is lost"
    return "a temporary stays" if len(list(folder.iterdir())) != len(steps) else ""


def check(
    disk: Disk, scratch: Path, violation: Callable[[Path, int], str] = violation
) -> tuple[int, str]:
    """Try the states of every moment, up to the first violation; return how many were tried."""
    seen: set[tuple[int, Any]] = set()
    for time in range(disk.time + 1):
        acknowledged = max((step for at, step in disk.acknowledged if at <= time), default=0)
        for state in disk.top.states(time):
            if (acknowledged, state) not in seen:
                seen.add((acknowledged, state))
                restore(state, scratch)
                with mock.patch.object(os, "fsync"):  # nothing here needs to survive a power cut
                    problem = violation(scratch, acknowledged)
                shutil.rmtree(scratch)
                if problem:
                    return len(seen), f"{problem} (call {time}, state {len(seen)})"
    return len(seen), ""


@pytest.mark.parametrize(
    ("page", "at_least"), [(96, 300), pytest.param(40, 10_000, marks=pytest.mark.slow)]
)
def test_no_power_cut_loses_an_acknowledged_save(tmp_path: Path, page: int, at_least: int) -> None:
    disk = record_saves(tmp_path / "checkpoints", page=page)
    states, problem = check(disk, tmp_path / "scratch")
    assert not problem
    assert states >= at_least


# Protocols that are wrong: the check above must be able to fail


def write_in_place(path: Path, facts: Mapping[str, Any], groups: Groups) -> None:
    """Write straight into the final folder; force everything to the disk, but too late."""
    os.mkdir(path)
    checkpoint._fill(path, facts, groups)
    sync_folder(path.parent)


def rename_first(path: Path, facts: Mapping[str, Any], groups: Groups) -> None:
    """Give the folder its final name before its contents."""
    temporary = path.with_name(f".{path.name}.00000000.tmp")
    os.mkdir(temporary)
    os.rename(temporary, path)
    sync_folder(path.parent)
    checkpoint._fill(path, facts, groups)


def rotate_first(path: Path, facts: Mapping[str, Any], groups: Groups) -> None:
    """Delete the old ones before the new one is written."""
    for old in list_checkpoints(path.parent):
        aside = path.with_name(f".{old.name}.00000000.old")
        os.rename(old, aside)
        for file in sorted(aside.iterdir()):
            os.unlink(file)
        os.rmdir(aside)
    write_as_we_do(path, facts, groups)


write_as_we_do = checkpoint._write


@pytest.mark.parametrize("write", [write_in_place, rename_first, rotate_first])
def test_a_wrong_order_of_calls_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    monkeypatch.setattr(checkpoint, "_write", write)
    assert_violated(tmp_path, record_saves(tmp_path / "checkpoints", steps=STEPS[:3]))


@pytest.mark.parametrize("ignored", [File, Folder])
def test_a_missing_fsync_is_found(tmp_path: Path, ignored: type) -> None:
    assert_violated(tmp_path, record_saves(tmp_path / "checkpoints", ignored=ignored))


# Cached folders

KEY = cache_key("test", content="x")


def build(folder: Path) -> dict[str, Any]:
    """Write a file without fsync, as a stream does."""
    descriptor = os.open(folder / "a.bin", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, bytes(range(1, 101)))
    os.close(descriptor)
    return {"made": "here"}


def record_build(cache_dir: Path, *, page: int = WHOLE, ignored: type | None = None) -> Disk:
    """Build a folder in an empty one that is already on the disk."""
    cache_dir.mkdir()
    disk = Disk(cache_dir, page, ignored)
    with watching(lambda *_: None, disk.record):
        open_or_build(cache_dir, KEY, build)
        disk.acknowledged.append((disk.time, 1))
    return disk


def cache_violation(cache_dir: Path, acknowledged: int) -> str:
    """Return what is wrong with ``cache_dir`` after the power is back, or ""."""
    found = open_intact(cache_dir, KEY)
    if found is None and (cache_dir / KEY).exists():
        return "a half-written folder has its final name"
    if found is None and acknowledged:
        return "an acknowledged folder is lost"
    open_or_build(cache_dir, KEY, build)
    return "a temporary stays" if len(list(cache_dir.iterdir())) != 2 else ""


def test_no_power_cut_leaves_half_of_a_cache(tmp_path: Path) -> None:
    disk = record_build(tmp_path / "cache", page=50)
    states, problem = check(disk, tmp_path / "scratch", cache_violation)
    assert not problem
    assert states >= 100


@pytest.mark.parametrize("ignored", [File, Folder])
def test_a_missing_fsync_of_a_cache_is_found(tmp_path: Path, ignored: type) -> None:
    disk = record_build(tmp_path / "cache", ignored=ignored)
    _, problem = check(disk, tmp_path / "scratch", cache_violation)
    assert problem


def assert_violated(tmp_path: Path, disk: Disk) -> None:
    _, problem = check(disk, tmp_path / "scratch")
    assert problem
