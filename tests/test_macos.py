"""A run needs nothing that macOS lacks: here its gaps and its own calls are imitated."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from electra_ref import freed_memory
from electra_ref.command_line import reporting
from electra_ref.files import force_to_disk, write_text_atomically
from electra_ref.training.completing import Limits
from electra_ref.training.environment import describe_environment
from electra_ref.training.pretraining.run import complete, resume
from electra_ref.training.stop_signals import StopSignals
from tests.small_runs import begin_small, quiet, write_corpus

F_FULLFSYNC = 51  # <sys/fcntl.h> of macOS


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Take away what Linux has; return what is forced out with macOS's call."""
    calls: list[int] = []
    read_text = Path.read_text

    def without_proc(path: Path, *rest: Any, **more: Any) -> str:
        if path.is_relative_to("/proc"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return read_text(path, *rest, **more)

    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(Path, "read_text", without_proc)
    monkeypatch.setattr(freed_memory, "ctypes", SimpleNamespace(CDLL=lambda _name: object()))
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", F_FULLFSYNC, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda _, command: calls.append(command))
    return calls


@pytest.mark.usefixtures("quick")
def test_a_run_begins_ends_and_resumes(
    forced: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    corpus = write_corpus(tmp_path / "corpus.txt")
    trainer = begin_small(tmp_path / "run", corpus, steps=2)
    with reporting() as (_, stop), trainer.run:
        complete(trainer, stop, Limits(1, None, time.monotonic()))
    with resume(tmp_path / "run", [], None, quiet(), StopSignals()).run as run:
        fingerprint = run.environment()["fingerprint"]
    assert fingerprint["cores"] == os.cpu_count()
    assert fingerprint["cpu"] == os.uname().machine
    assert set(forced) == {F_FULLFSYNC}


def test_cores_are_counted_where_processes_are_tied_to_none(
    forced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    del forced
    for count, cores in ((8, 8), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        described = describe_environment(device="cpu", precision="float32", backend="reference")
        assert described["fingerprint"]["cores"] == cores


def test_bytes_are_forced_out_of_the_disk_s_own_memory(
    forced: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: pytest.fail("that is not enough on macOS"))
    write_text_atomically(tmp_path / "text", "new")
    assert forced == [F_FULLFSYNC] * 2  # the file, then its folder


def test_a_file_system_without_that_call_gets_the_usual_one(
    forced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    synced: list[int] = []
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    monkeypatch.setattr(os, "fsync", synced.append)
    force_to_disk(7)
    assert (synced, forced) == ([7], [])
