"""Progress: a line every ten seconds, with the remaining time; on a terminal, one bar."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import struct
import termios
import time

import pytest

from electra_ref.training import progress


def test_the_time_left_does_not_count_what_came_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stream = io.StringIO()
    bar = progress.Bar(progress.Progress(stream), "training", 100)
    for step, now in ((1, 40.0), (2, 45.0), (5, 60.0)):  # noqa: B007  (read by the lambda)
        bar.move_to(step, "loss 3.00")
    first, second = stream.getvalue().splitlines()
    assert first == "training: 1/100 (1 %), loss 3.00"
    assert second == "training: 5/100 (5 %), loss 3.00, 7 min 55 s left"
    assert progress.format_duration(3720) == "1 h 02 min"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_is_broken_between_words_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    line = "held-out loss 12.3, replaced-token detection with/a/long/path/that/has/no/space"
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        progress.Progress(stream).say(line)
    progress.Progress(terminal).say(line, whole=True)
    assert terminal.getvalue().splitlines() == [
        "held-out loss 12.3,",
        "  replaced-token",
        "  detection",
        "  with/a/long/path/that/has/no/space",
        line,
    ]
    assert file.getvalue() == f"{line}\n"


def test_the_width_is_that_of_the_terminal_that_is_written_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not that of standard output, which is a file here."""
    monkeypatch.delenv("COLUMNS", raising=False)
    main, other = os.openpty()
    try:
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 31, 0, 0))
        with open(other, "w", closefd=False) as stream:
            assert progress.columns_of(stream) == 31
            lines = progress.fitted("a word and another " * 4, stream).splitlines()
        assert max(map(len, lines)) <= 31
        assert len(lines) == 3
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
        with open(other, "w", closefd=False) as stream:
            assert progress.columns_of(stream) == shutil.get_terminal_size().columns
    finally:
        os.close(main)
        os.close(other)


def test_the_time_left_is_estimated_once_after_some_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    bar = progress.Bar(progress.Progress(io.StringIO()), "training", 100)
    assert bar.first_estimate() is bar.seconds_left() is None
    estimates = []
    for step, now in ((1, 140.0), (2, 141.0), (4, 143.0), (5, 144.0)):  # noqa: B007
        bar.move_to(step)
        estimates.append(bar.first_estimate())
    assert estimates == [None, None, 96.0, None]
    assert bar.seconds_left() == 95.0


def test_a_bar_counts_time_from_its_first_step() -> None:
    """What came before was the compiler's."""
    bar = progress.Bar(progress.Progress(Terminal()), "training", 100, start=10)
    bar.tqdm.start_t -= 50.0
    bar.tqdm.last_print_t -= 50.0
    bar.move_to(11)
    assert bar.tqdm.format_dict["elapsed"] < 5
    assert (bar.tqdm.n, bar.tqdm.initial) == (11, 11)
    bar.move_to(13)
    assert bar.tqdm.n == 13
    bar.close()


def test_a_stage_has_counts_without_a_unit() -> None:
    """They are bytes, token ids or pieces, as the description says."""
    stream = Terminal()
    shown = progress.Progress(stream)
    shown.stage("merging pieces", 0, 8_000)
    assert shown.bar is not None
    assert str(shown.bar.tqdm).endswith("?/s]")
    assert "8.00k" in str(shown.bar.tqdm)
    shown.close()
