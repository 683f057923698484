"""The comparison at equal compute: its plans, what it fine-tunes, its statistics and its tables.

Nothing is trained here; the files of the commands are written in their place.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import equal_compute, scored_encoders
from benchmarks.equal_compute import (
    BERT,
    ELECTRA,
    NOT_PRETRAINED,
    OBJECTIVES,
    STAGES,
    VARIANTS,
    build_parser,
    encoders_of,
    folder_of,
    not_pretrained,
    plans_of,
    read_all,
    read_scores,
    scores_of,
    write_scores,
)
from benchmarks.equal_compute_report import (
    by_seed,
)
from benchmarks.harness import exit_code_of
from benchmarks.pretraining_runs import Run, check_folders
from benchmarks.scored_encoders import ALL_TASKS, FEW_LABELS, Encoder, fine_tune
from electra_ref.config.model import discriminator_size, generator_size
from electra_ref.config.pretraining import PRESETS, resolve_config
from electra_ref.config.settings import to_toml
from electra_ref.errors import UserError
from electra_ref.training.finetuning.seeds_file import Seeds
from electra_ref.training.finetuning.seeds_file import write_seeds as write_seeds_file
from electra_ref.training.run_directory import RunDirectory
from tests.equal_compute_scores import TASK, score


def options(*arguments: str) -> Any:
    return build_parser().parse_args(["--preset", "tiny", *arguments])


def write_seeds(encoder: Encoder, task: str, *values: float) -> None:
    """Write what the command that fine-tunes leaves."""
    folder = encoder.folder_of(task)
    folder.mkdir(parents=True)
    key = ALL_TASKS[task].score
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


@pytest.mark.parametrize("preset", ["tiny", "laptop", "small"])
def test_two_stages_have_half_of_the_steps_each_and_one_size(preset: str) -> None:
    (plan,) = plans_of(options("--steps", "1000", "--preset", preset, "--variants", *STAGES))
    config = plan.config(0)
    assert config.two_stage_steps == plan.steps // 2
    assert generator_size(config) == discriminator_size(config)


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
    saved = [*range(every, steps, every), steps]
    assert kept > 100  # each stop leaves one more
    found = list(encoders_of(Run(plan, 0, tmp_path), tmp_path, 3))
    assert [one.step for one in found] == saved
    assert len(saved) == 4
    assert [one.finetuning_seeds for one in found] == [1, 1, 1, 3]
    assert found[-1].encoder.model == tmp_path / f"checkpoints/step-{steps:08d}"
    assert [one.flop for one in found] == [step * plan.flop_per_step for step in saved]


def test_seeds_that_never_began_are_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was killed before it wrote the settings leaves nothing to resume."""
    commands: list[list[str]] = []
    monkeypatch.setattr(scored_encoders, "run_module", lambda command, _: commands.append(command))
    encoder = Encoder(tmp_path / "run", tmp_path / "tuned")
    folder = encoder.folder_of(TASK)
    folder.mkdir(parents=True)
    write_seeds_file(folder, Seeds([0, 1], {}, None, "classification", {}))
    files = {TASK: (Path("train"), Path("dev"))}
    fine_tune(encoder, files, 2)
    (folder / "config.toml").touch()
    fine_tune(encoder, files, 2)
    assert ["--resume" in command for command in commands] == [False, True]


def test_only_electra_and_bert_have_curves(tmp_path: Path) -> None:
    for plan in plans_of(options("--steps", "40")):
        count = len(list(encoders_of(Run(plan, 0, tmp_path), tmp_path, 3)))
        assert count == (4 if plan.variant in (ELECTRA, BERT) else 1)


def test_no_two_encoders_share_a_folder(tmp_path: Path) -> None:
    plans = plans_of(options("--steps", "40"))
    runs = [Run(plan, seed, folder_of(tmp_path, plan, seed)) for plan in plans for seed in (0, 1)]
    folders = [one.encoder.folder for run in runs for one in encoders_of(run, tmp_path, 3)]
    folders += [one.encoder.folder for one in not_pretrained(runs[0], tmp_path, 6)]
    assert len({*folders, *(run.folder for run in runs)}) == len(folders) + len(runs)


def test_what_is_not_pre_trained_has_one_score_for_each_seed(tmp_path: Path) -> None:
    (plan,) = plans_of(options("--steps", "40", "--variants", ELECTRA))
    scored = list(not_pretrained(Run(plan, 0, tmp_path / "run"), tmp_path, 6))
    assert [one.variant for one in scored] == list(NOT_PRETRAINED)
    assert {(one.step, one.finetuning_seeds) for one in scored} == {(0, 6)}
    assert scored[0].encoder.start == ("--from-scratch",)
    assert scored[1].encoder.start == (
        *("--from-scratch", "--set", "initializer_range=0.02"),
        *("--set", "initial_attention=random"),
    )
    values = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    write_seeds(scored[0].encoder, TASK, *values)
    found = list(scores_of(scored[0], [TASK]))
    assert [(one.finetuning_seed, one.score) for one in found] == list(enumerate(values))
    assert {seed: list(x) for seed, x in by_seed(found, scored[0].variant, TASK).items()} == {
        seed: [100 * value] for seed, value in enumerate(values)
    }


def test_fewer_fine_tuning_seeds_than_are_there_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise their scores would stand for other seeds, or the missing ones never come."""
    files = {TASK: (tmp_path / "train", tmp_path / "dev")}
    (plan,) = plans_of(options("--steps", "40", "--variants", ELECTRA))
    run = Run(plan, 0, folder_of(tmp_path / "out", plan, 0))
    *_, last = encoders_of(run, tmp_path / "out", 3)
    folder = last.encoder.folder_of(TASK)
    folder.mkdir(parents=True)
    monkeypatch.setattr(equal_compute, "small_files", lambda *_: files)
    monkeypatch.setattr(equal_compute, "run_jobs", lambda *_: ["failed"])

    def exit_code(model: Path, seeds: int) -> int:
        names = {name: str(tmp_path / name) for name in ("train", "dev")}
        files_read = {"model": str(model), **names}
        write_seeds_file(folder, Seeds(list(range(seeds)), {}, None, "tagging", files_read))
        given = ["--preset", "tiny", "--steps", "40", "--variants", ELECTRA, "--seeds", "0"]
        return equal_compute.main([*given, "--output-dir", str(tmp_path / "out")])

    assert exit_code(last.encoder.model, 3) == 2
    assert f"{last.encoder.folder} holds fine-tuned models, and" in capsys.readouterr().err
    monkeypatch.setattr(equal_compute, "has_finished", lambda _: True)
    assert exit_code(last.encoder.model, 3) == 1
    assert exit_code(last.encoder.model, 2) == 2
    assert exit_code(tmp_path / "other", 3) == 2
    assert f"{folder} holds runs of 3 seeds" in capsys.readouterr().err


def test_a_run_on_another_text_is_refused(tmp_path: Path) -> None:
    (plan,) = plans_of(options("--steps", "40", "--variants", ELECTRA))
    path = tmp_path / "run"
    source = {"corpus": ["/a.txt"]}
    RunDirectory.create(path, to_toml(plan.config(0)), {"source": source}).close()
    check_folders([Run(plan, 0, path, ("/a.txt",))])
    with pytest.raises(UserError, match="another --corpus"):
        check_folders([Run(plan, 0, path, ("/b.txt",))])
    with pytest.raises(UserError, match="another seed"):
        check_folders([Run(plan, 1, path, ("/a.txt",))])


def test_scores_survive_their_file(tmp_path: Path) -> None:
    scores = [score(ELECTRA, 0, 0.1 + 0.2), score("electra, generator 1/4", 1, 1.0)]
    write_scores(tmp_path / "scores.csv", scores)
    assert read_scores(tmp_path / "scores.csv") == scores


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "x", "--steps", "3"], "--steps 3: at least 4"),
        (["--data", "x", "--variants", "bert"], "--variants bert: none of electra; "),
        (["--data", "x", "--variants", "mlm;mlm"], "--variants mlm: given twice"),
        (["--data", "x", "--seeds", "0,0"], "a seed is given twice"),
        (["--data", "x", "--jobs", "0"], "--jobs 0: at least 1"),
        (["--data", "x", "--finetuning-seeds", "0"], "--finetuning-seeds 0: at least 1"),
        (["--data", "nowhere", "--steps", "40"], "train.pos.conllu.gz: no such file"),
        (["--corpus", "nowhere.txt"], "nowhere.txt: no such file"),
        (["--steps", "0"], "--steps 0: at least 4"),
        (["--variants", "start"], "--variants start: name one that is pre-trained, too"),
        (["--set", "seed=1"], "--set seed=1: seed follows from --seeds here"),
        (["--set", "steps=9"], "--set steps=9: steps follows from --steps and the preset here"),
        (["--few-labels"], "--few-labels needs the files of the tasks: --data DIR"),
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


@pytest.mark.parametrize("preset", PRESETS)
def test_all_presets_can_be_compared(preset: str) -> None:
    plans = plans_of(build_parser().parse_args(["--preset", preset]))
    assert [plan.variant for plan in plans] == list(VARIANTS)
    first = plans[0].config(0)
    assert first.steps == resolve_config(preset=preset).steps
    assert first.warmup_steps == resolve_config(preset=preset).warmup_steps


def test_no_score_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scores(tmp_path / "empty.csv", [])
    assert equal_compute.main(["--from", str(tmp_path / "empty.csv")]) == 2
    assert "there is no score to report" in capsys.readouterr().err


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


def test_few_labels_are_asked_for_after_all_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the usual tasks that were done in the same folder nothing is said."""
    few, values = next(iter(FEW_LABELS)), iter((0.5, 0.25, 0.75))
    given = ["--steps", "40", "--variants", f"{BERT};start;random", "--seeds", "7"]
    given += ["--finetuning-seeds", "1"]
    given += ["--data", "d", "--output-dir", str(tmp_path)]
    asked: list[list[str]] = []

    def fine_tune(encoder: Encoder, *_: Any) -> None:
        write_seeds(encoder, few, next(values))
        write_seeds(encoder, TASK, 1.0)

    def small_files(*given: Any) -> dict[str, Any]:
        asked.append(list(given[-1]))
        return {}

    monkeypatch.setattr(equal_compute, "train", lambda _: None)
    monkeypatch.setattr(equal_compute, "fine_tune", fine_tune)
    monkeypatch.setattr(equal_compute, "small_files", small_files)
    assert equal_compute.main(["--preset", "tiny", "--few-labels", *given]) == 0
    assert asked == [list(FEW_LABELS)]
    found = read_scores(tmp_path / equal_compute.FEW_CSV_FILE)
    assert [(one.variant, one.task, one.score) for one in found] == [
        (BERT, few, 0.5), ("start", few, 0.25), ("random", few, 0.75),
    ]  # fmt: skip
    assert found[0].step > 30
    assert f"| {BERT} |" in capsys.readouterr().out


@pytest.mark.parametrize("size", [1, 1 << 20], ids=["written at the end", "written at once"])
def test_a_report_whose_reader_went_away_ends_quietly(
    size: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    def report() -> list[str]:
        print("a line\n" * size)
        return []

    with open(writing, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert exit_code_of("equal_compute", report) == 141
    assert capsys.readouterr().err == ""


def test_a_file_without_scores_is_refused(tmp_path: Path) -> None:
    for text in ("a,b\n1,2\n", "a,b\n", "", f"{'x' * 200_000}\n"):
        (tmp_path / "other.csv").write_text(text)
        with pytest.raises(UserError, match="no file of scores"):
            read_scores(tmp_path / "other.csv")


def test_files_of_several_machines_are_reported_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = tmp_path / "ours.csv", tmp_path / "theirs.csv"
    write_scores(ours, [score(ELECTRA, 0, 0.5), score(BERT, 0, 0.25)])
    write_scores(theirs, [score(ELECTRA, 1, 0.75), score(BERT, 1, 0.25)])
    assert equal_compute.main(["--from", str(ours), str(theirs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"| {ELECTRA} | 8e+09 | 62.5 +- 17.7 |" in lines
    assert f"| {ELECTRA} | +37.5 (+25.0 to +50.0; 12.5) |" in lines


def test_a_run_in_two_files_is_refused(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.csv", tmp_path / "theirs.csv"
    write_scores(ours, [score(ELECTRA, 0, 0.5)])
    write_scores(theirs, [score(ELECTRA, 1, 0.75), score(ELECTRA, 0, 0.5)])
    with pytest.raises(UserError, match=r"ours.csv and .*theirs.csv both have .* electra, seed 0"):
        read_all([ours, theirs])
