"""Standard error that cannot be written ends no run.

A terminal is closed, the disk of a log file is full, a reader goes away: then what is written there
is lost, and nothing else. Where a shell has closed it (``2>&-``), /dev/null stands in its place, so
that no file which is opened later gets its number.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from typing import Any, TextIO

STANDARD = (0, 1, 2)  # the descriptors of standard input, output and error


class Forgiving:
    """A stream that drops what it cannot write; all else is that of ``stream``."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text`` if that can be; return its length."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream if that can be."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def forgiving_standard_error() -> Iterator[None]:
    """Let ``sys.stderr`` be Forgiving for the block."""
    if sys.stderr is None:
        _open_what_is_closed()
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (to the end)
    with redirect_stderr(Forgiving(sys.stderr)):
        yield


def _open_what_is_closed() -> None:
    """Give the standard descriptors that are closed to /dev/null. The lowest free one is taken."""
    for descriptor in STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
