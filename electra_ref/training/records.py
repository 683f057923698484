"""Append-only files of JSON lines: ``metrics.jsonl`` and ``samples.jsonl``.

A line goes to the kernel in one write, so kill -9 leaves at most the last line incomplete, and
``truncate_records`` drops it. Resuming from step S also drops what the stopped run wrote after S.
The resumed run writes it again. So the finished file equals that of a run that was never stopped.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from electra_ref.errors import UserError
from electra_ref.files import disk_errors, force_to_disk, write_all, write_bytes_atomically
from electra_ref.processes import Processes
from electra_ref.training.checkpoint import NonFiniteError


class RecordFile:
    """A file of JSON objects, one a line, each with its ``step``. A context manager."""

    def __init__(self, path: Path) -> None:
        """Open ``path`` for appending; create it if it is missing. Raises UserError."""
        self.path = path
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with disk_errors(f"write {path}"):
            self._descriptor = os.open(path, flags, 0o666)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line, visible to readers at once.

        Raises NonFiniteError for NaN or infinity (JSON has neither: give None for a figure that is
        undefined), ValueError without an integer ``step``, UserError if the disk refuses. The file
        is then as before.
        """
        data = _line_of(record, self.path)
        with disk_errors(f"write {self.path}"):
            end = os.fstat(self._descriptor).st_size
            try:
                write_all(self._descriptor, data)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._descriptor, end)
                raise

    def sync(self) -> None:
        """Force all lines to the disk. Call it before a checkpoint: then no line up to it is lost.

        Raises UserError.
        """
        with disk_errors(f"write {self.path}"):
            force_to_disk(self._descriptor)

    def close(self) -> None:
        """Close the file; the lines are already with the kernel."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ForeignFile:
    """A file that another process writes; lines are checked as there, and dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Raise what ``RecordFile.append`` raises for ``record`` itself."""
        _line_of(record, self._path)

    def sync(self) -> None:
        """Do nothing."""


class Records(NamedTuple):
    """The open files of a run."""

    metrics: RecordFile | ForeignFile
    samples: RecordFile | ForeignFile


@contextmanager
def open_records(metrics: Path, samples: Path, processes: Processes) -> Iterator[Records]:
    """Open the files of a run for appending, in the first of ``processes``. Raises UserError."""
    if processes.rank > 0:
        yield Records(ForeignFile(metrics), ForeignFile(samples))
        return
    with RecordFile(metrics) as metrics_file, RecordFile(samples) as samples_file:
        yield Records(metrics_file, samples_file)


def _line_of(record: Mapping[str, Any], path: Path) -> bytes:
    """Return the line of ``path`` for ``record``. Raises ValueError, NonFiniteError."""
    if type(record.get("step")) is not int:
        raise ValueError(f"a record needs an integer step, got {record.get('step')!r}")
    try:
        line = json.dumps(dict(record), ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise NonFiniteError(f"step {record['step']} is not logged in {path}: {error}") from error
    return f"{line}\n".encode("utf-8", "surrogatepass")


def truncate_records(path: Path, step: int) -> None:
    """Drop the lines after ``step``, and an incomplete end that a crash left, all at once.

    A missing file stays missing. Raises UserError if a line up to ``step`` is damaged: somebody
    edited the file, and the record of this run cannot be completed.
    """
    data = _read(path)
    lines = data.split(b"\n")
    steps = [_step_of(line) for line in lines]
    kept = 0
    while kept < len(steps) and steps[kept] <= step:
        kept += 1
    for number, later in enumerate(steps[kept:], kept + 1):
        if later <= step:
            raise UserError(
                f"{path} is damaged before line {number}: repair it, or move it elsewhere"
            )
    result = b"".join(line + b"\n" for line in lines[:kept])
    if result != data:
        write_bytes_atomically(path, result)


def replace_records(path: Path, step: int, split: str, record: dict[str, Any] | None) -> None:
    """Put ``record``, if there is one, in the place of those of ``split`` at ``step``, all at once.

    It becomes the last line. Nothing is written where that is so already. Raises UserError if the
    disk refuses.
    """
    lines = _read(path).splitlines(keepends=True)
    parsed = [_parse(line) for line in lines]
    old = [r for r in parsed if r and (r["step"], r.get("split")) == (step, split)]
    if old == ([record] if record else []):
        return
    kept = [line for line, r in zip(lines, parsed, strict=True) if r not in old]
    if record:
        kept.append(json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n")
    write_bytes_atomically(path, b"".join(kept))


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return all complete lines of ``path``; [] for a missing file.

    An incomplete last line is left out. Raises UserError if a line before it is damaged.
    """
    records = [_parse(line) for line in _read(path).split(b"\n")]
    if records[-1] is None:
        records.pop()
    for number, record in enumerate(records, 1):
        if record is None:
            raise UserError(f"line {number} of {path} is damaged: repair it, or move it elsewhere")
    return [record for record in records if record is not None]


def held_out_records(path: Path) -> list[dict[str, Any]]:
    """Return the evaluations in ``path``, the newest last. Raises what ``read_records`` raises."""
    return [record for record in read_records(path) if record.get("split") == "held_out"]


def each_record(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield the lines of ``path`` one by one, None for a damaged one; nothing for a missing file.

    The file may grow meanwhile, and an incomplete last line is left out. Raises UserError if the
    disk refuses.
    """
    with disk_errors(f"read {path}"), suppress(FileNotFoundError), open(path, "rb") as file:
        for line in file:
            record = _parse(line)
            if record is not None or line.endswith(b"\n"):
                yield record


def _read(path: Path) -> bytes:
    with disk_errors(f"read {path}"):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return b""


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and type(record.get("step")) is int else None


def _step_of(line: bytes) -> float:
    """Return the step of a line, infinity if the line is damaged."""
    record = _parse(line)
    return math.inf if record is None else record["step"]
