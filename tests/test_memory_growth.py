"""The benchmark of memory growth runs, and finds memory that a step keeps."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import memory_growth
from benchmarks.memory_growth import growth_of
from benchmarks.turns import peak_resident_bytes, resident_bytes

TOY = ["--rivals", "reference-float32", "--threads", "1", "--set", "batch_size=2"]


@pytest.mark.slow
def test_a_run_reports_both_kinds_of_memory(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory_growth, "FEWEST_STEPS", 20)
    code = memory_growth.main([*TOY, "--steps", "30", "--warmup", "10"])
    *table, last = capfd.readouterr().out.splitlines()
    growth = json.loads(last)["growth"]["reference-float32"]
    assert set(growth) == {"resident_bytes", "blocks"}
    assert growth["resident_bytes"]["start"] > 10e6
    assert growth["blocks"]["start"] > 10_000
    assert code in (0, 1)  # so few steps may still be warming up
    assert any(line.startswith("reference-float32 ") for line in table)


@pytest.mark.parametrize(("kept", "code"), [(0.99, 0), (1.0, 1)])
@pytest.mark.parametrize("kind", ["resident_bytes", "blocks"])
def test_growth_beyond_its_bound_ends_with_exit_code_1(
    kept: float,
    code: int,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    none = growth_of([1e9] * 20)
    bound = memory_growth.BOUNDS[kind]
    grown = growth_of([1e9 + 10 * kept * bound * turn for turn in range(20)])
    figures = {**dict.fromkeys(memory_growth.BOUNDS, none), kind: grown}
    monkeypatch.setattr(memory_growth, "measure", lambda *_: figures)
    assert memory_growth.main(TOY) == code
    said = capsys.readouterr().out.splitlines()[-2]
    assert said.startswith(
        f"reference-float32: {bound:,.2f} {kind} a step" if code else "no growth"
    )


def test_growth_is_that_of_the_medians() -> None:
    spikes = [1e6 if turn % 10 == 0 else 7.0 for turn in range(100)]
    assert growth_of(spikes) == {"start": 7.0, "end": 7.0, "growth_per_step": 0.0}
    line = growth_of([5.0 + 2.0 * turn for turn in range(100)])
    assert line["growth_per_step"] == 0.2  # ten steps a turn
    assert line["start"] == 5.0 + 2.0 * 4.5


def test_resident_memory_is_at_most_its_peak() -> None:
    block = np.ones(1 << 22)
    now = resident_bytes()
    assert block.nbytes < now <= peak_resident_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "30", "--warmup", "10"], "--steps 30: at least 300 more than --warmup 10"),
        (["--steps", "399"], "--steps 399: at least 300 more than --warmup 100"),
        (["--steps", "0", "--warmup", "0"], "--steps 0: at least 300 more than --warmup 0"),
        (["--warmup", "-1"], "--warmup -1: at least 0"),
        (["--rivals", "tensorflow"], "none of cpu-float32"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert memory_growth.main([*TOY, *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
