"""Progress without a terminal: a line every ten seconds, with the remaining time."""

from __future__ import annotations

import io
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
