"""Progress of a run for the person who started it: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from contextlib import suppress
from typing import Any, TextIO

from tqdm import tqdm

from electra_ref.errors import ReaderGoneError, UserError
from electra_ref.files import disk_errors
from electra_ref.terminal_text import encodable, visible

SECONDS_BETWEEN_LINES = 10.0
CLOSED_OUTPUT = "standard output is closed: send it to a terminal, a file or /dev/null"
SECONDS_TO_ESTIMATE = 3.0  # of steps, before the remaining time is told


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether ``stream`` is a terminal; None stands for a stream that is closed."""
    return stream is not None and stream.isatty()


def wants_colour(stream: TextIO | None) -> bool:
    """Return whether ``stream`` is a terminal whose user has not set NO_COLOR (no-color.org)."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return is_terminal(stream) and wanted


def fitted(line: str, stream: TextIO | None) -> str:
    """Return ``line`` as several lines on a terminal that is narrower, none cut inside a word."""
    if stream is None or not is_terminal(stream):
        return line
    return textwrap.fill(
        line, max(columns_of(stream), 20), break_long_words=False, break_on_hyphens=False,
        subsequent_indent="  ",
    )  # fmt: skip


def columns_of(stream: TextIO) -> int:
    """Return the width of the terminal of ``stream``, or what $COLUMNS says.

    ``shutil`` looks at standard output only, which may be a file.
    """
    if not os.environ.get("COLUMNS"):
        with suppress(OSError, ValueError):
            if columns := os.get_terminal_size(stream.fileno()).columns:
                return columns
    return shutil.get_terminal_size().columns


def show(text: str) -> None:
    """Write a result to standard output, after what was printed there.

    Raises ReaderGoneError if nobody reads it, UserError if it cannot be written.
    """
    if sys.stdout is None:
        raise UserError(CLOSED_OUTPUT)
    with disk_errors("write to standard output"):
        try:
            print(encodable(text, sys.stdout), end="", flush=True)
        except BrokenPipeError as error:
            drop_output()
            raise ReaderGoneError from error
        except OSError:
            drop_output()
            raise


def drop_output() -> None:
    """Drop what standard output did not take: at exit Python would write it again, and fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Progress:
    """Writes lines to a stream, standard error by default, and on a terminal one bar below them."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.bar: Bar | None = None

    def say(self, line: str, *, whole: bool = False) -> None:
        """Write one line, above the bar if there is one; wrapped where the terminal is narrow.

        A ``whole`` line is not wrapped, so that it can be copied: a command.
        """
        line = visible(line)
        line = line if whole else fitted(line, self.stream)
        if self.bar is not None and self.bar.tqdm is not None:
            self.bar.tqdm.write(line, file=self.stream)
        else:
            print(line, file=self.stream, flush=True)

    def stage(self, description: str, done: int, total: int) -> None:
        """Show what is done of ``total`` bytes, ids or pieces of a stage; 0 of 0 if unknown."""
        if self.bar is None or self.bar.description != description:
            self.close()
            self.bar = Bar(self, description, total, unit="")
        self.bar.move_to(done)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class Bar:
    """Progress of one stage: redrawn in place on a terminal, a line every ten seconds elsewhere."""

    def __init__(
        self,
        progress: Progress,
        description: str,
        total: int,
        *,
        start: int = 0,
        unit: str = "step",
    ) -> None:
        self.description = description
        self._progress, self._total, self._done = progress, total, start
        self._last_line = time.monotonic()
        self._since, self._first = 0.0, -1  # start of the estimate, and what was done then
        self._told = False  # whether ``first_estimate`` has been given
        self.tqdm: Any = None
        if progress.stream.isatty():
            self.tqdm = tqdm(
                total=total or None,
                initial=start,
                desc=description,
                unit=unit,
                unit_scale=not unit,
                file=progress.stream,
                dynamic_ncols=True,
                leave=False,
                colour="green" if wants_colour(progress.stream) else None,
            )

    def move_to(self, done: int, note: str = "") -> None:
        """Show ``done`` of the total, and ``note``, such as a rate, behind it.

        Remaining time is estimated from the first call: what came before it, such as the
        compilation of kernels, does not happen again.
        """
        advanced, self._done = done - self._done, done
        is_first = self._first < 0
        if is_first:
            self._since, self._first = time.monotonic(), done
        if self.tqdm is not None:
            if note:
                self.tqdm.set_postfix_str(note, refresh=False)
            if is_first:
                self._start_clock(done)
            else:
                self.tqdm.update(advanced)
        elif self._is_due():
            self._progress.say(self._line(note))

    def seconds_left(self) -> float | None:
        """Return the remaining time, None before there is anything to estimate it from."""
        moved = self._done - self._first
        if self._first < 0 or moved <= 0:
            return None
        return (time.monotonic() - self._since) / moved * (self._total - self._done)

    def first_estimate(self) -> float | None:
        """Return the remaining time once: as soon as it is worth telling."""
        left = self.seconds_left()
        if self._told or left is None or time.monotonic() - self._since < SECONDS_TO_ESTIMATE:
            return None
        self._told = True
        return left

    def _start_clock(self, done: int) -> None:
        """Let the rate and the remaining time of the bar begin here."""
        self.tqdm.unpause()
        self.tqdm.n = self.tqdm.last_print_n = self.tqdm.initial = done
        self.tqdm.refresh()

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self.tqdm is not None:
            self.tqdm.close()

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now - self._last_line < SECONDS_BETWEEN_LINES:
            return False
        self._last_line = now
        return True

    def _line(self, note: str) -> str:
        if not self._total:
            return f"{self.description}: {self._done}"
        seconds = self.seconds_left()
        left = "" if seconds is None else f"{format_duration(seconds)} left"
        share = f"{self._done}/{self._total} ({100 * self._done // self._total} %)"
        return ", ".join(part for part in (f"{self.description}: {share}", note, left) if part)


def format_duration(seconds: float) -> str:
    """Return "49 days", "1 h 02 min", "3 min 20 s" or "7 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 72:
        return f"{round(hours / 24):,} days"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
