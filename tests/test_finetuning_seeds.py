"""Several seeds: a run for each, their mean and spread, and which one is kept."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from electra_ref import finetune, predict
from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.training import loop
from electra_ref.training.checkpoint import list_checkpoints
from electra_ref.training.finetuning.run import Files
from electra_ref.training.finetuning.seeds import (
    begin_seeds,
    discard_seeds,
    spread_lines,
    what_is_trained,
)
from electra_ref.training.finetuning.seeds_file import Seeds, have_begun, write_seeds
from electra_ref.training.records import read_records
from tests.file_system_calls import Killed, counting, kill_at, watching
from tests.small_finetuning import (
    SMALLEST,
    KilledError,
    ends_at,
    held_out,
    killed,
    run_finetune,
    tensors_of,
    write_encoder,
    write_files,
)

KIND = "tagging"
SCORES = {"0": {"f1": 0.5, "recall": 1.0}, "1": {"f1": 0.25, "recall": 1.0},
          "2": {"f1": 0.9, "recall": 1.0}}  # fmt: skip

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"), KIND)


def train(folder: Path, output: Path, *flags: str, **changes: Any) -> int:
    settings = {"batch_size": 4, "epochs": 1, "learning_rate": 0.01, "log_every": 1, **changes}
    paths = folder / "model", KIND, folder / "train.jsonl", folder / "dev.jsonl"
    return run_finetune(*paths, output, *flags, **settings)


@pytest.fixture(scope="module")
def three(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("seeds") / "three"
    assert train(folder, output, "--seeds", "3", "--seed", "5") == 0
    return output


def test_mean_median_and_deviation_are_those_of_the_seeds() -> None:
    assert list(spread_lines(SCORES)) == [
        "f1: mean 0.55, median 0.5, standard deviation 0.328 (0.5, 0.25, 0.9)",
        "recall: mean 1, median 1, standard deviation 0 (1, 1, 1)",
    ]
    assert list(spread_lines({"7": {"f1": 0.5}})) == [
        "f1: mean 0.5, median 0.5, standard deviation 0 (0.5)"
    ]


def test_scores_that_only_some_seeds_have_are_left_out() -> None:
    """Of the types of spans, a seed scores those that it predicts besides those that are there."""
    scores = {
        "0": {"f1": 0.5, "precision": 0.5, "recall": 1.0, "f1_LOC": 0.0, "f1_PER": 0.5},
        "1": {"f1": 0.5, "precision": 0.5, "recall": 1.0, "f1_PER": 0.5},
    }
    for both in (scores, dict(reversed(scores.items()))):
        names = [line.partition(":")[0] for line in spread_lines(both)]
        assert names == ["f1", "precision", "recall", "f1_PER"]


def test_each_seed_is_a_run_as_it_would_be_alone(three: Path, folder: Path, tmp_path: Path) -> None:
    assert train(folder, tmp_path / "alone", "--seed", "6") == 0
    records = [
        read_records(path / "metrics.jsonl") for path in (three / "seed-6", tmp_path / "alone")
    ]
    for record in (*records[0], *records[1]):
        record.pop("tokens_per_second", None)
    assert records[0] == records[1]
    assert sorted(path.name for path in three.iterdir()) == [
        "config.toml", "seed-5", "seed-6", "seed-7", "seeds.json",
    ]  # fmt: skip


def test_the_seed_decides_about_the_head_and_the_steps_not_about_the_encoder(
    three: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [
        [r["loss"] for r in read_records(three / f"seed-{seed}" / "metrics.jsonl")
         if r["split"] == "training"]
        for seed in (5, 6, 7)
    ]  # fmt: skip
    assert len({tuple(one) for one in losses}) == 3
    heads, encoders = set(), set()
    for seed in (5, 6):
        run = tmp_path / f"seed-{seed}"
        with monkeypatch.context() as patch:
            patch.setattr(loop, "train_step", ends_at(0, killed, seed))
            with pytest.raises(KilledError):
                train(folder, run, "--seed", str(seed))
        tensors = tensors_of(run / "checkpoints")
        own = {name: data for name, data in tensors.items() if name.startswith("model/task.")}
        heads.add(str(own))
        encoders.add(str({name: data for name, data in tensors.items() if name not in own}))
    assert len(heads) == 2
    assert len(encoders) == 1


def test_the_best_model_is_kept_and_used(
    three: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = json.loads((three / "seeds.json").read_text())
    assert seeds["seeds"] == [5, 6, 7]
    last = {seed: held_out(three / f"seed-{seed}")[-1]["accuracy"] for seed in (5, 6, 7)}
    assert {int(seed): scores["accuracy"] for seed, scores in seeds["scores"].items()} == last
    assert last[seeds["best"]] == max(last.values())
    for seed in (5, 6, 7):
        run = three / f"seed-{seed}"
        assert bool(list_checkpoints(run / "checkpoints")) == (seed == seeds["best"])
        assert (run / "metrics.jsonl").exists()
    answers = []
    for model in (three, three / f"seed-{seeds['best']}"):
        flags = ["--model", str(model), "--input", str(folder / "dev.jsonl"), "--device",
                 "reference", "--output", str(tmp_path / "out.jsonl")]  # fmt: skip
        assert predict.main(flags) == 0
        answers.append((tmp_path / "out.jsonl").read_bytes())
    assert answers[0] == answers[1]
    other = next(seed for seed in (5, 6, 7) if seed != seeds["best"])
    capsys.readouterr()
    assert predict.main(["--model", str(three / f"seed-{other}")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_first_score_decides_and_the_first_seed_wins_a_tie(tmp_path: Path) -> None:
    from electra_ref.training.finetuning import seeds as module  # noqa: PLC0415
    from electra_ref.training.finetuning.seeds_file import Seeds, read_seeds  # noqa: PLC0415

    def seeds_with(*firsts: float) -> Seeds:
        scores = {str(i): {"f1": first, "z": -first} for i, first in enumerate(firsts)}
        for seed in range(len(firsts)):
            (tmp_path / f"seed-{seed}" / "checkpoints").mkdir(parents=True, exist_ok=True)
        return Seeds(list(range(len(firsts))), scores, None, KIND, {})

    for firsts, best in (((0.1, 0.3, 0.2), 1), ((0.1, 0.3, 0.3), 1), ((0.5, 0.3, 0.2), 0)):
        module._keep_best(tmp_path, seeds_with(*firsts))
        found = read_seeds(tmp_path)
        assert found is not None
        assert found.best == best
        left = [seed for seed in range(3) if (tmp_path / f"seed-{seed}" / "checkpoints").exists()]
        assert left == [best]


@pytest.mark.parametrize("seed", [5, 6, 7])
@pytest.mark.parametrize("number", [0, 2])
def test_seeds_that_are_ended_in_between_go_on_to_the_same_end(
    seed: int, number: int, folder: Path, three: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    output = tmp_path / "three"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", ends_at(number, killed, seed))
        with pytest.raises(KilledError):
            train(folder, output, "--seeds", "3", "--seed", "5")
    capsys.readouterr()
    assert predict.main(["--model", str(output)]) == 2
    assert "not all seeds" in capsys.readouterr().err
    assert finetune.main(["--resume", "--output-dir", str(output)]) == 0
    found = [json.loads((path / "seeds.json").read_text()) for path in (output, three)]
    assert found[0] == found[1]
    best = f"seed-{found[0]['best']}"
    assert tensors_of(output / best / "checkpoints") == tensors_of(three / best / "checkpoints")
    said = capsys.readouterr().out
    assert said.startswith("accuracy: mean ")
    assert f"--model {output} " in said


def test_after_a_signal_the_command_for_all_seeds_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    output = tmp_path / "seeds"
    with monkeypatch.context() as patch:
        stop = ends_at(1, lambda: os.kill(os.getpid(), signal.SIGINT), seed=1)
        patch.setattr(loop, "train_step", stop)
        assert train(folder, output, "--seeds", "2") == 130
    captured = capsys.readouterr()
    command = shlex.split(captured.err.splitlines()[-1])
    assert command[3:] == ["--resume", "--output-dir", str(output)]
    assert "mean" not in captured.out
    assert finetune.main(command[3:]) == 0
    assert json.loads((output / "seeds.json").read_text())["scores"].keys() == {"0", "1"}


@pytest.mark.parametrize("limit", [("--max-steps", "2"), ("--max-minutes", "1e-9")])
def test_a_seed_that_a_limit_ends_is_not_done(
    limit: tuple[str, str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "seeds"
    assert train(folder, output, "--seeds", "2", *limit) == 0
    captured = capsys.readouterr()
    assert "mean" not in captured.out
    command = shlex.split(captured.err.splitlines()[-1])[3:]
    assert json.loads((output / "seeds.json").read_text())["scores"] == {}
    assert not (output / "seed-1").exists()
    assert finetune.main(command) == 0
    assert capsys.readouterr().out.startswith("accuracy: mean ")


@pytest.mark.parametrize("newest", ["one", "several"])
def test_the_newest_is_resumed_whether_one_run_or_several(
    newest: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Seeds are as new as the seed that was trained last."""
    monkeypatch.chdir(tmp_path)
    for name in ("other", "several"):
        assert train(folder, Path("runs") / name, "--seeds", "2", "--max-steps", "1") == 0
    assert train(folder, Path("runs/one"), "--max-steps", "1") == 0
    for path in Path("runs").glob("**/*"):
        os.utime(path, (1, 1))
    used = {"one": "one/.lock", "several": "several/seed-0/.lock"}[newest]
    os.utime(Path("runs") / used, (2, 2))
    capsys.readouterr()
    assert finetune.main(["--resume"]) == 0
    assert f"the model is in runs/{newest};" in capsys.readouterr().out


def test_seeds_of_which_none_has_begun_are_resumed(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process may have been killed before the first run, or before it wrote all of its files."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        assert train(folder, Path("runs") / name, "--seeds", "1", "--max-steps", "1") == 0
        shutil.rmtree(Path("runs") / name / "seed-0")
        os.utime(Path("runs") / name / "seeds.json", (1, 1 + (name == "b")))
    shutil.copytree("runs/a", "runs/d")
    Path("runs/d/config.toml").unlink()
    os.utime("runs/d/seeds.json")
    capsys.readouterr()
    assert finetune.main(["--resume"]) == 0
    assert "the model is in runs/b;" in capsys.readouterr().out


def killed_in_its_second_seed(
    count: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """Return a copy of ``folder``, and where a command for ``count`` seeds was killed."""
    shutil.copytree(folder, tmp_path / "files")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", ends_at(1, killed, seed=1))
        with pytest.raises(KilledError):
            train(tmp_path / "files", tmp_path / "seeds", "--seeds", str(count))
    return tmp_path / "files", tmp_path / "seeds"


@pytest.mark.parametrize("what", ["model", "train.jsonl", "dev.jsonl"])
def test_all_seeds_begin_with_the_same_model_and_data(
    what: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Else the mean over the seeds would be that of several models."""
    folder, output = killed_in_its_second_seed(3, folder, tmp_path, monkeypatch)
    if what == "model":
        shutil.rmtree(folder / "model")
        write_encoder(folder / "model", 1, **SMALLEST)
    else:
        lines = (folder / what).read_text().splitlines()
        (folder / what).write_text("\n".join(lines[::-1]))
        assert finetune.main(["--resume", "--output-dir", str(output)]) == 2  # seed 1 began
        shutil.rmtree(output / "seed-1")
    resumed = ["--resume", "--output-dir", str(output)]
    message = refused(capsys, lambda: finetune.main(resumed))
    assert f"{what} has changed since the run in {output}/seed-0 was begun: put it back" in message
    assert not (output / ("seed-2" if what == "model" else "seed-1")).exists()
    assert json.loads((output / "seeds.json").read_text())["best"] is None


def test_the_last_seed_needs_no_model_any_more(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, output = killed_in_its_second_seed(2, folder, tmp_path, monkeypatch)
    shutil.rmtree(folder / "model")
    assert finetune.main(["--resume", "--output-dir", str(output)]) == 0


def test_data_of_several_seeds_may_be_moved(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    files, output = tmp_path / "files", tmp_path / "seeds"
    shutil.copytree(folder, files)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", ends_at(1, killed, seed=0))
        with pytest.raises(KilledError):
            train(files, output, "--seeds", "3")
    files.rename(tmp_path / "moved")
    resumed = ["--resume", "--output-dir", str(output)]
    assert "--train names where it lies now" in refused(capsys, lambda: finetune.main(resumed))
    names = {"model": "model", "train": "train.jsonl", "dev": "dev.jsonl"}
    moved = [part for key, name in names.items()
             for part in (f"--{key}", str(tmp_path / "moved" / name))]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", ends_at(1, killed, seed=1))
        with pytest.raises(KilledError):
            finetune.main([*resumed, *moved])
    assert finetune.main(resumed) == 0  # they are remembered
    assert json.loads((output / "seeds.json").read_text())["best"] is not None


def begin_two(folder: Path) -> None:
    begin_seeds(folder, FinetuningConfig(task=KIND), Files("model", "train", "dev"), 2)


def calls_to_begin(folder: Path) -> list[str]:
    """Return the names of the calls that change the disk."""
    calls: list[str] = []
    with watching(counting(calls)):
        begin_two(folder)
    return calls


def test_seeds_that_are_killed_before_they_begin_can_begin_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process killed at any change of the disk leaves what the same command takes for its own."""
    left = set()
    for number in range(len(calls_to_begin(tmp_path / "whole"))):
        path = tmp_path / str(number)
        with pytest.raises(Killed), watching(kill_at(number)):
            begin_two(path)
        left.add(have_begun(path))
        if not have_begun(path):
            resumed = ["--resume", "--output-dir", str(path)]
            message = refused(capsys, lambda flags=resumed: finetune.main(flags))  # type: ignore[misc]
            is_marked = (path / "seeds.json").exists()
            assert is_marked == ("were stopped before they began; start them again" in message)
            discard_seeds(path, folder_too=False)
            begin_two(path)
        assert what_is_trained(path) == what_is_trained(tmp_path / "whole")
    assert left == {False, True}


@pytest.mark.parametrize("flags", [("--seeds", "1"), ()])
def test_a_folder_of_seeds_that_never_began_is_used(
    flags: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "runs"
    calls = calls_to_begin(tmp_path / "whole")
    last_write = max(number for number, name in enumerate(calls) if name == "write")
    with pytest.raises(Killed), watching(kill_at(last_write)):
        begin_two(path)
    assert len(list(path.iterdir())) == 2  # the marker, and half of another file
    assert train(folder, path, *flags, "--max-steps", "1") == 0
    assert (path / "seeds.json").exists() == bool(flags)


def refused(capsys: pytest.CaptureFixture[str], run: Callable[[], int]) -> str:
    capsys.readouterr()
    assert run() == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_seeds_are_compared_so_no_setting_changes(
    three: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resumed = ["--resume", "--output-dir", str(three), "--set", "learning_rate=1"]
    assert "no setting can change" in refused(capsys, lambda: finetune.main(resumed))


def test_a_folder_of_several_seeds_is_refused_with_what_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is read: the folder has no more than its two files, or a run."""
    for name in ("config.toml", "seed-1"):
        path = tmp_path / name
        path.mkdir()
        write_seeds(path, Seeds([0, 1], {}, None, KIND, {}))
        (path / name).mkdir()
        for flags in (("--seeds", "2"), ()):
            assert train(folder, path, *flags) == 2
            said = capsys.readouterr().err
            assert f"{path} holds runs of several seeds, which are never overwritten; go on" in said
        assert {entry.name for entry in path.iterdir()} == {"seeds.json", name}


def test_a_folder_that_holds_something_else_is_refused(
    folder: Path, three: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").touch()
    said = {tmp_path: "holds something else", three: "holds runs of several seeds"}
    for output, what in said.items():
        before = sorted(output.rglob("*"))
        message = refused(capsys, lambda to=output: train(folder, to, "--seeds", "2"))  # type: ignore[misc]
        assert what in message
        assert sorted(output.rglob("*")) == before


@pytest.mark.parametrize("exists", [False, True])
def test_seeds_that_cannot_begin_leave_nothing(
    exists: bool, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "seeds"
    if exists:
        output.mkdir()
    largest = str(2**63 - 1)
    for flags in (("--seeds", "2", "--seed", largest), ("--seeds", "0"), ("--seeds", "2", "--set",
                  "precision=bfloat16")):  # fmt: skip
        message = refused(capsys, lambda flags=flags: train(folder, output, *flags))  # type: ignore[misc]
        assert message
        assert output.exists() == exists
        assert not exists or not any(output.iterdir())
