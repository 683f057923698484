"""The comparison at equal compute: its plans, what it fine-tunes, its statistics and its tables.

Nothing is trained here; the files of the commands are written in their place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import equal_compute
from benchmarks.equal_compute import (
    BERT,
    ELECTRA,
    OBJECTIVES,
    RANDOM,
    VARIANTS,
    build_parser,
    encoders_of,
    folder_of,
    plans_of,
    random_encoder,
    read_scores,
    scores_of,
    write_scores,
)
from benchmarks.equal_compute_report import (
    Score,
    by_seed,
    difference,
    difference_table,
    last_of_each,
    score_table,
)
from benchmarks.pretraining_runs import Run
from benchmarks.scored_encoders import SMALL_TASKS, Encoder
from electra_ref.errors import UserError

TASK = "CoLA"


def options(*arguments: str) -> Any:
    return build_parser().parse_args(["--preset", "tiny", *arguments])


def score(variant: str, seed: int, value: float, *, again: int = 0, step: int = 8) -> Score:
    return Score(variant, seed, step, 1e9 * step, TASK, again, value)


def write_seeds(encoder: Encoder, task: str, *values: float) -> None:
    """Write what the command that fine-tunes leaves."""
    folder = encoder.folder_of(task)
    folder.mkdir(parents=True)
    key = SMALL_TASKS[task].score
    scores = {str(seed): {key: value, "other": 0.0} for seed, value in enumerate(values)}
    (folder / "seeds.json").write_text(json.dumps({"scores": scores, "best": 0}))


def test_all_variants_get_the_same_operations() -> None:
    plans = {plan.variant: plan for plan in plans_of(options("--steps", "1000"))}
    assert list(plans) == list(VARIANTS)
    assert plans[ELECTRA].steps == 1000
    total = 1000 * plans[ELECTRA].flop_per_step
    for plan in plans.values():
        assert plan.steps * plan.flop_per_step == pytest.approx(total, rel=1 / plan.steps)
    assert plans["all-tokens-mlm"].steps < 1000
    for name in OBJECTIVES:
        assert plans[name].config(0).objective == name
    sizes = [plans[name].config(0).generator_hidden_size for name in equal_compute.GENERATORS]
    assert len({*sizes, plans[ELECTRA].config(0).generator_hidden_size}) == len(sizes) + 1


def test_settings_reach_all_plans_and_nothing_else_differs() -> None:
    given = ("--steps", "40", "--set", "learning_rate=0.5", "--set", "max_length=16")
    configs = {plan.variant: vars(plan.config(3)) for plan in plans_of(options(*given))}
    for variant, config in configs.items():
        assert (config["learning_rate"], config["max_length"], config["seed"]) == (0.5, 16, 3)
        differs = {key for key, value in config.items() if value != configs[ELECTRA][key]}
        named = {setting.partition("=")[0] for setting in VARIANTS[variant]}
        assert differs <= {
            *named, "preset", "steps", "warmup_steps", "evaluate_every", "checkpoint_every",
        }  # fmt: skip


@pytest.mark.parametrize("steps", [40, 41, 43, 1001])
def test_checkpoints_of_all_quarters_are_there_to_fine_tune(steps: int, tmp_path: Path) -> None:
    (plan,) = plans_of(options("--steps", str(steps), "--variants", ELECTRA))
    config = plan.config(0)
    every, kept = config.checkpoint_every, config.keep_checkpoints
    saved = [*range(every, steps, every), steps][-kept:]
    found = list(encoders_of(Run(plan, 0, tmp_path), tmp_path, 3))
    assert [one.step for one in found] == saved
    assert len(saved) == 4
    assert [one.finetuning_seeds for one in found] == [1, 1, 1, 3]
    assert found[-1].encoder.model == tmp_path / f"checkpoints/step-{steps:08d}"
    assert [one.flop for one in found] == [step * plan.flop_per_step for step in saved]


def test_only_electra_and_bert_have_curves(tmp_path: Path) -> None:
    for plan in plans_of(options("--steps", "40")):
        count = len(list(encoders_of(Run(plan, 0, tmp_path), tmp_path, 3)))
        assert count == (4 if plan.variant in (ELECTRA, BERT) else 1)


def test_no_two_encoders_share_a_folder(tmp_path: Path) -> None:
    plans = plans_of(options("--steps", "40"))
    runs = [Run(plan, seed, folder_of(tmp_path, plan, seed)) for plan in plans for seed in (0, 1)]
    folders = [one.encoder.folder for run in runs for one in encoders_of(run, tmp_path, 3)]
    folders.append(random_encoder(runs[0], tmp_path, 3, 2).encoder.folder)
    assert len({*folders, *(run.folder for run in runs)}) == len(folders) + len(runs)


def test_random_numbers_have_as_many_seeds_as_all_models_of_a_variant(tmp_path: Path) -> None:
    (plan,) = plans_of(options("--steps", "40", "--variants", ELECTRA))
    scored = random_encoder(Run(plan, 0, tmp_path / "run"), tmp_path, 2, 3)
    assert scored.encoder.from_scratch
    values = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    write_seeds(scored.encoder, TASK, *values)
    found = list(scores_of(scored))
    assert [(one.seed, one.finetuning_seed, one.score) for one in found] == [
        (0, 0, 0.0), (0, 1, 0.1), (1, 0, 0.2), (1, 1, 0.3), (2, 0, 0.4), (2, 1, 0.5),
    ]  # fmt: skip
    assert {(one.variant, one.step, one.task) for one in found} == {(RANDOM, 0, TASK)}


def test_scores_survive_their_file(tmp_path: Path) -> None:
    scores = [score(ELECTRA, 0, 0.1 + 0.2), score("electra, generator 1/4", 1, 1.0)]
    write_scores(tmp_path / "scores.csv", scores)
    assert read_scores(tmp_path / "scores.csv") == scores


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
    found = difference(by_seed(scores, ELECTRA, TASK), by_seed(scores, BERT, TASK))
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
    assert difference(ours, theirs) == pytest.approx((2.0, 0.0, 4.0, 2.0))


def test_fine_tuning_seeds_widen_the_interval() -> None:
    """Without differences between the seeds of pre-training, what varies is fine-tuning."""
    random = np.random.default_rng(0)
    theirs = {seed: np.zeros(3) for seed in range(3)}
    narrow = difference({seed: np.full(3, 1.0) for seed in range(3)}, theirs)
    values = random.normal(1.0, 1.0, (3, 3))
    wide = difference(dict(enumerate(values)), theirs)
    assert narrow == (1.0, 1.0, 1.0, 0.0)
    assert wide is not None
    assert wide.low < wide.mean - 0.3 < wide.mean + 0.3 < wide.high
    assert wide.mean == pytest.approx(values.mean())


def test_one_seed_has_no_interval() -> None:
    one = {0: np.array([1.0, 2.0])}
    assert difference(one, one) is None
    assert difference({**one, 1: one[0]}, {0: one[0], 2: one[0]}) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "x", "--steps", "3"], "--steps 3: at least 4"),
        (["--data", "x", "--variants", "bert"], "--variants bert: none of electra; "),
        (["--data", "x", "--seeds", "0,0"], "a seed is given twice"),
        (["--data", "x", "--jobs", "0"], "--jobs 0: at least 1"),
        (["--data", "x", "--finetuning-seeds", "0"], "--finetuning-seeds 0: at least 1"),
        (["--data", "nowhere", "--steps", "40"], "No such file"),
        (["--from", "nowhere.csv"], "nowhere.csv: No such file"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--preset", "tiny", "--output-dir", str(tmp_path / "out"), *arguments]
    assert equal_compute.main(given) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_comparison_that_is_stopped_leaves_its_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGINT comes when one of two tasks of one model is done; nothing is reported."""
    given = ["--steps", "40", "--variants", BERT, "--seeds", "7", "--output-dir", str(tmp_path)]

    def stop(jobs: Any, at_a_time: int) -> list[str]:
        assert (len(jobs), at_a_time) == (1, 2)
        (plan,) = plans_of(options(*given))
        run = Run(plan, 7, folder_of(tmp_path, plan, 7))
        *_, last = encoders_of(run, tmp_path, 3)
        write_seeds(last.encoder, TASK, 0.25, 0.5, 0.75)
        raise KeyboardInterrupt

    monkeypatch.setattr(equal_compute, "run_jobs", stop)
    monkeypatch.setattr(equal_compute, "small_files", lambda *_: {})
    assert equal_compute.main(["--preset", "tiny", *given]) == 130
    found = read_scores(tmp_path / equal_compute.CSV_FILE)
    assert [(one.variant, one.seed, one.finetuning_seed, one.score) for one in found] == [
        (BERT, 7, 0, 0.25), (BERT, 7, 1, 0.5), (BERT, 7, 2, 0.75),
    ]  # fmt: skip
    captured = capsys.readouterr()
    assert "the same command goes on" in captured.err
    assert "minus" not in captured.out


def test_a_file_without_scores_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no file of scores"):
        read_scores(tmp_path / "other.csv")
