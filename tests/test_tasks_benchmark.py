"""The benchmark of tasks: what it runs, how it divides files, its table.

The command that fine-tunes is not run here; its files are written in its place.
"""

from __future__ import annotations

import argparse
import gzip
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tasks
from benchmarks.tasks import (
    STARTS,
    TASKS,
    Run,
    TaskFiles,
    files_of,
    names_of,
    records_of,
    result,
    table,
    train,
)
from electra_ref.errors import UserError
from electra_ref.finetune import build_parser
from electra_ref.training.finetuning.seeds_file import Seeds
from electra_ref.training.finetuning.seeds_file import write_seeds as write_seeds_file


def write_seeds(run: Run, *values: float, best: int | None = 0) -> None:
    """Write what the command leaves of ``run``."""
    run.folder.mkdir(parents=True)
    scores = {str(seed): {"accuracy": value, "f1": 0.0} for seed, value in enumerate(values)}
    files = {"model": "/m", "train": "/train", "dev": "/dev"}
    seeds = Seeds([*range(len(values))], scores, best, "multiple-choice", files)
    write_seeds_file(run.folder, seeds)
    (run.folder / "config.toml").touch()


def write_empty(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("start", STARTS)
def test_the_command_knows_all_arguments(name: str, start: str) -> None:
    options = build_parser().parse([*TASKS[name].arguments, *STARTS[start]])
    assert options.from_scratch == (start == "from-scratch")
    assert options.task or options.glue


def test_a_file_is_divided_once(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    lines = [f"row {number}" for number in range(25)]
    (tmp_path / "set" / "all.tsv").write_text("\n".join(["header", *lines, ""]), encoding="utf-8")
    train, dev = files_of(TaskFiles("set/all.tsv", None, (), header=True), tmp_path, tmp_path)
    assert train.read_text(encoding="utf-8").splitlines() == ["header", *lines[:23]]
    assert dev.read_text(encoding="utf-8").splitlines() == ["header", *lines[23:]]


def test_sentences_stay_whole(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    blocks = [f"a{number} O\nb{number} O" for number in range(20)]
    text = "\n\n".join(blocks) + "\n"
    (tmp_path / "set" / "all.txt").write_text(text, encoding="utf-8")
    train, dev = files_of(TaskFiles("set/all.txt", None, (), blocks=True), tmp_path, tmp_path)
    assert train.read_text(encoding="utf-8") == "\n\n".join(blocks[:18]) + "\n"
    assert dev.read_text(encoding="utf-8") == "\n\n".join(blocks[18:]) + "\n"


def test_table_has_means_and_deviations(tmp_path: Path) -> None:
    runs = [Run("CoLA", start, tmp_path / start) for start in STARTS]
    write_seeds(runs[0], 0.5, 0.7)
    write_seeds(runs[1], 0.25)
    found = result("CoLA", runs)
    assert found is not None
    assert list(table([found]))[2:] == ["| CoLA | accuracy | 0.600 +- 0.141 | 0.250 |"]


def test_a_task_that_is_not_done_has_no_line(tmp_path: Path) -> None:
    runs = [Run("CoLA", start, tmp_path / start) for start in STARTS]
    write_seeds(runs[0], 0.5)
    assert result("CoLA", runs) is None
    write_seeds(runs[1], 0.5, best=None)
    assert result("CoLA", runs) is None


def test_finished_runs_are_not_repeated_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_seeds(Run("COPA", "pre-trained", tmp_path / "copa-pre-trained"), 0.5)
    write_seeds(Run("COPA", "from-scratch", tmp_path / "copa-from-scratch"), 0.5, best=None)
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    given = ["--model", "/m", "--data", "d", "--tasks", "COPA", "--output-dir", str(tmp_path)]
    monkeypatch.setattr(tasks, "origin", lambda _: {})
    monkeypatch.setattr(tasks, "files_of", lambda *_: (Path("/train"), Path("/dev")))
    monkeypatch.setattr(tasks, "print_origin", lambda _: None)
    for other in (["--model", "/other"], ["--seeds", "2"]):  # theirs are no scores of these
        assert tasks.main([*given, "--seeds", "1", *other]) == 2
        assert "holds runs of 1 seeds on /train with /m: move it" in capsys.readouterr().err
    assert commands == []
    assert tasks.main([*given, "--seeds", "1"]) == 1
    (command,) = commands
    assert command[-1] == "--resume"
    assert str(tmp_path / "copa-from-scratch") in command
    assert "from-scratch: exit code 1" in capsys.readouterr().err


def test_runs_that_never_began_are_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was killed before it wrote the settings leaves nothing to resume."""
    run = Run("COPA", "from-scratch", tmp_path / "copa-from-scratch")
    write_seeds(run, best=None)
    (run.folder / "config.toml").unlink()
    commands: list[list[str]] = []

    def call(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", call)
    monkeypatch.setattr(tasks, "files_of", lambda *_: (Path("train"), Path("dev")))
    options = argparse.Namespace(model=Path("/m"), data=Path("d"), seeds=2)
    assert train(run, options, tmp_path) == 0
    assert "--train" in commands[0]
    assert "--resume" not in commands[0]


def test_a_new_run_names_files_and_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    write_empty(tmp_path / "d" / "cola", "train.tsv", "dev.tsv")
    options = argparse.Namespace(model=Path("/m"), data=tmp_path / "d", seeds=2)
    assert tasks.train(Run("CoLA", "from-scratch", tmp_path / "x"), options, tmp_path) == 0
    parsed = build_parser().parse(commands[0][3:])
    assert (parsed.glue, parsed.seeds, parsed.from_scratch) == ("cola", 2, True)
    files = [str(tmp_path / "d" / "cola" / name) for name in ("train.tsv", "dev.tsv")]
    assert [parsed.train, parsed.dev] == files
    assert str(parsed.model) == "/m"


def test_missing_files_are_said_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """CoLA is there, and COPA lacks one of two files."""
    write_empty(tmp_path / "cola", "train.tsv", "dev.tsv")
    write_empty(tmp_path / "copa", "train.jsonl")
    monkeypatch.setattr(tasks, "origin", lambda _: {})
    monkeypatch.setattr(tasks, "print_origin", lambda _: None)
    monkeypatch.setattr(tasks, "train", lambda *_: pytest.fail("trained"))
    given = ["--model", "m", "--data", str(tmp_path), "--tasks", "CoLA,COPA"]
    assert tasks.main([*given, "--output-dir", str(tmp_path / "out")]) == 2
    assert f"{tmp_path}/copa/val.jsonl: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("cut.gz", gzip.compress(b"one\ntwo\n" * 99, mtime=0)[:-9]),
        ("bad.gz", gzip.compress(b"one\n", mtime=0)[:10] + b"\xff" * 20),
        ("latin.tsv", "caf\xe9".encode("latin-1")),
    ],
    ids=["cut", "bad", "latin"],
)
def test_a_damaged_file_is_one_line(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=name):
        records_of(TASKS["CoLA"], tmp_path / name)


def test_unknown_names_are_refused() -> None:
    assert names_of("CoLA, COPA") == ["CoLA", "COPA"]
    with pytest.raises(UserError, match="'cola' is none of CoLA"):
        names_of("cola")
