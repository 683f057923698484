"""The search for a recipe: what its files mean, its lines, and what it runs.

Nothing is trained here; the files of the commands are written in their place.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import recipe, scored_encoders
from benchmarks.pretraining_runs import Run, checkpoint_of, has_finished
from benchmarks.recipe import RESULTS, Model, line_of, plans_of, update
from benchmarks.scored_encoders import (
    EMBEDDED,
    FEW_LABELS,
    SMALL_TASKS,
    USUAL,
    Encoder,
    fine_tune,
    small_files,
)
from benchmarks.tasks import TASKS, some_records
from electra_ref.config.pretraining import PRESETS
from electra_ref.config.settings import to_toml
from electra_ref.errors import UserError
from electra_ref.finetune import build_parser
from electra_ref.training.finetuning.embedded import Text
from electra_ref.training.run_directory import RunDirectory


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with two recipes."""
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "short.toml").write_text("steps = 40\nuniform_generator = true\n")
    (folder / "plain.toml").write_text('objective = "mlm"\nsteps = 60\nlearning_rate = 1e-3\n')
    return folder


def write_run(run: Run, **figures: float) -> None:
    """Write what the training command leaves of a finished run."""
    source = {"source": {"corpus": list(run.corpus)}}
    RunDirectory.create(run.folder, to_toml(run.plan.config(run.seed)), source).close()
    record = {"step": run.plan.steps, "split": "held_out", **figures}
    (run.folder / "metrics.jsonl").write_text(f"{json.dumps(record)}\n", encoding="utf-8")
    checkpoint_of(run, run.plan.steps).mkdir(parents=True)


def write_seeds(folder: Path, task: str, *values: float) -> None:
    """Write what the command that fine-tunes leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    scores = {str(seed): {SMALL_TASKS[task].score: value} for seed, value in enumerate(values)}
    (folder / "seeds.json").write_text(json.dumps({"scores": scores, "best": 0}))


def test_a_file_is_the_preset_with_its_settings(results: Path) -> None:
    plain, short = plans_of(results, None)
    assert (plain.variant, plain.steps, short.variant, short.steps) == ("plain", 60, "short", 40)
    config = plain.config(0)
    assert (config.objective, config.learning_rate) == ("mlm", 1e-3)
    assert config.hidden_size == PRESETS["tiny"]["hidden_size"]
    assert short.config(0).uniform_generator is True
    assert [plan.variant for plan in plans_of(results, "short")] == ["short"]


def test_files_that_are_here_are_configurations() -> None:
    if any(RESULTS.glob("*.toml")):
        for plan in plans_of(RESULTS, None):
            assert plan.config(0).steps == plan.steps


def test_a_line_has_tokens_figures_and_mean_scores(results: Path, tmp_path: Path) -> None:
    plan, _ = plans_of(results, None)
    run = Run(plan, 0, tmp_path / "plain")
    write_run(run, mlm_accuracy=0.25, other=1.0)
    encoder = recipe.encoder_of(run, tmp_path)
    write_seeds(encoder.folder_of("CoLA"), "CoLA", 0.5, 0.25)
    line = line_of(Model("plain", run, encoder))
    config = plan.config(0)
    assert line["tokens"] == 60 * config.batch_size * config.max_length
    assert float(line["flop"]) == pytest.approx(60 * plan.flop_per_step, rel=1e-2)
    assert (line["name"], line["mlm_accuracy"], line["CoLA"], line["seeds"]) == (
        "plain", "0.2500", "0.3750", 2,
    )  # fmt: skip
    assert not {"rtd_auc", "SST-2"} & set(line)
    assert set(line) <= set(recipe.COLUMNS)


def test_lines_replace_those_of_the_same_name(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    update(path, [{"name": "a", "tokens": 1}, {"name": "b", "tokens": 2}], again=[])
    path.write_text(re.sub("^a,.*", r"\g<0>too short", path.read_text(), flags=re.MULTILINE))
    update(path, [{"name": name, "tokens": n} for name, n in (("c", 3), ("a", 4), ("b", 5))], ["a"])
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["note"] for row in rows] == ["too short", "", ""]
    assert [(row["name"], row["tokens"]) for row in rows] == [("a", "4"), ("b", "2"), ("c", "3")]
    assert tuple(rows[0]) == recipe.COLUMNS


def test_what_is_done_is_not_repeated(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    tuned: list[tuple[str, bool]] = []

    def train(run: Run) -> None:
        trained.append(run.plan.variant)
        write_run(run, mlm_accuracy=0.5)

    def tune(encoder: Encoder, files: Any, seeds: int) -> None:
        tuned.append((encoder.folder.name, bool(encoder.start)))
        assert (files, seeds) == ({}, 2)
        for task in SMALL_TASKS:
            write_seeds(encoder.folder_of(task), task, 0.5, 1.0)

    monkeypatch.setattr(recipe, "train", train)
    monkeypatch.setattr(recipe, "fine_tune", tune)
    monkeypatch.setattr(recipe, "small_files", lambda *_: {})
    monkeypatch.setattr(recipe, "origin", lambda _: {})
    monkeypatch.setattr(recipe, "print_origin", lambda _: None)
    given = ["--data", "d", "--results", str(results), "--output-dir", str(tmp_path / "out")]
    given += ["--finetuning-seeds", "2", "--jobs", "1"]
    assert recipe.main(given) == 0
    assert trained == ["plain", "short"]
    assert tuned == [("plain", False), ("short", False), ("random", True)]
    rows = list(csv.DictReader((results / "results.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["plain", "short", "random"]
    assert {row["SST-2"] for row in rows} == {"0.7500"}
    before = (results / "results.csv").read_text()
    monkeypatch.setattr(recipe, "commit", lambda: "another")
    assert recipe.main(given) == 0
    assert trained == ["plain", "short"]
    assert (results / "results.csv").read_text() == before


def test_a_run_that_fails_leaves_the_line_that_is_there(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a run that was made elsewhere."""
    update(results / "results.csv", [{"name": "plain", "tokens": 7}], again=[])
    before = (results / "results.csv").read_text()

    def train(_: Run) -> None:
        raise UserError("failed")

    monkeypatch.setattr(recipe, "train", train)
    monkeypatch.setattr(recipe, "small_files", lambda *_: {})
    monkeypatch.setattr(recipe, "origin", lambda _: {})
    monkeypatch.setattr(recipe, "print_origin", lambda _: None)
    given = ["--names", "plain", "--results", str(results), "--output-dir", str(tmp_path / "out")]
    assert recipe.main(given) == 1
    assert (results / "results.csv").read_text() == before


@pytest.mark.parametrize("lacks", ["record", "checkpoint"])
def test_a_run_without_its_last_checkpoint_goes_on(
    lacks: str, results: Path, tmp_path: Path
) -> None:
    """The disk was full when it was saved: the evaluation is on record by then."""
    run = Run(plans_of(results, "plain")[0], 0, tmp_path / "plain")
    write_run(run, mlm_accuracy=0.5)
    assert has_finished(run)
    if lacks == "record":
        (run.folder / "metrics.jsonl").write_text("")
    else:
        checkpoint_of(run, run.plan.steps).rmdir()
    assert not has_finished(run)


def test_fine_tuned_models_of_a_run_that_was_moved_are_refused(
    results: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the new run would get the scores of the old one."""
    files = {"CoLA": (tmp_path / "train", tmp_path / "dev")}
    monkeypatch.setattr(recipe, "small_files", lambda *_: files)
    write_seeds(tmp_path / "fine-tuned" / "plain" / "cola", "CoLA", 0.5)
    given = ["--names", "plain", "--results", str(results), "--output-dir", str(tmp_path)]
    assert recipe.main(given) == 2
    assert f"{tmp_path}/fine-tuned/plain holds fine-tuned models, and" in capsys.readouterr().err


def test_all_encoders_are_fine_tuned_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(scored_encoders, "run_module", lambda command, _: commands.append(command))
    files = dict.fromkeys(SMALL_TASKS, (tmp_path / "train", tmp_path / "dev"))
    done = Encoder(tmp_path / "model", tmp_path / "tuned")
    write_seeds(done.folder_of("CoLA"), "CoLA", 0.5)
    fine_tune(done, files, 3)
    fine_tune(Encoder(tmp_path / "model", tmp_path / "other", USUAL), files, 3)
    parsed = [build_parser().parse(command[1:]) for command in commands]
    assert len(parsed) == 2 * len(SMALL_TASKS) - 1
    assert [one.from_scratch for one in parsed] == [False] * 4 + [True] * 5
    settings = [tuple(one.settings) for one in parsed]
    usual = ("initializer_range=0.02", "initial_attention=random")
    assert [(*own, *usual) for own in settings[:4]] == [settings[4 + n] for n in (0, 1, 2, 4)]
    assert settings[0] == ("epochs=5", "learning_rate=0.001")
    assert {(one.seeds, one.train, one.model) for one in parsed} == {
        (3, str(tmp_path / "train"), tmp_path / "model")
    }
    assert len({one.output_dir for one in parsed}) == len(parsed)


def test_few_labels_are_learned_for_as_many_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(scored_encoders, "run_module", lambda command, _: commands.append(command))
    files = dict.fromkeys(FEW_LABELS, (tmp_path / "train", tmp_path / "dev"))
    fine_tune(Encoder(tmp_path / "model", tmp_path / "tuned"), files, 3)
    parsed = [build_parser().parse(command[1:]) for command in commands]
    once = ("steps=400", "evaluate_every=400", "checkpoint_every=400", "learning_rate=0.001")
    assert [tuple(one.settings) for one in parsed] == [once] * 6
    assert [one.output_dir.name for one in parsed] == [
        f"{name}-{count}"
        for name in ("ud-part-of-speech", "snips-slots")
        for count in (100, 400, 1600)
    ]


def test_few_labels_come_from_files_of_their_own(tmp_path: Path) -> None:
    for name, data in (("UD part of speech", "1\tword"), ("SNIPS slots", "i\tw\tO")):
        task = TASKS[name]
        path = tmp_path / "data" / task.train
        path.parent.mkdir(parents=True)
        header = "intent\ttokens\tslots\n" if task.header else ""
        separator = "\n\n" if task.blocks else "\n"
        path.write_bytes(gzip.compress((header + separator.join([data] * 2000)).encode()))
        (tmp_path / "data" / (task.dev or "")).touch()
    found = small_files(tmp_path / "data", tmp_path / "out", FEW_LABELS)
    assert list(found) == list(FEW_LABELS)
    assert len({train for train, _ in found.values()}) == 6
    train, dev = found["SNIPS slots, 400"]
    assert len(train.read_text().splitlines()) == 401
    assert dev == tmp_path / "data/snips/valid.tsv"


def test_without_data_there_is_the_task_of_the_installed_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [Text(f"text {number}", "numpy") for number in range(5)]
    monkeypatch.setattr(scored_encoders, "embedded_task", lambda: (texts[:3], texts[3:]))
    files = small_files(None, tmp_path / "new")
    assert list(files) == [EMBEDDED]
    train, dev = (path.read_text().splitlines() for path in files[EMBEDDED])
    assert (len(train), len(dev)) == (3, 2)
    assert json.loads(train[0]) == {"text": "text 0", "label": "numpy"}
    files[EMBEDDED][0].write_text("of another version of the packages\n")
    again, _ = small_files(None, tmp_path / "new")[EMBEDDED]
    assert again.read_text() == "of another version of the packages\n"


def test_a_part_of_a_file_is_taken_at_equal_distances(tmp_path: Path) -> None:
    (tmp_path / "sst2").mkdir()
    lines = "\n".join(["sentence\tlabel", *(f"row {number}\t0" for number in range(10))])
    task = TASKS["SST-2"]._replace(train="sst2/all.tsv")
    (tmp_path / "sst2" / "all.tsv").write_text(f"{lines}\n")
    part = some_records(task, tmp_path, tmp_path / "out", 4)
    assert part.read_text().splitlines() == [
        "sentence\tlabel", "row 0\t0", "row 2\t0", "row 5\t0", "row 7\t0",
    ]  # fmt: skip
    with pytest.raises(UserError, match="has 10 records, not 11"):
        some_records(task, tmp_path, tmp_path / "out", 11)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--names", "long"], "--names long: none of plain, short"),
        (["--jobs", "0"], "--jobs 0: at least 1"),
        (["--results", "nowhere"], "no file NAME.toml"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recipe.main(["--data", "d", "--results", str(results), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
