"""What scores at equal compute say: tables, differences, intervals, figures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.equal_compute import (
    BERT,
    ELECTRA,
    NOT_PRETRAINED,
    build_parser,
    main,
    plans_of,
    write_scores,
)
from benchmarks.equal_compute_figure import draw
from benchmarks.equal_compute_report import (
    Score,
    by_seed,
    difference,
    difference_table,
    difference_to,
    last_of_each,
    of_equal_flop,
    print_report,
    score_table,
)
from benchmarks.scored_encoders import FEW_LABELS
from electra_ref.errors import UserError
from tests.equal_compute_scores import TASK, score


def test_only_the_last_step_of_each_variant_is_in_the_table() -> None:
    scores = [
        score(ELECTRA, 0, 0.5, step=4),
        score(ELECTRA, 0, 0.75),
        score(ELECTRA, 0, 0.25, again=1),
        score(ELECTRA, 1, 0.7),
        score(BERT, 0, 0.5, step=9),
    ]
    assert list(score_table(last_of_each(scores))) == [
        "| variant | FLOP | CoLA |",
        "|---|---|---|",
        "| electra | 8e+09 | 60.0 +- 14.1 |",
        "| mlm | 9e+09 | 50.0 |",
    ]


def test_differences_are_paired_by_the_seed_of_pre_training() -> None:
    """Seeds differ much, the variants by 2 points for each seed: the interval has no width."""
    scores = [score(ELECTRA, seed, 0.1 * seed + 0.02) for seed in range(3)]
    scores += [score(BERT, seed, 0.1 * seed) for seed in (2, 0, 1)]
    found = difference_to(scores, ELECTRA, BERT, TASK)
    assert found is not None
    assert tuple(found) == pytest.approx((2.0, 2.0, 2.0, 0.0))
    table = list(difference_table(scores, BERT))
    assert table == [
        "| minus mlm | CoLA |", "|---|---|", "| electra | +2.0 (+2.0 to +2.0; 0.0) |",
    ]  # fmt: skip


def test_intervals_are_those_of_all_resamples() -> None:
    """Two seeds, one score each: the means are 0, 2 and 4 with a chance of 1/4, 1/2, 1/4.

    The standard error is that of two numbers, 0 and 4.
    """
    ours = {0: np.array([0.0]), 1: np.array([4.0])}
    theirs = {0: np.array([0.0]), 1: np.array([0.0])}
    assert difference(ours, theirs, paired=True) == pytest.approx((2.0, 0.0, 4.0, 2.0))


def test_fine_tuning_seeds_widen_the_interval() -> None:
    """Without differences between the seeds of pre-training, what varies is fine-tuning."""
    random = np.random.default_rng(0)
    theirs = {seed: np.zeros(3) for seed in range(3)}
    narrow = difference({seed: np.full(3, 1.0) for seed in range(3)}, theirs, paired=True)
    values = random.normal(1.0, 1.0, (3, 3))
    wide = difference(dict(enumerate(values)), theirs, paired=True)
    assert narrow == (1.0, 1.0, 1.0, 0.0)
    assert wide is not None
    assert wide.low < wide.mean - 0.3 < wide.mean + 0.3 < wide.high
    assert wide.mean == pytest.approx(values.mean())


def test_differences_to_what_is_not_pre_trained_are_not_paired() -> None:
    """Two models at 1 and 3, two runs at 0 and 2: means of 1, 2, 3 less means of 0, 1, 2."""
    scores = [score(ELECTRA, seed, (2 * seed + 1) / 100) for seed in (0, 1)]
    scores += [score("start", 0, 2 * seed / 100, again=seed, step=0) for seed in (0, 1)]
    found = difference_to(scores, ELECTRA, "start", TASK)
    assert found == pytest.approx((1.0, -1.0, 3.0, math.sqrt(2)))
    paired = difference(*(by_seed(scores, name, TASK) for name in (ELECTRA, "start")), paired=True)
    assert paired == pytest.approx((1.0, 1.0, 1.0, 0.0))


@pytest.mark.parametrize("steps", [4, 7, 20, 40])
def test_steps_that_were_rounded_are_the_end(steps: int) -> None:
    """Of few steps the variants have FLOP that differ by more than a hundredth."""
    options = build_parser().parse_args(["--preset", "tiny", "--steps", str(steps)])
    scores = [
        Score(plan.variant, 0, plan.steps, plan.steps * plan.flop_per_step, TASK, 0, 0.5)
        for plan in plans_of(options)
    ]
    assert of_equal_flop(scores) == scores


def test_what_is_not_trained_to_its_end_is_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    scores = [score(BERT, seed, 0.5, step=100) for seed in (0, 1)]
    scores += [score(ELECTRA, seed, 0.6, step=75) for seed in (0, 1)]
    scores += [score("start", 0, 0.4, again=seed, step=0) for seed in (0, 1)]
    print_report(scores, ("start", BERT))
    printed = capsys.readouterr().out
    assert "| electra | 7.5e+10 | 60.0 +- 0.0 |" in printed
    assert printed.count("| electra |") == 1
    assert "| mlm | +10.0 (+10.0 to +10.0; 0.0) |" in printed
    assert "not trained to their end: electra\n" in printed


def test_the_figure_has_differences_and_curves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    scores = [
        score(variant, seed, 0.1 * seed + value * step / 8, step=step)
        for variant, value in ((ELECTRA, 0.5), (BERT, 0.4))
        for seed in (0, 1)
        for step in (4, 8)
    ]
    scores += [score("replace-mlm", seed, 0.3 + 0.1 * seed) for seed in (0, 1)]
    scores += [
        score(name, 0, 0.1, again=again, step=0) for name in NOT_PRETRAINED for again in (0, 1)
    ]
    draw(scores, tmp_path / "figure.svg", BERT, without="random")
    text = (tmp_path / "figure.svg").read_text()
    for label in ("points above mlm", "FLOP of pre-training", "replace-mlm", "start", TASK):
        assert label in text
    assert ">random<" not in text
    with pytest.raises(UserError, match="No such file"):
        draw(scores, tmp_path / "no" / "figure.svg", BERT, without="random")


def test_scores_of_few_labels_are_drawn_against_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = pytest.importorskip("matplotlib.figure")
    drawn: list[Any] = []
    monkeypatch.setattr(figures.Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    scores = [
        score(variant, seed, value + 0.1 * seed, again=seed, step=step)._replace(task=task)
        for variant, step in ((ELECTRA, 8), ("start", 0))
        for seed in (0, 1)
        for task, value in zip(FEW_LABELS, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), strict=True)
    ]
    write_scores(tmp_path / "few_labels.csv", scores)
    arguments = ["--from", str(tmp_path / "few_labels.csv"), "--plot", "figure.svg"]
    assert main(arguments) == 0
    (figure,) = drawn
    assert [axes.get_title() for axes in figure.axes] == ["UD part of speech", "SNIPS slots"]
    for axes, means in zip(figure.axes, ([15, 25, 35], [45, 55, 65]), strict=True):
        assert [container.get_label() for container in axes.containers] == [ELECTRA, "start"]
        for container in axes.containers:
            x, y = container.lines[0].get_data()
            np.testing.assert_allclose(x, [100, 400, 1600])
            np.testing.assert_allclose(y, means)
            (bars,) = container.lines[2]
            ends = [[segment[:, 1].min(), segment[:, 1].max()] for segment in bars.get_segments()]
            np.testing.assert_allclose(ends, [[mean - 5, mean + 5] for mean in means])
    styles = [axes.containers[1].lines[0].get_linestyle() for axes in figure.axes]
    assert styles == [":", ":"]


def test_one_seed_has_no_interval() -> None:
    """It has a mean: 1.5 less 0.5. Of two seeds that only one side has, nothing is known."""
    one, other = {0: np.array([1.0, 2.0])}, {0: np.array([0.5])}
    more = {**one, 1: one[0]}, {**other, 2: one[0]}
    for ours, theirs, paired in ((one, other, True), (*more, True), (one, other, False)):
        found = difference(ours, theirs, paired=paired)
        assert str(found) == "+1.0"
    assert difference({1: one[0]}, other, paired=True) is None
    assert difference(one, {}, paired=False) is None


def test_a_table_of_one_seed_has_its_differences() -> None:
    scores = [score(ELECTRA, 0, 0.6), score(BERT, 0, 0.4), score("start", 0, 0.3, step=0)]
    assert list(difference_table(scores, BERT))[2:] == ["| electra | +20.0 |", "| start | -10.0 |"]
