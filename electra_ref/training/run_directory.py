"""The folder of one run: whether it is a run, who may write to it now, and where its files are.

    config.toml         the resolved configuration; where it is missing, the run has not begun
    environment.json    the marker: a folder is a run if this file names our format
    data.json           what was read; written with vocab.txt when the data are prepared
    vocab.txt  metrics.jsonl  samples.jsonl  checkpoints/  best/
    .lock               locked while a process works on the run

Nothing is written to a folder that holds anything else. The path to it may lead through symbolic
links. Inside it, no link is followed for writing or deleting.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn, Self

from electra_ref.errors import UserError
from electra_ref.files import (
    TEMPORARY,
    disk_errors,
    remove_temporaries,
    sync_folder,
    write_json_atomically,
    write_text_atomically,
)
from electra_ref.locks import acquire_lock
from electra_ref.processes import Processes
from electra_ref.training.checkpoint import recover_checkpoints

FORMAT = "electra_ref run 1"
IMPORTED = "imported_from"  # a key of environment.json: this run was never trained
KIND = "kind"  # a key of environment.json; runs without it are of pre-training
PRETRAINING, FINETUNING = "pretraining", "finetuning"
_MARKER = "environment.json"
_CONFIG = "config.toml"
_LOCK = ".lock"


class RunDirectory:
    """Paths and lock of one run's folder.

    ``create`` and ``resume`` return it locked; use it as a context manager, which unlocks it at the
    end. Use ``open`` to read only.
    """

    def __init__(self, path: Path, lock: FileIO | None = None) -> None:
        self.path = path
        self.config = path / _CONFIG
        self.data = path / "data.json"
        self.vocabulary = path / "vocab.txt"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples.jsonl"
        self.checkpoints = path / "checkpoints"
        self.best = path / "best"  # a checkpoint of the best model, if the run keeps it
        self._lock = lock

    @classmethod
    def create(cls, path: Path, config: str, environment: Mapping[str, Any]) -> Self:
        """Begin a run in ``path``, a missing or empty folder; write ``config.toml`` and the marker.

        Raises UserError, and writes nothing, if the folder holds a run or anything else, or if
        another process is at work in it. Raises UserError if the disk refuses.
        """
        require_unused(path)
        with disk_errors(f"create {path}"):
            path.mkdir(parents=True, exist_ok=True)
        run = cls(path, _lock(path))
        try:
            require_unused(path)  # again: another process may have begun before we got the lock
            run._tidy()
            run.rewrite(config, environment)
            with disk_errors(f"create {path}"):
                sync_folder(path.parent)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def resume(cls, path: Path) -> Self:
        """Open the run in ``path`` to continue it; remove what a killed process left half-written.

        Raises UserError if there is no run, if another process is at work in it, or if the disk
        refuses.
        """
        cls.open(path)
        run = cls(path, _lock(path))
        try:
            run._tidy()
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the run in ``path`` to read from it. Raises UserError if there is none."""
        if not is_run(path):
            raise UserError(f"{path} holds no run of electra_ref; check the path")
        if not (path / _CONFIG).exists():
            if _has_entries(path / "checkpoints"):
                raise UserError(f"the run in {path} has lost its {_CONFIG}: put back a copy of it")
            raise UserError(
                f"the run in {path} was stopped before it began; start it again without --resume"
            )
        return cls(path)

    def environment(self) -> dict[str, Any]:
        """Return what ``create`` was given. Raises UserError if the file cannot be read."""
        environment = _read_marker(self.path)
        if environment is None:
            raise UserError(f"{self.path / _MARKER} cannot be read as this run's")
        return environment

    def rewrite(self, config: str, environment: Mapping[str, Any]) -> None:
        """Replace what ``create`` wrote. Raises UserError if the disk refuses."""
        write_json_atomically(self.path / _MARKER, {"format": FORMAT, **environment})
        write_text_atomically(self.config, config)

    def discard(self, *, folder: bool) -> None:
        """Delete what ``create`` and the preparation of the data wrote, then ``close``.

        If ``folder``, delete the folder too, unless it holds something else. Only for a run that
        has not begun to train. ``config.toml`` is deleted first, and the marker only after
        everything that ``create`` would refuse. So ``create`` accepts what a process killed in
        between leaves. Does nothing without the lock.
        """
        if self._lock is None:
            return
        with suppress(OSError):
            for path in (self.config, self.data, self.vocabulary, self.metrics, self.samples):
                path.unlink(missing_ok=True)
            shutil.rmtree(self.path / "cache", ignore_errors=True)  # the last resort for the cache
            (self.path / _MARKER).unlink()
            self.checkpoints.rmdir()
            (self.path / _LOCK).unlink()
            if folder:
                self.path.rmdir()
        self.close()

    def close(self) -> None:
        """Unlock the folder. Does nothing if it is not locked."""
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tidy(self) -> None:
        """Remove what a killed process left; create the folder of the checkpoints if missing."""
        for folder in (self.checkpoints, self.best):
            if folder.is_symlink():
                raise UserError(f"{folder} is a symbolic link; replace it by a folder")
        with disk_errors(f"tidy {self.path}"):
            self.checkpoints.mkdir(exist_ok=True)
            sync_folder(self.path)
            remove_temporaries(self.path)
        recover_checkpoints(self.checkpoints)


def opened_by_first(processes: Processes, opened: Callable[[], RunDirectory]) -> RunDirectory:
    """Return what ``opened`` returns in the first of ``processes``; the others get the paths only.

    What it raises is raised in all.
    """
    runs: list[RunDirectory] = []

    def path_of_first() -> Path:
        runs.append(opened())
        return runs[0].path

    path = processes.of_first(path_of_first)
    return runs[0] if runs else RunDirectory(path)


def is_run(path: Path) -> bool:
    """Return whether ``path`` holds a run of ours, by its marker."""
    return _read_marker(path) is not None


def has_begun(path: Path) -> bool:
    """Return whether ``path`` holds a run that is to be resumed, not begun again.

    It has ``config.toml``, or checkpoints and has lost it.
    """
    return is_run(path) and ((path / _CONFIG).exists() or _has_entries(path / "checkpoints"))


def new_run_path(root: Path, name: str) -> Path:
    """Create and return the first of ``root/name``, ``root/name-2``, ... that does not exist.

    Two processes never get the same folder. Raises UserError if the disk refuses.
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


def kind_of(path: Path) -> str:
    """Return PRETRAINING or FINETUNING for the run in ``path``."""
    return str((_read_marker(path) or {}).get(KIND, PRETRAINING))


def newest_run(root: Path, kind: str = PRETRAINING, to_do: str = "resume") -> Path:
    """Return the run of a ``kind`` in ``root`` that was locked last.

    Raises UserError if there is none ``to_do`` something with.
    """
    runs = runs_in(root, kind)
    if not runs:
        flag = "--output-dir" if to_do == "resume" else "--model"
        raise UserError(f"there is no run to {to_do} in {root}; name one with {flag}")
    return max(runs, key=last_used)


def runs_in(root: Path, kind: str) -> list[Path]:
    """Return the runs of a ``kind`` that have begun in ``root``, which may be missing."""
    if not root.is_dir():
        return []
    with disk_errors(f"read {root}"):
        paths = [path for path in sorted(root.iterdir()) if has_begun(path)]
    return [path for path in paths if kind_of(path) == kind]


def last_used(run: Path) -> int:
    """Return nanoseconds since the epoch. A process that locks a run writes to its lock file."""
    try:
        return (run / _LOCK).stat().st_mtime_ns
    except OSError:
        return 0


def _read_marker(path: Path) -> dict[str, Any] | None:
    """Return the contents of ``environment.json``, or None if it is not ours."""
    try:
        marker = json.loads((path / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return marker if isinstance(marker, dict) and marker.get("format") == FORMAT else None


def require_unused(path: Path) -> None:
    """Raise UserError unless a new run may begin in ``path``."""
    with disk_errors(f"use {path} as the output folder"):
        if not os.path.lexists(path):
            return
        if not path.is_dir():
            raise UserError(f"{path} is not a folder; choose another --output-dir")
        names = sorted(os.listdir(path))
    if has_begun(path):
        raise UserError(
            f"{path} holds a run already: use --resume to continue it, "
            "or another --output-dir to start afresh"
        )
    if is_run(path):
        return  # killed before config.toml was written: nothing is lost by beginning again
    # a process that was killed inside ``create`` may have left these, and nothing else
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


def _lock(path: Path) -> FileIO:
    """Lock the folder. Raises UserError if the disk refuses or another process holds the lock."""

    def refuse(holder: str) -> NoReturn:
        raise UserError(
            f"another process ({holder}) is at work in {path}: wait for it, "
            "or choose another --output-dir"
        )

    with disk_errors(f"lock {path}"):
        return acquire_lock(path / _LOCK, refuse)
