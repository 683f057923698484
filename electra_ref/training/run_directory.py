"""The folder of one run: whose it is, who may write to it now, and where things lie in it.

    config.toml         the resolved configuration; its presence says that the run has begun
    environment.json    the marker: a folder is a run of ours if this names our format
    data.json           what was read; with vocab.txt, written when the data are prepared
    vocab.txt  metrics.jsonl  samples.jsonl  checkpoints/
    .lock               held with flock(2), which the kernel releases even after kill -9

A folder that holds anything else is never written to. The path to it may lead through symbolic
links; inside it, none is followed for writing or deleting.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from electra_ref.errors import UserError
from electra_ref.files import (
    TEMPORARY,
    disk_errors,
    remove_temporaries,
    sync_folder,
    write_json_atomically,
    write_text_atomically,
)
from electra_ref.training.checkpoint import recover_checkpoints

FORMAT = "electra_ref run 1"
_MARKER = "environment.json"
_CONFIG = "config.toml"
_LOCK = ".lock"


class RunDirectory:
    """Paths and lock of one run's folder.

    ``create`` and ``resume`` return it locked, to be used as a context manager, which unlocks it
    in the end; ``open`` is for whoever only reads.
    """

    def __init__(self, path: Path, lock: int | None = None) -> None:
        self.path = path
        self.config = path / _CONFIG
        self.data = path / "data.json"
        self.vocabulary = path / "vocab.txt"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples.jsonl"
        self.checkpoints = path / "checkpoints"
        self._lock = lock

    @classmethod
    def create(cls, path: Path, config: str, environment: Mapping[str, Any]) -> Self:
        """Begin a run in ``path``, a missing or empty folder; write ``config.toml`` and the marker.

        Raises UserError, and writes nothing, if the folder holds a run already or anything else, if
        another process is at work in it, or if the disk refuses.
        """
        _require_unused(path)
        with disk_errors(f"create {path}"):
            path.mkdir(parents=True, exist_ok=True)
        run = cls(path, _acquire_lock(path))
        try:
            _require_unused(path)  # again: another process may have begun before we got the lock
            run._tidy()
            write_json_atomically(path / _MARKER, {"format": FORMAT, **environment})
            write_text_atomically(run.config, config)
            with disk_errors(f"create {path}"):
                sync_folder(path.parent)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def resume(cls, path: Path) -> Self:
        """Take up the run in ``path`` again; what a killed process left half-written is removed.

        Raises UserError if there is no run, or another process is at work in it.
        """
        cls.open(path)
        run = cls(path, _acquire_lock(path))
        try:
            run._tidy()
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: Path) -> Self:
        """The run in ``path``, to read from. Raises UserError if there is none."""
        if not is_run(path):
            raise UserError(f"{path} holds no run of electra_ref; check the path")
        if not (path / _CONFIG).exists():
            raise UserError(
                f"the run in {path} was stopped before it began; start it again without --resume"
            )
        return cls(path)

    def environment(self) -> dict[str, Any]:
        """What ``create`` was given. Raises UserError if the file has become unreadable."""
        environment = _read_marker(self.path)
        if environment is None:
            raise UserError(f"{self.path / _MARKER} cannot be read as this run's")
        return environment

    def discard(self, *, folder: bool) -> None:
        """Take back what ``create`` and the preparation of the data wrote, then ``close``.

        ``folder`` says whether the folder goes too, unless something else is in it. Only for a run
        that has not begun to train. ``config.toml`` goes first and the marker after all that
        ``create`` would refuse, so that a process killed in between leaves a folder to begin in.
        """
        with suppress(OSError):
            for path in (self.config, self.data, self.vocabulary):
                path.unlink(missing_ok=True)
            shutil.rmtree(self.path / "cache", ignore_errors=True)  # the last resort for the cache
            (self.path / _MARKER).unlink()
            self.checkpoints.rmdir()
            (self.path / _LOCK).unlink()
            if folder:
                self.path.rmdir()
        self.close()

    def close(self) -> None:
        """Let another process have the folder. Harmless if it is not locked."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tidy(self) -> None:
        """Remove what a killed process left; make sure of the checkpoints' folder."""
        if self.checkpoints.is_symlink():
            raise UserError(f"{self.checkpoints} is a symbolic link; replace it by a folder")
        with disk_errors(f"tidy {self.path}"):
            self.checkpoints.mkdir(exist_ok=True)
            sync_folder(self.path)
            remove_temporaries(self.path)
        recover_checkpoints(self.checkpoints)


def is_run(path: Path) -> bool:
    """Whether ``path`` holds a run of ours, by its marker."""
    return _read_marker(path) is not None


def new_run_path(root: Path, name: str) -> Path:
    """Make and return the first of ``root/name``, ``root/name-2``, ... that is not there yet.

    Two processes never get the same: whoever makes the folder has it. Raises UserError.
    """
    with disk_errors(f"create a folder in {root}"):
        root.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = root / (name if number == 1 else f"{name}-{number}")
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
            else:
                return path


def newest_run(root: Path) -> Path:
    """The run in ``root`` that a process last worked on. Raises UserError if there is none."""
    runs = []
    if root.is_dir():
        with disk_errors(f"read {root}"):
            runs = [path for path in sorted(root.iterdir()) if (path / _CONFIG).exists()]
    runs = [path for path in runs if is_run(path)]
    if not runs:
        raise UserError(f"there is no run to resume in {root}; name one with --output-dir")
    return max(runs, key=_last_used)


def _last_used(run: Path) -> int:
    """Nanoseconds since the epoch: every process that locks a run writes to its lock file."""
    try:
        return (run / _LOCK).stat().st_mtime_ns
    except OSError:
        return 0


def _read_marker(path: Path) -> dict[str, Any] | None:
    """The contents of ``environment.json`` if it is ours."""
    try:
        marker = json.loads((path / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return marker if isinstance(marker, dict) and marker.get("format") == FORMAT else None


def _require_unused(path: Path) -> None:
    """Raise UserError unless a new run may begin in ``path``."""
    with disk_errors(f"use {path} as the output folder"):
        if not os.path.lexists(path):
            return
        if not path.is_dir():
            raise UserError(f"{path} is not a folder; choose another --output-dir")
        names = sorted(os.listdir(path))
    if is_run(path):
        if (path / _CONFIG).exists():
            raise UserError(
                f"{path} holds a run already: use --resume to continue it, "
                "or another --output-dir to start afresh"
            )
        return  # killed before its config.toml was there: nothing is lost by beginning again
    # what a process killed within ``create`` may have left, and nothing else
    strangers = [name for name in names if name not in (_LOCK, "checkpoints")]
    strangers = [name for name in strangers if not TEMPORARY.fullmatch(name)]
    if (path / "checkpoints").is_symlink() or _has_entries(path / "checkpoints"):
        strangers.append("checkpoints")
    if strangers:
        raise UserError(
            f"{path} holds something else ({strangers[0]}), which is never overwritten; "
            "choose another --output-dir"
        )


def _has_entries(path: Path) -> bool:
    return path.exists() and not (path.is_dir() and not os.listdir(path))


def _acquire_lock(path: Path) -> int:
    """Lock the folder for this process alone, at once or not at all; return the open file.

    Raises UserError if another process holds it. A forked child would share the lock and keep it
    after its parent's death, so the file is closed on exec and nothing here forks.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with disk_errors(f"lock {path}"):
        descriptor = os.open(path / _LOCK, flags, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UserError(f"{path / _LOCK} is not a file; remove it")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise UserError(
                f"another process ({holder or 'unknown'}) is at work in {path}: wait for it, "
                "or choose another --output-dir"
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor
