"""Where answers go: standard output, or a file that appears complete or not at all.

Standard output gets whole lines only: each write ends with a line. A reader that goes away (``|
head``) ends the program quietly. A file is written under a temporary name beside the final one.
What is no regular file, such as a pipe or /dev/null, is written as it is.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from electra_ref.errors import ReaderGoneError, UserError
from electra_ref.files import (
    disk_errors,
    force_to_disk,
    rename_durably,
    temporary_name,
    write_all,
)
from electra_ref.training.prediction.source import STANDARD_INPUT, Source

STANDARD_OUTPUT = STANDARD_INPUT  # "-" names both
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Destination(Protocol):
    """Takes whole lines. Raises UserError, or ReaderGoneError."""

    def write(self, lines: bytes) -> None: ...


@contextmanager
def open_destination(path: str, source: Source) -> Iterator[Destination]:
    """Open ``path``, or standard output, for the block.

    A file appears when the block ends without an exception. Raises UserError if it cannot be
    written, or if it is what ``source`` reads.
    """
    if path == STANDARD_OUTPUT:
        if sys.stdout is None:
            raise UserError("standard output is closed; name a file with --output")
        sys.stdout.flush()
        yield _Stream(sys.stdout.fileno(), "standard output")
        return
    if not path or "\0" in path:
        raise UserError(f"--output {path!r} names no file; leave it out for standard output")
    with disk_errors(f"write {path}"):
        target = Path(os.path.realpath(path))  # a link stays, and what it names is replaced
        _refuse(target, path, source)
        is_stream = target.exists() and not target.is_file()
    if is_stream:
        with disk_errors(f"write {path}"):
            descriptor = os.open(target, os.O_WRONLY | os.O_CLOEXEC)
        try:
            yield _Stream(descriptor, path)
        finally:
            os.close(descriptor)
        return
    with _temporary(target, path) as descriptor:
        yield _Stream(descriptor, path)


@contextmanager
def _temporary(target: Path, name: str) -> Iterator[int]:
    """Open a file for the block that is renamed to ``target`` at its end."""
    temporary = target.with_name(temporary_name(target.name))
    with disk_errors(f"write {name}"):
        descriptor = os.open(temporary, _NEW_FILE, 0o666)
    try:
        try:
            yield descriptor
            with disk_errors(f"write {name}"):
                force_to_disk(descriptor)
        finally:
            os.close(descriptor)
        with disk_errors(f"write {name}"):
            rename_durably(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _refuse(target: Path, path: str, source: Source) -> None:
    """Raise UserError if answers must not go to ``target``, OSError if it cannot be looked at."""
    try:
        there = os.stat(target)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(there.st_mode):
        raise UserError(f"--output {path} is a folder; name a file in it")
    if source.is_regular and os.path.samestat(there, os.fstat(source.stream.fileno())):
        raise UserError(f"--output {path} is the input itself; choose another name")


class _Stream:
    """An open file, pipe or terminal."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.descriptor, self.name = descriptor, name

    def write(self, lines: bytes) -> None:
        """Write ``lines``. Raises UserError, or ReaderGoneError."""
        with disk_errors(f"write {self.name}"):
            try:
                write_all(self.descriptor, lines)
            except BrokenPipeError as error:
                raise ReaderGoneError from error
