"""The benchmark of loss curves runs the training command, and finds curves that differ."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import figure_file, loss_curves
from benchmarks.loss_curves import WINDOW, Check, Curves, standard_errors
from benchmarks.rivals import Rival

ONE = ["--rivals", "reference-float32"]
BOTH = [*ONE, "cpu-float32"]


def noisy(seed: int = 0) -> Curves:
    """Curves that fall, with noise of 0.5 and 0.02 around them."""
    rng = np.random.default_rng(seed)
    steps = np.arange(2 * WINDOW)
    mlm = 9.0 - 0.02 * steps + 0.5 * rng.standard_normal(steps.size)
    rtd = 0.4 + 0.02 * rng.standard_normal(steps.size)
    return Curves({"mlm_loss": mlm, "rtd_loss": rtd}, {"mlm_loss": 7.0, "rtd_loss": 0.4})


def run_with(
    other: Curves, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[str]]:
    """Return the exit code and what was too far, ``other`` being the second rival's curves."""

    def train(rival: Rival, *_: object) -> Curves:
        return noisy() if rival.device == "reference" else other

    monkeypatch.setattr(loss_curves, "train", train)
    code = loss_curves.main([*BOTH, "--steps", str(2 * WINDOW)])
    checks = json.loads(capsys.readouterr().out.splitlines()[-1])["checks"]
    assert len(checks) == 2 * (1 + 2 + 1)
    return code, [f"{check['loss']} {check['what']}" for check in checks if not check["agrees"]]


def test_curves_that_differ_by_rounding_agree(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = noisy()
    for loss, losses in other.training.items():
        other.training[loss] = losses * (1 + 1e-7)
        other.training[loss][40::2] += 0.01 * losses.std()  # later they may part point by point
    assert run_with(other, monkeypatch, capsys) == (0, [])


def test_curves_that_part_end_with_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = noisy()
    other.training["mlm_loss"][3] *= 1.0001
    other.training["rtd_loss"][WINDOW:] += 4 * 0.02 / np.sqrt(WINDOW)  # four standard errors
    other.held_out["mlm_loss"] += 4 * 0.5 / np.sqrt(32)
    assert run_with(other, monkeypatch, capsys) == (
        1,
        [
            "mlm_loss step 4, the worst of 10",
            "mlm_loss held-out rows",
            f"rtd_loss mean of steps {WINDOW + 1}-{2 * WINDOW}",
        ],
    )


def test_nan_agrees_with_nothing() -> None:
    assert Check("a", "mlm_loss", "step 1", 9.0, 0.1, 0.1).agrees
    assert not Check("a", "mlm_loss", "step 1", 9.0, np.nan, 0.1).agrees


def test_standard_errors_are_those_of_the_noise_and_not_of_the_trend() -> None:
    steps = np.arange(1000 * WINDOW)
    noise = np.random.default_rng(1).standard_normal(steps.size)
    errors = standard_errors(noise + 0.05 * steps)
    assert errors.shape == (1000,)
    assert errors.mean() == pytest.approx(1 / np.sqrt(WINDOW), rel=0.02)


@pytest.mark.slow
def test_the_training_command_gives_the_curves(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = np.array(["one", "two", "three", "four", "five", "six", "seven", "eight"])
    rng = np.random.default_rng(0)
    documents = ("\n".join(" ".join(rng.choice(words, 8)) for _ in range(9)) for _ in range(60))
    (tmp_path / "corpus.txt").write_text("\n\n".join(documents), encoding="utf-8")
    sizes = ["max_vocab_size=64", "batch_size=2", "hidden_size=32", "embedding_size=32"]
    options = [*ONE, "--preset", "tiny", "--steps", str(WINDOW), "--seed", "3"]
    options += ["--corpus", str(tmp_path / "corpus.txt"), "--output-dir", str(tmp_path / "runs")]
    options += [part for size in sizes for part in ("--set", size)]
    assert loss_curves.main(options) == 0
    captured = capfd.readouterr()
    *table, last = captured.out.splitlines()
    assert json.loads(last)["held_out"]["reference-float32"]["mlm_loss"] > 0
    assert table[-1] == "0 of 0 agree"  # a rival alone
    curves = loss_curves.read_curves(tmp_path / "runs/reference-float32/metrics.jsonl")
    assert curves.training["mlm_loss"].shape == (WINDOW,)
    assert loss_curves.main(options) == 2  # there is a run already
    assert "the training command ended with exit code 2" in capfd.readouterr().err


@pytest.mark.slow  # not by itself: matplotlib is an extra that .ci/run installs
def test_the_plot_is_the_same_every_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: plots)")
    curves = {name: noisy(seed) for seed, name in enumerate(("a", "b", "c"))}
    for name in ("first.svg", "again.svg"):
        loss_curves.plot(curves, tmp_path / name)
    first, again = ((tmp_path / name).read_bytes() for name in ("first.svg", "again.svg"))
    assert first == again
    assert len(first) < 100_000


def test_without_matplotlib_nothing_is_trained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loss_curves, "train", lambda *_: pytest.fail("trained"))
    monkeypatch.setattr(figure_file, "find_spec", lambda _: None)
    assert loss_curves.main([*BOTH, "--plot", "curves.svg"]) == 2
    assert "--plot needs matplotlib (extra: plots)" in capsys.readouterr().err


@pytest.mark.plots
def test_a_figure_that_cannot_be_written_costs_no_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra: plots)")
    monkeypatch.setattr(loss_curves, "train", lambda *_: noisy())
    path = tmp_path / "missing" / "curves.svg"
    assert loss_curves.main([*BOTH, "--steps", str(2 * WINDOW), "--plot", str(path)]) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out.splitlines()[-1])["benchmark"] == "loss_curves"
    assert f"--plot {path}: No such file or directory" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "51"], "--steps 51: a multiple of 50"),
        (["--rivals", "tensorflow"], "none of cpu-float32"),
        (["--set", "hiden_size=2"], "unknown key 'hiden_size'"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert loss_curves.main([*ONE, *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
