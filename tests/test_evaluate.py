"""The figures of a saved model are those that its run logged; other rows give others."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref import convert, evaluate, train
from electra_ref.training.pretraining.task import PretrainingTask
from tests.small_runs import SETTINGS, flags_of, write_corpus

pytestmark = pytest.mark.usefixtures("quick")

STEPS = {**SETTINGS, "steps": 4, "evaluate_every": 2, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    write_corpus(folder / "corpus.txt")
    write_corpus(folder / "other.txt", seed=1)
    return folder


def train_run(folder: Path, name: str, **changes: Any) -> Path:
    """Return the folder of a finished run."""
    arguments = ["--corpus", str(folder / "corpus.txt"), "--output-dir", str(folder / name)]
    assert train.main([*arguments, *flags_of(**{**STEPS, **changes})]) == 0
    return folder / name


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    return train_run(folder, "run")


def logged(run: Path, step: int) -> dict[str, Any]:
    """Return the figures that a run has logged at a step."""
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    (record,) = [r for r in records if r["split"] == "held_out" and r["step"] == step]
    del record["split"]
    return dict(record)


def figures(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Return the object that the command prints; standard output holds nothing else."""
    capsys.readouterr()
    assert evaluate.main(list(arguments)) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return dict(json.loads(line))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective": "mlm"},
        {"objective": "all-tokens-mlm"},
        {"uniform_generator": True},
        {"temperature_steps": 9, "temperature_end": 9.0},
        {"device": "cpu", "precision": "float32"},
    ],
    ids=str,
)
def test_the_same_figures_as_the_run_logged(
    changes: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the last bit: the same rows, masks, samples, device and precision."""
    name = "-".join(["same", *map(str, changes.values())])
    run = train_run(folder, name, **changes)
    for path, step in ((run, 4), (run / "checkpoints" / "step-00000002", 2)):
        found = figures(capsys, "--model", str(path))
        assert found["model"] == str(path)
        assert found["objective"] == changes.get("objective", "electra")
        expected = logged(run, step)
        assert {key: found[key] for key in expected} == expected
    assert logged(run, 2) != logged(run, 4) | {"step": 2}


def test_the_rows_are_counted(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two batches of four, one batch of four, and all rows that there are."""
    few = figures(capsys, "--model", str(run), "--batches", "1")
    as_logged = figures(capsys, "--model", str(run))
    every = figures(capsys, "--model", str(run), "--batches", "1000")
    assert [found["rows"] for found in (few, as_logged)] == [4, 8]
    assert every["rows"] == every["rows_available"] == as_logged["rows_available"] > 8
    assert few["tokens"] < as_logged["tokens"] < every["tokens"]
    assert few["mlm_loss"] != as_logged["mlm_loss"] != every["mlm_loss"]


def test_all_rows_of_another_corpus_count(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """None of them is kept for training: all tokens of the corpus are read."""
    corpus = ["--corpus", str(folder / "other.txt"), "--batches", "1000"]
    other = figures(capsys, "--model", str(run), *corpus)
    assert other["rows"] == other["rows_available"]
    assert other["mlm_loss"] != figures(capsys, "--model", str(run))["mlm_loss"]
    texts = (folder / "other.txt").read_text(encoding="utf-8").split("\n")
    from electra_ref.training.saved_model import find_model  # noqa: PLC0415

    tokenizer = find_model(run).tokenizer
    assert other["tokens"] == sum(len(tokenizer.encode(text)) for text in texts)
    with open(tmp_path / "other.jsonl", "w", encoding="utf-8") as lines:
        for text in (folder / "other.txt").read_text(encoding="utf-8").split("\n\n"):
            lines.write(json.dumps({"body": text}) + "\n")
    corpus = ["--corpus", str(tmp_path / "other.jsonl"), "--text-key", "body", "--batches", "1000"]
    assert figures(capsys, "--model", str(run), *corpus)["tokens"] == other["tokens"]


def test_ids_are_evaluated_by_a_model_of_ids(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    np.save(tmp_path / "ids.npy", random.integers(0, 40, (30, 50)))
    np.save(tmp_path / "new.npy", random.integers(0, 40, (10, 50)))
    arguments = ["--tokens", str(tmp_path / "ids.npy"), "--output-dir", str(tmp_path / "run")]
    assert train.main([*arguments, *flags_of(**STEPS)]) == 0
    own = figures(capsys, "--model", str(tmp_path / "run"))
    assert own["mlm_loss"] == logged(tmp_path / "run", 4)["mlm_loss"]
    new = ["--tokens", str(tmp_path / "new.npy"), "--batches", "1000"]
    assert figures(capsys, "--model", str(tmp_path / "run"), *new)["tokens"] == 500
    text = ["--corpus", str(folder / "other.txt")]
    for model, data in ((run, new[:2]), (tmp_path / "run", text)):
        capsys.readouterr()
        assert evaluate.main(["--model", str(model), *data]) == 2
        assert "the vocabulary of the model" in capsys.readouterr().err.splitlines()[-1]


def test_a_run_whose_data_are_gone_can_be_evaluated_from_the_cache(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(folder / "corpus.txt", tmp_path / "corpus.txt")
    run = train_run(tmp_path, "run")
    (tmp_path / "corpus.txt").unlink()
    assert figures(capsys, "--model", str(run))["mlm_loss"] == logged(run, 4)["mlm_loss"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    assert evaluate.main(["--model", str(run)]) == 2
    assert "corpus.txt" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nothing"], "nothing"),
        ([], "--model"),
        (["--model", "{run}", "--batches", "0"], "--batches 0: at least 1"),
        (["--model", "{run}", "--batches", "x"], "--batches"),
        (["--model", "{run}", "--corpus", "none.txt"], "none.txt"),
        (["--model", "{run}", "--corpus", ""], "an empty name"),
        (["--model", "{run}", "--corpus", "a", "--tokens", "b"], "exclude each other"),
        (["--model", "{run}", "--text-key", "b"], "--text-key"),
        (["--model", "{run}", "--steps", "3"], "unknown argument --steps; --help"),
        (["--model", "{run}", "--device", "gpu"], "--device gpu"),
    ],
)
def test_wrong_arguments_end_in_one_line(
    arguments: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "gpu" in arguments:
        from electra_ref.backends import why_no_gpu  # noqa: PLC0415

        if why_no_gpu() is None:
            pytest.skip("there is a GPU")
    capsys.readouterr()
    assert evaluate.main([argument.format(run=run) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if not line.startswith("device:")]
    assert len(lines) == 1
    assert message in lines[0]


def test_a_signal_ends_the_evaluation(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It comes while the rows are read; what was asked for is not printed."""
    capsys.readouterr()
    original = PretrainingTask.evaluate

    def interrupted(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    monkeypatch.setattr(PretrainingTask, "evaluate", interrupted)
    assert evaluate.main(["--model", str(run)]) == 130
    assert capsys.readouterr().out == ""


def test_a_directory_without_data_needs_some(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert.main(["--from", str(run), "--to", str(tmp_path / "exported")]) == 0
    capsys.readouterr()
    model = ["--model", str(tmp_path / "exported")]
    assert evaluate.main(model) == 2
    assert "came without data: name some with --corpus" in capsys.readouterr().err.splitlines()[-1]
    corpus = ["--corpus", str(folder / "other.txt")]
    found = figures(capsys, *model, *corpus, "--precision", "float32")
    assert found["mlm_loss"] > 0
    assert found["rows"] > 0


DIVERGED = {"learning_rate": 1e10, "warmup_steps": 0, "initializer_range": 1.0}


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(
    "changes", [{}, {"objective": "mlm"}, {"uniform_generator": True}], ids=str
)
def test_a_model_that_has_diverged_ends_in_one_line(
    changes: dict[str, Any],
    precision: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The evaluation is the first to see it: at the last step before it is saved, or after it."""
    corpus = ["--corpus", str(folder / "corpus.txt")]
    wrong = {**STEPS, **DIVERGED, "precision": precision, **changes}
    if precision == "float64":
        wrong["learning_rate"] = 1e300
    for steps, evaluated in ((1, 1), (2, 2)):
        run = tmp_path / f"run{steps}"
        flags = flags_of(**{**wrong, "steps": steps, "evaluate_every": evaluated})
        capsys.readouterr()
        assert train.main([*corpus, "--output-dir", str(run), *flags, "--max-steps", "1"]) == 2
        assert "error: step 1 has diverged (" in capsys.readouterr().err.splitlines()[-1]
    assert list((tmp_path / "run1" / "checkpoints").iterdir()) == []
    assert evaluate.main(["--model", str(run)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"error: the model in {run} has diverged (" in printed.err.splitlines()[-1]
