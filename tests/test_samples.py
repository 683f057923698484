"""What a person sees of a run: samples in a terminal's width, times, the plain progress lines."""

from __future__ import annotations

import io
from typing import Any

import pytest

from electra_ref.training import progress as progress_module
from electra_ref.training.progress import Bar, Progress, format_seconds, wants_colour
from electra_ref.training.samples import format_sample

SAMPLE: dict[str, Any] = {
    "original": ["[CLS]", "a", "river", "runs", "[SEP]"],
    "masked": ["[CLS]", "a", "[MASK]", "[MASK]", "[SEP]"],
    "generated": ["[CLS]", "a", "tree", "sings", "[SEP]"],
    "replaced": [False, False, True, True, False],
    "probability": [0.1, 0.6, 0.9, 0.2, 0.0],
}


def test_a_sample_is_four_aligned_lines() -> None:
    assert format_sample(SAMPLE, colour=False, columns=80).splitlines() == [
        " original [CLS] a river  runs   [SEP]",
        "   masked [CLS] a [MASK] [MASK] [SEP]",
        "generated [CLS] a tree   sings  [SEP]",
        "  flagged       ? ^^^^   -----",
    ]


def test_a_sample_keeps_to_the_width_of_the_terminal() -> None:
    lines = format_sample(SAMPLE, colour=False, columns=27).splitlines()
    assert lines[1] == "   masked [CLS] a [MASK]"


def test_colour_marks_the_verdicts_and_leaves_the_text() -> None:
    coloured = format_sample(SAMPLE, colour=True, columns=80)
    assert "\33[32mtree" in coloured  # flagged: green
    assert "\33[31msings" in coloured  # missed: red
    assert "\33[33ma" in coloured  # false alarm: yellow


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7.4, "7 s left"), (200, "3 min 20 s left"), (3725, "1 h 02 min left")],
)
def test_times_are_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_color_and_pipes_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colour(Terminal())
    assert not wants_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())


def test_progress_elsewhere_is_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "SECONDS_BETWEEN_LINES", 0.0)
    stream = io.StringIO()
    bar = Bar(Progress(stream), "training", total=4)
    bar.move_to(1, "loss 3.00")
    bar.move_to(2, "loss 2.00")
    bar.close()
    first, second = stream.getvalue().splitlines()
    assert first == "training: 1/4 (25 %), loss 3.00"  # one call says nothing of the pace
    assert second.startswith("training: 2/4 (50 %), loss 2.00, ")
    assert second.endswith(" s left")
    assert "\r" not in stream.getvalue()


def test_progress_on_a_terminal_is_one_line_that_is_redrawn() -> None:
    stream = Terminal()
    progress = Progress(stream)
    progress.stage("tokenizing", 10, 40)
    progress.stage("tokenizing", 40, 40)
    progress.say("a line above it")
    progress.close()
    assert "tokenizing" in stream.getvalue()
    assert "a line above it\n" in stream.getvalue()
