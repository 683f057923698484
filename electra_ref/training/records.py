"""Append-only files of JSON lines: ``metrics.jsonl`` and ``samples.jsonl``.

A line is handed to the kernel in one write, so kill -9 tears at most the last one, and
``truncate_records`` drops it. Resuming from step S also drops what the stopped run wrote after S;
the resumed run writes it again, and the finished file is that of the run that was never stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from electra_ref.errors import UserError
from electra_ref.files import disk_errors, write_bytes_atomically
from electra_ref.training.checkpoint import NonFiniteError


class RecordFile:
    """A file of JSON objects, one a line, each with its ``step``. A context manager."""

    def __init__(self, path: Path) -> None:
        """Open ``path`` for appending; make it if it is missing. Raises UserError."""
        self.path = path
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with disk_errors(f"write {path}"):
            self._descriptor = os.open(path, flags, 0o666)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line, visible to readers at once.

        Raises NonFiniteError for NaN or infinity (JSON has none: give None for a figure that is
        undefined), ValueError without an integer ``step``, UserError if the disk refuses; the
        file is then as before.
        """
        if type(record.get("step")) is not int:
            raise ValueError(f"a record needs an integer step, got {record.get('step')!r}")
        try:
            line = json.dumps(dict(record), ensure_ascii=False, allow_nan=False)
        except ValueError as error:
            raise NonFiniteError(
                f"step {record['step']} is not logged in {self.path}: {error}"
            ) from error
        data = f"{line}\n".encode("utf-8", "surrogatepass")
        with disk_errors(f"write {self.path}"):
            end = os.fstat(self._descriptor).st_size
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._descriptor, end)
                raise

    def sync(self) -> None:
        """Force all lines to the disk: before a checkpoint, so that none up to it can be lost."""
        with disk_errors(f"write {self.path}"):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; the lines are already with the kernel."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def truncate_records(path: Path, step: int) -> None:
    """Drop the lines after ``step``, and whatever a crash left torn at the end, all at once.

    A missing file is left missing. Raises UserError if a line that is needed is damaged: such a
    file was edited, and this run's record cannot be completed.
    """
    with disk_errors(f"read {path}"):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
    lines = data.split(b"\n")
    steps = [_step_of(line) for line in lines]
    kept = 0
    while kept < len(steps) and _is_up_to(steps[kept], step):
        kept += 1
    for number, later in enumerate(steps[kept:], kept + 1):
        if _is_up_to(later, step):
            raise UserError(f"{path} is damaged before line {number}: repair it or remove it")
    result = b"".join(line + b"\n" for line in lines[:kept])
    if result != data:
        write_bytes_atomically(path, result)


def read_records(path: Path) -> list[dict[str, Any]]:
    """All whole lines of ``path``; a torn last one is left out, a missing file is empty.

    Raises UserError if a line before the last is damaged.
    """
    with disk_errors(f"read {path}"):
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
    records = [_parse(line) for line in lines]
    if records[-1] is None:
        records.pop()
    for number, record in enumerate(records, 1):
        if record is None:
            raise UserError(f"line {number} of {path} is damaged: repair it or remove it")
    return [record for record in records if record is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and type(record.get("step")) is int else None


def _step_of(line: bytes) -> int | None:
    record = _parse(line)
    return None if record is None else int(record["step"])


def _is_up_to(found: int | None, step: int) -> bool:
    return found is not None and found <= step
