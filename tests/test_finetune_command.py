"""The command ``finetune``, and the other commands on what it leaves: help, errors in one line."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from electra_ref import __main__ as commands
from electra_ref import convert, evaluate, finetune, predict, report, train
from tests.small_finetuning import SMALLEST, run_finetune, write_encoder, write_examples

KIND = "tagging"
WHERE = ["--device", "reference", "--precision", "float64"]

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-trained model, labelled data, and a fine-tuned model."""
    folder = tmp_path_factory.mktemp("files")
    write_encoder(folder / "model", **SMALLEST)
    write_examples(folder / "train", KIND, 8, 0)
    write_examples(folder / "dev", KIND, 4, 1)
    assert trained(folder, folder / "tagger") == 0
    return folder


@pytest.fixture
def folder(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same files, beside an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return files


def trained(folder: Path, output: Path, *flags: str, **changes: Any) -> int:
    settings = {"batch_size": 4, "epochs": 1, "learning_rate": 0.01, **changes}
    paths = folder / "model", KIND, folder / "train.jsonl", folder / "dev.jsonl"
    return run_finetune(*paths, output, *flags, **settings)


def refused(capsys: pytest.CaptureFixture[str], run: Callable[[], int]) -> str:
    """Return the one line with which ``run`` ends."""
    capsys.readouterr()
    assert run() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    last = captured.err.splitlines()[-1]
    assert ": error: " in last
    return last


def test_help_names_every_kind_of_task(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        finetune.main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for name in ("classification", "regression", "tagging", "span-extraction", "multiple-choice"):
        assert name in shown


def test_the_settings_that_are_printed_are_those_of_a_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", str(folder / "model"), "--task", KIND, "--epochs", "5", "--head",
             "huggingface", "--from-scratch", "--seed", "3", "--set", "word_column=2"]  # fmt: skip
    assert finetune.main([*given, "--print-config"]) == 0
    printed = capsys.readouterr().out
    found = tomllib.loads(printed)
    expected = {"task": KIND, "epochs": 5.0, "head": "huggingface", "from_scratch": True, "seed": 3,
                "word_column": 2, "hidden_size": 8, "steps": 0, "max_length": 40}  # fmt: skip
    assert {key: found[key] for key in expected} == expected
    (tmp_path / "own.toml").write_text(printed)
    again = ["--model", str(folder / "model"), "--task", KIND, "--config", "own.toml"]
    assert finetune.main([*again, "--print-config"]) == 0
    assert capsys.readouterr().out == printed
    assert [path.name for path in tmp_path.iterdir()] == ["own.toml"]


WRONG = {
    "--task nothing": (["--task", "nothing"], "invalid choice"),
    "no task": (["--train", "TRAIN", "--dev", "DEV"], "--task names no kind of task; there are: "),
    "no task to print": (["--print-config"], "--task names no kind of task"),
    "no train": (["--task", KIND, "--dev", "DEV"], "--train names no file"),
    "no dev": (["--task", KIND, "--train", "TRAIN"], "--dev names no file"),
    "empty name": (["--task", KIND, "--train", "", "--dev", "DEV"], "an empty name"),
    "no output": (["--task", KIND, "--output-dir", ""], "an empty name stands for no folder"),
    "standard input": (["--task", KIND, "--train", "-", "--dev", "DEV"], "not from standard input"),
    "missing train": (["--task", KIND, "--train", "gone", "--dev", "DEV"], "gone"),
    "missing dev": (["--task", KIND, "--train", "TRAIN", "--dev", "gone"], "gone"),
    "a folder": (["--task", KIND, "--train", ".", "--dev", "DEV"], "directory"),
    "missing model": (["--task", KIND, "--model", "gone"], "gone"),
    "no model": (["--task", KIND, "--model", "."], "holds no model"),
    "glue of another kind": (["--glue", "stsb", "--task", KIND], "--glue stsb is a task of --task"),
    "unknown key": (["--task", KIND, "--set", "batchsize=2"], "nearest one is 'batch_size'"),
    "value": (["--task", KIND, "--set", "batch_size=0"], "batch_size = 0 is out of its range"),
    "setting as flag": (["--task", KIND, "--batch-size", "2"], "write --set batch_size="),
    "key of another kind": (["--task", KIND, "--set", "doc_stride=2"], "unknown key 'doc_stride'"),
    "unused dropout": (
        ["--task", KIND, "--set", "head_dropout=0"],
        "head_dropout = 0 does nothing with head = 'original' of tagging",
    ),
    "layers of a word": (
        ["--task", KIND, "--head", "layers"],
        "head = 'layers' answers for whole rows, and tagging asks about tokens",
    ),
    "epochs": (["--task", KIND, "--epochs", "0"], "epochs = 0"),
    "config": (["--task", KIND, "--config", "gone.toml"], "gone.toml"),
    "seeds": (["--task", KIND, "--seeds", "0"], "--seeds 0: at least 1"),
    "max steps": (["--task", KIND, "--max-steps", "0"], "--max-steps 0: at least 1"),
    "max minutes": (["--task", KIND, "--max-minutes", "0"], "--max-minutes 0: a number above 0"),
    "NaN minutes": (["--task", KIND, "--max-minutes", "nan"], "--max-minutes nan: a number"),
    "resume and task": (["--resume", "--task", KIND], "--task cannot change a run"),
    "resume and glue": (["--resume", "--glue", "cola"], "--glue cannot change a run"),
    "resume and epochs": (["--resume", "--epochs", "2"], "--epochs cannot change a run"),
    "resume and seed": (["--resume", "--seed", "2"], "--seed cannot change a run"),
    "resume and scratch": (["--resume", "--from-scratch"], "--from-scratch and --resume exclude"),
    "resume and print": (["--resume", "--print-config"], "--print-config and --resume exclude"),
    "nothing to resume": (["--resume"], "there is no run to resume in runs"),
    "resume nowhere": (["--resume", "--output-dir", "gone"], "gone holds no run"),
    "occupied": (["--task", KIND, "--output-dir", "OCCUPIED"], "holds something else (a)"),
    "a file": (["--task", KIND, "--output-dir", "OCCUPIED/a"], "not a folder"),
    "a name that is too long": (["--task", KIND, "--output-dir", "x" * 300], "too long"),
    "no such floats": (["--task", KIND, "--set", "precision=bfloat16", *WHERE[:2]], "bfloat16"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_clear_line_and_leaves_nothing(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = WRONG[name]
    (tmp_path / "OCCUPIED").mkdir()
    (tmp_path / "OCCUPIED" / "a").touch()
    data = ["--train", str(folder / "train.jsonl"), "--dev", str(folder / "dev.jsonl")]
    names = {"TRAIN": data[1], "DEV": data[3], "MODEL": str(folder / "model")}
    given = [names.get(argument, argument) for argument in arguments]
    if "--resume" not in given and "--model" not in given:
        given += ["--model", str(folder / "model")]
    if "--task" in given and not {"--train", "--dev", "--resume"} & set(given):
        given += data
    before = sorted(tmp_path.rglob("*"))
    assert message in refused(capsys, lambda: finetune.main(given))
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before] in (
        [], [tmp_path / "runs"],
    )  # fmt: skip


@pytest.mark.parametrize("line", ["{", '{"words": ["a"], "tags": []}', '{"words": ["a"]}'])
@pytest.mark.parametrize("which", ["train", "dev"])
def test_a_wrong_line_is_named(
    line: str, which: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: folder / f"{name}.jsonl" for name in ("train", "dev")}
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text(files[which].read_text() + line + "\n")
    files[which] = wrong
    count = len(wrong.read_text().splitlines())
    message = refused(
        capsys,
        lambda: run_finetune(
            folder / "model", KIND, files["train"], files["dev"], tmp_path / "run"
        ),
    )
    assert f"{wrong}, line {count}: " in message
    assert not (tmp_path / "run").exists()


def test_without_a_model_the_newest_pretraining_run_is_taken(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, used in (("b-new", 2), ("a-old", 1)):
        run = write_encoder(tmp_path / "runs" / name, **SMALLEST)
        os.utime(run / ".lock", ns=(used, used))
    data = ["--task", KIND, "--train", str(folder / "train.jsonl"), "--dev",
            str(folder / "dev.jsonl"), *WHERE, "--max-steps", "1"]  # fmt: skip
    for name in ("tagging", "tagging-2"):
        assert finetune.main(data) == 0
        assert "--model: the newest run, runs/b-new" in capsys.readouterr().err
        assert (tmp_path / "runs" / name / "config.toml").exists()
    # and neither command goes on with a run of the other
    assert finetune.main(["--resume", "--max-steps", "2"]) == 0
    assert "runs/tagging-2" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("tagging*/**/*")}
    train.main(["--resume", "--max-steps", "1"])
    captured = capsys.readouterr()
    assert "tagging" not in captured.err + captured.out
    assert before == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("tagging*/**/*")
    }


def test_train_does_not_take_a_fine_tuned_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(folder / "tagger")
    (tmp_path / "text.txt").write_text("a b c d e f g h\n\n" * 50)
    for arguments, advice in (
        (["--resume", "--output-dir", path], f"finetune --resume --output-dir {path}"),
        (
            ["--init-from", path, "--corpus", "text.txt", "--output-dir", "run"],
            f"predict --model {path} --input FILE",
        ),
    ):
        message = refused(capsys, lambda given=arguments: train.main(given))  # type: ignore[misc]
        assert message.endswith(advice)
    assert not (tmp_path / "run").exists()


def test_what_a_pretrained_model_is_asked_must_be_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, dev = ["--model", str(folder / "model")], ["--input", str(folder / "dev.jsonl")]
    assert "--task: what shall be answered? There are: rtd, mlm" in refused(
        capsys, lambda: predict.main([*model, *dev])
    )
    assert "no fine-tuning run" in refused(
        capsys, lambda: predict.main([*model, *dev, "--task", KIND])
    )


PREDICT = {
    "another kind": (["--task", "regression"], "was fine-tuned for --task tagging, not for"),
    "rtd": (["--task", "rtd"], "fine-tuned model"),
    "stride": (["--stride", "4"], "--stride belongs to rtd and mlm"),
    "input format": (["--input-format", "text"], "--input-format belongs to rtd and mlm"),
    "top k": (["--top-k", "4"], "--top-k counts the fillings"),
    "format": (["--format", "glue"], "--format glue: predictions of tagging are written as json, "),
    "trained": (["--set", "learning_rate=1"], "--set learning_rate: a trained model has it"),
    "unknown": (["--set", "columns=1"], "unknown key 'columns'"),
    "too long": (["--max-length", "41"], "max_length = 41: the model reads 40 tokens at most"),
    "batch tokens": (["--batch-tokens", "0"], "--batch-tokens 0: at least 1"),
    "missing input": (["--input", "gone.jsonl"], "gone.jsonl"),
    "wrong output": (["--output", "gone/out.jsonl"], "gone"),
}


@pytest.mark.parametrize("name", PREDICT)
def test_predict_says_in_one_line_what_does_not_fit(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = PREDICT[name]
    given = ["--model", str(folder / "tagger"), *arguments]
    if "--input" not in given:
        given += ["--input", str(folder / "dev.jsonl")]
    if "--output" not in given:
        given += ["--output", "out.jsonl"]
    assert message in refused(capsys, lambda: predict.main(given))
    assert not any(tmp_path.iterdir())


def test_other_commands_on_a_fine_tuned_run_answer_or_say_why_not(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(folder / "tagger")
    message = refused(capsys, lambda: evaluate.main(["--model", model]))
    assert "fine-tuned" in message
    assert convert.main(["--from", model, "--to", "exported"]) == 0
    assert (tmp_path / "exported" / "config.json").exists()


def test_a_report_says_where_the_scores_of_a_fine_tuned_run_are(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("electra_ref.training.report.drawing.require_matplotlib", lambda: None)
    given = [str(folder / "tagger"), "--output", "page.html"]
    assert "metrics.jsonl" in refused(capsys, lambda: report.main(given))
    assert not (tmp_path / "page.html").exists()


def test_a_model_with_the_head_of_hugging_face_is_exported_and_answers_the_same(
    folder: Path, tmp_path: Path
) -> None:
    assert trained(folder, tmp_path / "run", "--head", "huggingface") == 0
    assert convert.main(["--from", "run", "--to", "exported"]) == 0
    answers = []
    for model in ("run", "exported"):
        given = ["--model", model, "--input", str(folder / "dev.jsonl"), "--output", "out.jsonl"]
        assert predict.main([*given, "--device", "reference", "--precision", "float32"]) == 0
        answers.append([json.loads(line) for line in Path("out.jsonl").read_text().splitlines()])
    for ours, theirs in zip(*answers, strict=True):
        assert ours["tags"] == theirs["tags"]


def test_the_command_has_a_name_among_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["finetune", "--seeds", "0"], "python -m electra_ref") == 2
    assert capsys.readouterr().err == (
        "python -m electra_ref finetune: error: --seeds 0: at least 1\n"
    )
