"""SIGINT and SIGTERM as a question the loop asks between steps, and never an exception.

The first signal only sets a flag: the step in progress ends, a checkpoint is saved, and the process
exits with 128 + the signal's number, as a shell reports a process that died by it. A second signal
ends the process where it stands. That is safe: checkpoints and text files become visible by a
rename of something complete, and a torn line of metrics is dropped on resume, as it is
after kill -9.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """A context manager. ``requested`` is the number of the signal that came, or None.

    Outside the main thread, where Python delivers no signals, it does nothing. SIGINT is caught
    even if it was ignored, as a shell does for a job in the background: whoever sends it means it.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler that C code installed, which Python cannot put back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.requested is not None:
            os._exit(exit_code(number))
        self.requested = number
        _say(f"{signal.Signals(number).name}: stopping after this step; again to stop at once")


def exit_code(number: int) -> int:
    """130 for SIGINT, 143 for SIGTERM."""
    return 128 + number


def _say(text: str) -> None:
    """Write a line to standard error; print() may not be entered twice, as a handler could."""
    with suppress(OSError):  # the terminal may be gone: no reason to lose the run as well
        os.write(2, f"\n{text}\n".encode())
