"""The benchmark of the objectives: its table, what it runs, and what it collects.

The training command itself is not run here; its files are written in its place.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import objectives
from benchmarks.objectives import (
    FIGURES,
    STUDIES,
    VARIANTS,
    cell,
    plan_of,
    plans_of,
    result,
    runs_of,
    table,
)
from benchmarks.pretraining_runs import Plan, Run, command_of, last_record, train
from electra_ref.config.pretraining import PRESETS
from electra_ref.config.settings import to_toml
from electra_ref.errors import UserError
from electra_ref.train import build_parser
from electra_ref.training.run_directory import RunDirectory


def write_run(run: Run, **figures: float | None) -> None:
    """Write what the training command leaves of ``run`` when it has finished."""
    source = {"source": {"corpus": list(run.corpus)}}
    RunDirectory.create(run.folder, to_toml(run.plan.config(run.seed)), source).close()
    records: list[dict[str, Any]] = [
        {"step": 1, "split": "held_out", **dict.fromkeys(FIGURES, 0.0)},
        {"step": run.plan.steps, "split": "held_out", **figures},
        {"step": run.plan.steps, "split": "settings"},
    ]
    text = "".join(f"{json.dumps(record)}\n" for record in records)
    (run.folder / "metrics.jsonl").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_a_configuration(variant: str) -> None:
    """Each differs from the preset in what it names, and in the length of the run only."""
    plain, config = (plan_of(name, 40).config(seed=3) for name in ("electra", variant))
    assert (config.steps, config.warmup_steps, config.seed, config.device) == (40, 4, 3, "cpu")
    assert config.evaluate_every == 40
    named = {setting.partition("=")[0] for setting in VARIANTS[variant]}
    assert len(named) == len(VARIANTS[variant])
    differs = {key for key, value in vars(config).items() if value != getattr(plain, key)}
    assert differs - {"preset"} <= named
    assert "{" not in "".join(plan_of(variant, 40).settings)


def test_no_two_variants_are_the_same() -> None:
    configs = [str(plan_of(name, 40).config(0)) for name in VARIANTS]
    assert len(set(configs)) == len(configs)
    assert all(set(names) <= set(VARIANTS) for names in STUDIES.values())


def test_two_stages_have_half_of_the_steps_each() -> None:
    assert plan_of("two-stage", 41).config(0).two_stage_steps == 20


def test_equal_flop_pay_for_fewer_steps_where_a_step_costs_more() -> None:
    names = ["electra", "mlm", "all-tokens-mlm", "two-stage"]
    plans = plans_of(names, 1500, equal_flop=True)
    assert [plan.variant for plan in plans] == names
    electra, mlm, all_tokens, two_stage = plans
    assert (electra, *plans_of(["electra"], 1500, equal_flop=False)) == (electra, electra)
    assert all_tokens.steps < two_stage.steps < electra.steps == 1500 < mlm.steps
    for plan in plans:
        total = plan.steps * plan.flop_per_step
        assert total == pytest.approx(1500 * electra.flop_per_step, rel=1 / plan.steps)
    assert f"two_stage_steps={two_stage.steps // 2}" in two_stage.settings
    assert mlm.config(0).warmup_steps == round(mlm.steps / 10)
    assert [plan.steps for plan in plans_of(names, 1500, equal_flop=False)] == [1500] * 4


def test_the_steps_are_the_presets() -> None:
    assert PRESETS["tiny"]["steps"] == objectives.STEPS
    (plan,) = plans_of(["electra"], objectives.STEPS, equal_flop=False)
    assert plan.config(0).warmup_steps == PRESETS["tiny"]["warmup_steps"]
    sizes = plan.config(0).hidden_size, plan.config(0).num_hidden_layers
    assert sizes == (PRESETS["tiny"]["hidden_size"], PRESETS["tiny"]["num_hidden_layers"])
    assert plan.config(0).initial_attention == "random"


def test_a_run_begins_and_continues(tmp_path: Path) -> None:
    (run,) = runs_of([plan_of("mlm", 40)], [7], tmp_path)
    assert run.folder == tmp_path / "mlm/40-steps-seed-7"
    assert command_of(run)[:3] == ["electra_ref.train", "--output-dir", str(run.folder)]
    options = build_parser().parse(command_of(run)[1:])
    assert (options.preset, options.seed, options.resume) == ("tiny", 7, False)
    assert "objective=mlm" in options.settings
    assert options.corpus == []
    given = build_parser().parse(command_of(run._replace(corpus=("a.txt", "b.txt")))[1:])
    assert given.corpus == ["a.txt", "b.txt"]
    write_run(run)
    options = build_parser().parse(command_of(run)[1:])
    assert (options.preset, options.seed, options.resume) == (None, None, True)
    assert options.output_dir == run.folder


def test_a_run_of_other_settings_is_not_taken_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of("exploration", 40)
    (run,) = runs_of([plan], [7], tmp_path)
    write_run(run)
    assert runs_of([plan], [7], tmp_path) == [run]
    monkeypatch.setitem(VARIANTS, "exploration", ("exploration=0.2",))
    with pytest.raises(UserError, match="seed-7 holds a run with another exploration"):
        runs_of([plan_of("exploration", 40)], [7], tmp_path)


def test_only_the_evaluation_at_the_end_counts(tmp_path: Path) -> None:
    (run,) = runs_of([plan_of("electra", 40)], [0], tmp_path)
    assert last_record(run) is None
    write_run(run, rtd_auc=0.7)
    record = last_record(run)
    assert record == {"step": 40, "split": "held_out", "rtd_auc": 0.7}
    longer = Plan("electra", "tiny", 41, (), 1.0)
    assert last_record(run._replace(plan=longer)) is None


def test_figures_are_those_of_the_seeds_that_have_finished(tmp_path: Path) -> None:
    plan = plan_of("electra", 40)
    first, second, third = runs_of([plan], [0, 1, 2], tmp_path)
    write_run(first, rtd_auc=0.7, mlm_accuracy=0.1, rtd_masked_auc=None)
    write_run(second, rtd_auc=0.8, mlm_accuracy=0.4, rtd_masked_auc=0.5)
    figures = result(plan, [first, second, third])
    assert figures["figures"] == {
        "rtd_auc": {"mean": pytest.approx(0.75), "min": 0.7, "max": 0.8},
        "mlm_accuracy": {"mean": 0.25, "min": 0.1, "max": 0.4},
        "rtd_masked_auc": {"mean": 0.5, "min": 0.5, "max": 0.5},
    }
    assert set(figures["held_out"]) == {0, 1}
    assert (figures["variant"], figures["steps"]) == ("electra", 40)


def test_the_only_network_of_mlm_is_full_size(tmp_path: Path) -> None:
    plan = plan_of("mlm", 40)
    (run,) = runs_of([plan], [0], tmp_path)
    write_run(run, mlm_accuracy=0.25, generator_entropy=3.0)
    figures = result(plan, [run])
    assert figures["figures"] == {"encoder_mlm_accuracy": {"mean": 0.25, "min": 0.25, "max": 0.25}}
    assert figures["held_out"][0]["mlm_accuracy"] == 0.25


def test_the_table_is_markdown() -> None:
    figures = {
        "mlm_accuracy": {"mean": 0.25, "min": 0.125, "max": 0.5},
        "replaced_share": {"mean": 0.75, "min": 0.75, "max": 0.75},
    }
    lines = table(
        [{"variant": "a", "figures": figures, "flop_per_step": 5.674e9, "steps": 1500}]
    ).splitlines()
    assert lines == [
        "| variant | mlm_accuracy | encoder_mlm_accuracy | generator_entropy | rtd_auc | "
        "rtd_masked_auc | replaced_share | GFLOP a step | steps |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| a | 0.250 (0.125-0.500) |  |  |  |  | 0.750 | 5.67 | 1,500 |",
    ]
    assert cell({"mean": 0.00021, "min": 0.0001, "max": 0.0004}) == "0.000"


Fake = Callable[[Run], None]


def run_main(train: Fake, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(objectives, "train", train)
    arguments = ["--steps", "40", "--output-dir", str(folder), "--jobs", "1", *options]
    return objectives.main(arguments)


def test_what_is_missing_is_trained_and_the_rest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = []

    def train(run: Run) -> None:
        trained.append((run.plan.variant, run.seed))
        write_run(run, rtd_auc=0.5 + run.seed / 10)

    options = ("--study", "adversarial", "--seeds", "0,3")
    (done,) = runs_of([plan_of("reinforce", 40)], [3], tmp_path)
    write_run(done, rtd_auc=0.9)
    assert run_main(train, tmp_path, monkeypatch, *options) == 0
    first, second, third = STUDIES["adversarial"]
    assert trained == [(first, 0), (second, 0), (third, 0), (first, 3), (third, 3)]
    *_, last = capsys.readouterr().out.splitlines()
    summary = json.loads(last)
    assert summary["benchmark"] == "objectives"
    assert summary["seeds"] == [0, 3]
    assert [each["variant"] for each in summary["results"]] == list(STUDIES["adversarial"])
    _, reinforce, _ = summary["results"]
    assert reinforce["figures"]["rtd_auc"] == {"mean": 0.7, "min": 0.5, "max": 0.9}
    assert {"commit", "processor", "packages"} < set(summary["machine"])
    trained.clear()
    assert run_main(train, tmp_path, monkeypatch, *options) == 0
    assert trained == []


def test_a_run_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(run: Run) -> None:
        if run.plan.variant == "mlm":
            raise UserError("no luck")
        write_run(run, rtd_auc=0.5)

    options = ("--variants", "mlm,electra", "--seeds", "0")
    assert run_main(train, tmp_path, monkeypatch, *options) == 1
    captured = capsys.readouterr()
    assert "error: mlm, seed 0: no luck" in captured.err
    summary = json.loads(captured.out.splitlines()[-1])
    assert summary["failures"] == ["mlm, seed 0: no luck"]
    mlm, electra = summary["results"]
    assert (mlm["figures"], list(electra["figures"])) == ({}, ["rtd_auc"])


def test_an_interrupted_benchmark_begins_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = []

    def train(run: Run) -> None:
        trained.append(run.seed)
        time.sleep(0.2)  # while the main thread hears of the first run

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.side_by_side.as_completed", interrupt)
    options = ("--variants", "electra", "--seeds", "0,1,2,3")
    assert run_main(train, tmp_path, monkeypatch, *options) == 130
    assert trained in ([], [0])
    assert "stopped; the same command goes on" in capsys.readouterr().err


def test_the_command_of_a_run_has_one_thread_and_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def call(command: list[str], **options: Any) -> Any:
        calls.append((command, options["env"]["NUMBA_NUM_THREADS"]))
        options["stdout"].write("what it said\n")
        return subprocess.CompletedProcess(command, len(calls) - 1)

    monkeypatch.setenv("NUMBA_NUM_THREADS", "5")
    monkeypatch.setattr("benchmarks.side_by_side.subprocess.run", call)
    (run,) = runs_of([plan_of("electra", 40)], [0], tmp_path)
    train(run)
    with pytest.raises(UserError, match=r"exit code 1; see .*40-steps-seed-0\.log"):
        train(run)
    assert calls == [([sys.executable, "-m", *command_of(run)], "1")] * 2
    assert run.log.read_text() == "what it said\n" * 2
    assert not run.folder.exists()  # the training command wants to create it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--variants", "elektra"], "--variants elektra: none of electra, "),
        (["--variants", "mlm,mlm"], "--variants mlm: given twice"),
        (["--seeds", "0,x"], "--seeds 0,x: write whole numbers"),
        (["--seeds", "1,1"], "--seeds 1,1: a seed is given twice"),
        (["--seeds", "-1"], "seed = -1 is out of its range"),
        (["--steps", "1"], "--steps 1: at least 2"),
        (["--jobs", "0"], "--jobs 0: at least 1"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert objectives.main(["--output-dir", str(tmp_path / "runs"), *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not (tmp_path / "runs").exists()
