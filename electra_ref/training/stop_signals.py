"""SIGINT and SIGTERM set a flag, which the loop reads between steps; they raise no exception.

After the first signal the current step ends, a checkpoint is saved, and the process exits with
128 + the signal's number, as a shell reports a process that a signal ended. A second signal ends
the process at once. That is safe: checkpoints and text files appear complete or not at all, and a
resumed run drops an incomplete line of metrics, as after kill -9.

Of several processes, all stop after the same step when one of them got a signal: they ask each
other before every step.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any, Self

from electra_ref.processes import Processes

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(Exception):
    """A signal asked to stop what is not saved. The message may be the command that goes on."""


class StopSignals:
    """A context manager. ``requested`` is the number of the signal that came, or None.

    Outside the main thread Python delivers no signals; there it does nothing. SIGINT is caught even
    if it was ignored, as it is in a background job of a shell.
    """

    def __init__(self, unit: str = "this step", *, is_silent: bool = False) -> None:
        """``unit`` names what is completed after the first signal; ``is_silent`` tells nobody."""
        self._unit, self._is_silent = unit, is_silent
        self._received: int | None = None  # by this process
        self.requested: int | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            # None is a handler that C code installed; Python cannot restore it
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def agree(self, processes: Processes, is_late: bool = False) -> bool:
        """Return whether any of ``processes`` got a signal, or the first one says ``is_late``.

        If so, ``requested`` is what they agreed on. The answer decides what all processes do, and
        not ``requested``: meanwhile another signal may come to one of them.
        """
        wishes = [self.requested == number for number in _SIGNALS]
        *signals, late = processes.sum_counts([*wishes, is_late and processes.rank == 0])
        for number, count in zip(_SIGNALS, signals, strict=True):
            if count:
                self.requested = number
        return late > 0 or any(signals)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self._received is not None:
            os._exit(exit_code(number))
        self._received = self.requested = number
        if not self._is_silent:
            name = signal.Signals(number).name
            _say(f"{name}: stopping after {self._unit}; again to stop at once")


def exit_code(number: int) -> int:
    """Return 130 for SIGINT, 143 for SIGTERM, 141 for SIGPIPE."""
    return 128 + number


def _say(text: str) -> None:
    """Write a line to standard error; print() may be running already when the signal comes.

    On a terminal it takes the place of the bar, behind which the terminal has written ^C.
    """
    with suppress(OSError):  # the terminal may be gone: that must not end the run
        start = "\r\33[K" if os.isatty(2) else "\n"
        os.write(2, f"{start}{text}\n".encode())
