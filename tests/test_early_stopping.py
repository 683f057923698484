"""Training that ends when its score no longer rises, and the best model, which is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from electra_ref import finetune, predict
from electra_ref.training import loop
from electra_ref.training.checkpoint import list_checkpoints
from electra_ref.training.finetuning.learning import Learning, main_scores, summary
from electra_ref.training.saving import Saver
from tests.small_finetuning import (
    SMALLEST,
    KilledError,
    ends_at,
    held_out,
    killed,
    run_finetune,
    tensors_of,
    write_encoder,
    write_examples,
)

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_encoder(folder / "model", **SMALLEST)
    write_examples(folder / "train", "tagging", 8, 0)
    write_examples(folder / "dev", "tagging", 6, 1)
    return folder


def train(folder: Path, output: Path, *flags: str, **changes: Any) -> int:
    """Train up to twenty steps, with an evaluation after each and a checkpoint after every five."""
    settings = {"batch_size": 4, "steps": 20, "learning_rate": 0.01, "log_every": 1, "patience": 3,
                "evaluate_every": 1, "checkpoint_every": 5, **changes}  # fmt: skip
    paths = folder / "model", "tagging", folder / "train.jsonl", folder / "dev.jsonl"
    return run_finetune(*paths, output, *flags, **settings)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Scores by step, from 1, in the place of the real ones."""
    scores: list[float] = []
    original = Learning.evaluate

    def evaluate(self: Learning, parameters: Any, step: int) -> Any:
        real = original(self, parameters, step)
        metrics: dict[str, Any] = {"accuracy": scores[step - 1], "loss": -scores[step - 1]}
        return real._replace(metrics=metrics, summary=summary(metrics))

    monkeypatch.setattr(Learning, "evaluate", evaluate)
    return scores


def steps_of(folder: Path) -> list[str]:
    return [path.name.removeprefix("step-000000") for path in list_checkpoints(folder)]


@pytest.mark.parametrize(
    ("scores", "last", "best"),
    [
        ([0.1, 0.5, 0.4, 0.4, 0.4, 0.9], 5, 2),
        ([0.1, 0.5, 0.5, 0.5, 0.5, 0.9], 5, 2),  # the same is no better
        ([0.1, 0.5, 0.4, 0.4, 0.6, 0.4, 0.3, 0.2, 0.9], 8, 5),
        ([0.5, 0.4, 0.4, 0.4], 4, 1),
    ],
)
def test_training_ends_after_patience_and_the_best_model_is_kept(
    scores: list[float], last: int, best: int, scored: list[float], folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    scored.extend(scores)
    output = tmp_path / "run"
    assert train(folder, output) == 0
    captured = capsys.readouterr()
    assert [record["step"] for record in held_out(output)] == list(range(1, last + 1))
    assert steps_of(output / "checkpoints") == [f"{last:02}"]
    assert steps_of(output / "best") == [f"{best:02}"]
    assert f"no better score in 3 evaluations: training ends; the model of step {best} is kept" in (
        captured.err
    )
    assert captured.out.startswith(f"step {best} (the best): dev accuracy {scores[best - 1]:.4g}")
    assert f"step {last}: dev accuracy {scores[last - 1]:.4g}, " in captured.err
    assert {name.partition("/")[0] for name in tensors_of(output / "best")} == {"model"}


def test_the_model_that_is_kept_is_that_of_its_step_and_answers(
    scored: list[float], folder: Path, tmp_path: Path
) -> None:
    scored.extend([0.1, 0.5, 0.4, 0.4, 0.4])
    assert train(folder, tmp_path / "run") == 0
    assert train(folder, tmp_path / "two", "--max-steps", "2", patience=0) == 0
    kept, same = tensors_of(tmp_path / "run" / "best"), tensors_of(tmp_path / "two" / "checkpoints")
    assert kept == {name: data for name, data in same.items() if name.startswith("model/")}
    answers = []
    newest = tmp_path / "run" / "checkpoints" / "step-00000005"
    for model in (tmp_path / "run", tmp_path / "two", newest):
        output = tmp_path / "answers.jsonl"
        flags = ["--input", str(folder / "dev.jsonl"), "--output", str(output)]
        where = ["--device", "reference", "--precision", "float64"]
        assert predict.main(["--model", str(model), *flags, *where]) == 0
        answers.append(output.read_bytes())
    assert answers[0] == answers[1] != answers[2]


@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_run_that_is_ended_anywhere_keeps_the_same_model(
    number: int, scored: list[float], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored.extend([0.1, 0.5, 0.4, 0.6, 0.4, 0.4, 0.4, 0.9])
    assert train(folder, tmp_path / "whole") == 0
    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", ends_at(number, killed))
        with pytest.raises(KilledError):
            train(folder, output)
    assert finetune.main(["--resume", "--output-dir", str(output)]) == 0
    for name in ("checkpoints", "best"):
        assert tensors_of(output / name) == tensors_of(tmp_path / "whole" / name)
    assert held_out(output) == held_out(tmp_path / "whole")
    assert steps_of(output / "best") == ["04"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_that_is_killed_while_it_keeps_its_best_model(
    when: str, scored: list[float], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Afterwards it goes on at another rate: what is kept must be of this run, not of the other."""
    scored.extend([0.1, 0.5, 0.4, 0.6, 0.4, 0.4, 0.4, 0.9])
    original = Saver.save_best

    def save_best(self: Saver) -> None:
        if self.state.step == 4 and when == "before":
            killed()
        original(self)
        if self.state.step == 4:
            killed()

    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Saver, "save_best", save_best)
        with pytest.raises(KilledError):
            train(folder, output)
    assert steps_of(output / "checkpoints") == ["04"]
    resumed = ["--resume", "--output-dir", str(output), "--set", "learning_rate=0.1"]
    assert finetune.main(resumed) == 0
    assert [record["step"] for record in held_out(output)] == list(range(1, 8))
    assert steps_of(output / "best") == ["04"]
    assert train(folder, tmp_path / "four", "--max-steps", "4", patience=0) == 0
    same = tensors_of(tmp_path / "four" / "checkpoints")
    assert tensors_of(output / "best") == {k: v for k, v in same.items() if k.startswith("model/")}


def test_a_damaged_checkpoint_does_not_leave_a_best_model_of_later_steps(
    scored: list[float], folder: Path, tmp_path: Path
) -> None:
    """The steps are made again, and the models are kept again."""
    scored.extend([0.1, 0.5, 0.4, 0.6, 0.4, 0.4, 0.4, 0.9])
    output = tmp_path / "run"
    assert train(folder, output, "--max-steps", "4", keep_checkpoints=3) == 0
    assert steps_of(output / "best") == ["04"]
    (output / "checkpoints" / "step-00000004" / "model.safetensors").write_bytes(b"")
    kept = tensors_of(output / "best")
    flags = ["--resume", "--output-dir", str(output), "--max-steps"]
    assert finetune.main([*flags, "3"]) == 0
    assert steps_of(output / "best") == ["02"]
    assert finetune.main([*flags, "4"]) == 0
    assert steps_of(output / "best") == ["04"]
    assert tensors_of(output / "best") == kept


def test_a_run_that_ended_early_ends_again_with_the_same_scores(
    scored: list[float], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scored.extend([0.1, 0.5, 0.4, 0.4, 0.4, 0.9])
    output = tmp_path / "run"
    assert train(folder, output) == 0
    before = {path: path.read_bytes() for path in output.rglob("metrics.jsonl")}
    said = capsys.readouterr().out.splitlines()[0]
    assert finetune.main(["--resume", "--output-dir", str(output)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == said
    assert {path: path.read_bytes() for path in output.rglob("metrics.jsonl")} == before
    assert steps_of(output / "best") == ["02"]


@pytest.mark.parametrize("limit", [1, 3, 5])
def test_an_evaluation_that_a_limit_adds_does_not_count(
    limit: int, scored: list[float], folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    scored.extend([0.2, 0.5, 0.9, 0.4, 0.8, 0.6, 0.9, 0.1, 0.9, 0.1, 0.9])
    changes = {"evaluate_every": 2, "patience": 2}
    assert train(folder, tmp_path / "whole", **changes) == 0
    assert steps_of(tmp_path / "whole" / "best") == ["06"]
    output = tmp_path / "run"
    capsys.readouterr()
    assert train(folder, output, "--max-steps", str(limit), **changes) == 0
    captured = capsys.readouterr()
    if limit == 1:  # none is kept yet
        assert captured.out.startswith("step 1: dev accuracy 0.2, ")
    else:
        assert captured.out.startswith("step 2 (the best so far): dev accuracy 0.5, ")
        assert f"step {limit}: dev accuracy {scored[limit - 1]}, " in captured.err
    assert finetune.main(["--resume", "--output-dir", str(output)]) == 0
    assert held_out(output) == held_out(tmp_path / "whole")
    for name in ("checkpoints", "best"):
        assert tensors_of(output / name) == tensors_of(tmp_path / "whole" / name)


def test_patience_may_be_one_and_without_it_nothing_is_kept(
    scored: list[float], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scored.extend([0.1, 0.5, 0.4, 0.9, 0.3, 0.2])
    assert train(folder, tmp_path / "one", patience=1) == 0
    assert "no better score in 1 evaluation: training" in capsys.readouterr().err
    assert steps_of(tmp_path / "one" / "best") == ["02"]
    assert train(folder, tmp_path / "none", patience=0, steps=6) == 0
    assert [record["step"] for record in held_out(tmp_path / "none")] == list(range(1, 7))
    assert not (tmp_path / "none" / "best").exists()


def test_seeds_that_end_early_are_done(
    scored: list[float], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scored.extend([0.5, 0.4, 0.4, 0.4])
    assert train(folder, tmp_path / "run", "--seeds", "2") == 0
    assert capsys.readouterr().out.startswith("accuracy: mean 0.5, median 0.5")


def test_the_first_score_is_what_is_compared() -> None:
    records = [{"step": 1, "split": "held_out", "f1": 0.5, "precision": 0.9}]
    assert main_scores(records) == [0.5]


def resume_with_other_files(output: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the line with which the run is refused."""
    assert finetune.main(["--resume", "--output-dir", str(output)]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_files_of_others_among_the_best_models_are_not_deleted(
    scored: list[float], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither in a folder of the name of a later model, nor behind a link."""
    scored.extend([0.5, 0.4])
    output, others = tmp_path / "run", tmp_path / "others"
    assert train(folder, output, "--max-steps", "2") == 0
    capsys.readouterr()
    later = output / "best" / "step-00000009"
    later.mkdir()
    (later / "notes.txt").touch()
    message = resume_with_other_files(output, capsys)
    assert f"cannot delete {later}: it holds files of somebody else; move them away" in message
    assert (later / "notes.txt").exists()
    (output / "best").rename(others)
    (output / "best").symlink_to(others)
    message = resume_with_other_files(output, capsys)
    assert f"{output / 'best'} is a symbolic link; replace it by a folder" in message
    assert (others / "step-00000009" / "notes.txt").exists()
