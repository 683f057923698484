"""How a run talks to the person who started it: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


def wants_colour(stream: TextIO) -> bool:
    """Return whether ``stream`` is a terminal whose user has not set NO_COLOR (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Progress:
    """Lines on standard error, and under them, on a terminal, one bar at a time."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.colour = wants_colour(self.stream)
        self._bar: Any = None

    def say(self, line: str) -> None:
        """Write one line above the bar."""
        if self._bar is not None:
            self._bar.write(line, file=self.stream)
        else:
            print(line, file=self.stream, flush=True)

    def track(self, items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
        """Pass ``items`` through, showing how many of ``total`` are done and the time left."""
        with self.bar(description, total) as bar:
            for item in items:
                yield item
                bar.advance()

    def bar(self, description: str, total: int, start: int = 0) -> Bar:
        """Open a bar from ``start`` to ``total``; use it as a context manager."""
        return Bar(self, description, total, start)


class Bar:
    """A bar that also states a rate of its own, such as tokens a second."""

    def __init__(self, progress: Progress, description: str, total: int, start: int) -> None:
        self._progress, self._description = progress, description
        self._total, self._start, self._done = total, start, start
        self._note = ""
        self._started = self._last_line = time.monotonic()
        self._tqdm: Any = None

    def __enter__(self) -> Bar:
        if self._progress.stream.isatty():
            self._tqdm = tqdm(
                total=self._total,
                initial=self._start,
                desc=self._description,
                file=self._progress.stream,
                dynamic_ncols=True,
                colour="green" if self._progress.colour else None,
            )
            self._progress._bar = self._tqdm
        return self

    def __exit__(self, *_: object) -> None:
        if self._tqdm is not None:
            self._progress._bar = None
            self._tqdm.close()

    def advance(self, note: str = "") -> None:
        """Count one more item done; ``note`` is shown behind the bar."""
        self._done += 1
        self._note = note
        if self._tqdm is not None:
            self._tqdm.set_postfix_str(note, refresh=False)
            self._tqdm.update(1)
        elif self._is_due():
            self._write_line()

    def _is_due(self) -> bool:
        now = time.monotonic()
        if self._done < self._total and now - self._last_line < SECONDS_BETWEEN_LINES:
            return False
        self._last_line = now
        return True

    def _write_line(self) -> None:
        elapsed = time.monotonic() - self._started
        left = elapsed / max(self._done - self._start, 1) * (self._total - self._done)
        note = f", {self._note}" if self._note else ""
        self._progress.say(
            f"{self._description}: {self._done}/{self._total}{note}, {left:.0f} s left"
        )
