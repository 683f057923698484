"""A fine-tuning run as a person starts it: stop, kill, resume, and what may change."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref import finetune
from electra_ref.training import loop
from electra_ref.training.checkpoint import list_checkpoints
from electra_ref.training.finetuning.data import LabelledData
from electra_ref.training.records import read_records
from tests.small_finetuning import (
    KilledError,
    ends_at,
    held_out,
    killed,
    run_finetune,
    tensors_of,
    write_files,
)

STEPS, AN_EPOCH = 12, 6
KIND = "tagging"

KILLED = """
import os, signal, sys
from electra_ref import finetune
from electra_ref.training import loop
original = loop.train_step
def train_step(config, backend, objective, model, state, batches, processes):
    if state.step == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(config, backend, objective, model, state, batches, processes)
loop.train_step = train_step
finetune.main(sys.argv[1:])
"""

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and labelled data."""
    return write_files(tmp_path_factory.mktemp("files"), KIND, 24)


def train(folder: Path, output: Path, *flags: str, **changes: Any) -> int:
    """Run twelve steps, unless ``changes`` say otherwise."""
    settings = {"batch_size": 4, "epochs": 2, "learning_rate": 0.01, "log_every": 1, **changes}
    paths = folder / "model", KIND, folder / "train.jsonl", folder / "dev.jsonl"
    return run_finetune(*paths, output, *flags, **settings)


def result_of(output: Path) -> tuple[Any, ...]:
    """Return what must not depend on interruptions."""
    records = read_records(output / "metrics.jsonl")
    for record in records:
        record.pop("tokens_per_second", None)
    samples = read_records(output / "samples.jsonl")
    kept = tensors_of(output / "best") if list_checkpoints(output / "best") else None
    return tensors_of(output / "checkpoints"), records, samples, kept


@pytest.fixture(scope="module")
def uninterrupted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "run"
    assert train(folder, output) == 0
    return output


def test_a_run_trains_for_its_epochs_and_says_what_came_of_it(uninterrupted: Path) -> None:
    records = read_records(uninterrupted / "metrics.jsonl")
    assert [r["step"] for r in records if r["split"] == "training"] == list(range(1, STEPS + 1))
    assert [r["step"] for r in held_out(uninterrupted)] == [AN_EPOCH, STEPS]
    assert set(held_out(uninterrupted)[0]) == {"step", "split", "accuracy"}
    samples = read_records(uninterrupted / "samples.jsonl")
    assert {sample["step"] for sample in samples} == {AN_EPOCH, STEPS}
    assert len(samples) == 10
    assert not (uninterrupted / "best").exists()


def test_a_run_that_is_killed_by_the_kernel_resumes_to_the_same_bits(
    folder: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    output = tmp_path / "run"
    arguments: list[str] = []

    def remember(given: list[str]) -> int:
        arguments.extend(given)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "main", remember)
        train(folder, output)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], capture_output=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(finetune.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert finetune.main(["--resume", "--output-dir", str(output)]) == 0
    assert result_of(output) == result_of(uninterrupted)


def test_micro_batches_change_nothing(folder: Path, tmp_path: Path) -> None:
    """Rows of many lengths with dropout: what is drawn for a row depends on its step alone."""
    words = [["a"] * length for length in (1, 30, 2, 12, 3, 20, 25, 4)]
    lines = [json.dumps({"words": one, "tags": list(("ABCD" * 9)[: len(one)])}) for one in words]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    for name in ("model", "dev.jsonl"):
        (tmp_path / name).symlink_to(folder / name)
    vectors = []
    for accumulate in (1, 2, 4, 8):
        output = tmp_path / str(accumulate)
        changes = {"accumulate": accumulate, "batch_size": 8, "attention_dropout": 0.5}
        assert train(tmp_path, output, head="huggingface", **changes) == 0
        tensors = tensors_of(output / "checkpoints")
        vectors.append(np.concatenate([np.frombuffer(tensors[name]) for name in sorted(tensors)]))
    for vector in vectors[1:]:
        np.testing.assert_allclose(vector, vectors[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("number", [0, 6, 11])
def test_a_run_that_is_ended_anywhere_resumes_to_the_same_bits(
    number: int, folder: Path, tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", ends_at(number, killed))
        with pytest.raises(KilledError):
            train(folder, output)
    assert finetune.main(["--resume", "--output-dir", str(output)]) == 0
    assert result_of(output) == result_of(uninterrupted)


def test_the_data_are_hashed_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many checkpoints name their hash."""
    hashed: list[int] = []
    original = LabelledData.digest

    def digest(data: LabelledData) -> str:
        hashed.append(len(data.records))
        return original(data)

    monkeypatch.setattr(LabelledData, "digest", digest)
    assert train(folder, tmp_path / "run", checkpoint_every=1, keep_checkpoints=20) == 0
    assert len(list_checkpoints(tmp_path / "run" / "checkpoints")) == STEPS + 1
    assert sorted(hashed) == [6, 24]


def test_a_run_no_longer_needs_the_model_it_began_with(
    folder: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    moved = tmp_path / "files"
    shutil.copytree(folder, moved)
    assert train(moved, tmp_path / "run", "--max-steps", "1") == 0
    shutil.rmtree(moved / "model")
    assert finetune.main(["--resume", "--output-dir", str(tmp_path / "run")]) == 0
    assert result_of(tmp_path / "run")[0] == result_of(uninterrupted)[0]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_command_that_is_named_goes_on(
    number: signal.Signals, code: int, folder: Path, tmp_path: Path, uninterrupted: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    output = tmp_path / "a run"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", ends_at(7, lambda: os.kill(os.getpid(), number)))
        assert train(folder, output) == code
    captured = capsys.readouterr()
    assert "saved at step 8; to go on:" in captured.err
    assert "accuracy" not in captured.out
    command = shlex.split(captured.err.splitlines()[-1])
    assert command[:3] == ["python", "-m", "electra_ref.finetune"]
    assert finetune.main(command[3:]) == 0
    assert result_of(output) == result_of(uninterrupted)


def test_a_signal_while_data_are_read_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from electra_ref.training.finetuning import session  # noqa: PLC0415
    from electra_ref.training.finetuning.encoder_source import (  # noqa: PLC0415
        find_encoder as original,
    )

    def find_encoder(path: Path) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return original(path)

    monkeypatch.setattr(session, "find_encoder", find_encoder)
    for flags in ((), ("--seeds", "2")):
        assert train(folder, tmp_path / "run", *flags) == 130
        assert not (tmp_path / "run").exists()


def test_limits_of_steps_and_time_end_a_run_with_its_scores(
    folder: Path, tmp_path: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert train(folder, output, "--max-steps", "5") == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step 5: dev accuracy")
    assert lines[-1] == "a limit ended training at step 5 of 12; to go on:"
    resumed = ["--resume", "--output-dir", str(output)]
    assert last == shlex.join(["python", "-m", "electra_ref.finetune", *resumed])
    assert finetune.main([*resumed, "--max-minutes", "1e-9"]) == 0
    captured = capsys.readouterr()
    assert f"resuming {output} at step 5 of 12\n" in captured.err
    assert "step 6: dev accuracy" in captured.out
    assert finetune.main(resumed) == 0
    assert result_of(output) == result_of(uninterrupted)
    assert "to go on" not in capsys.readouterr().out
    assert finetune.main(resumed) == 0
    assert "nothing is left to train: the run is at step 12" in capsys.readouterr().err


@pytest.mark.parametrize("which", ["train", "dev"])
@pytest.mark.parametrize("what", ["words", "tags", "order", "gone"])
def test_other_data_are_refused(
    which: str, what: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = tmp_path / "files"
    shutil.copytree(folder, files)
    output = tmp_path / "run"
    assert train(files, output, "--max-steps", "1") == 0
    path = files / f"{which}.jsonl"
    before = path.read_text()
    lines = before.splitlines(keepends=True)
    one = json.loads(lines[1])
    if what == "gone":
        path.unlink()
    else:
        if what == "words":
            one["words"][0] = "f" if one["words"][0] == "e" else "e"
        elif what == "tags":
            one["tags"][0] = "B" if one["tags"][0] == "A" else "A"
        lines[1] = json.dumps(one) + "\n"
        path.write_text("".join(lines[::-1] if what == "order" else lines))
    tensors = tensors_of(output / "checkpoints")
    resumed = ["--resume", "--output-dir", str(output), "--max-steps", "2"]
    for _ in range(2):  # the second time it is not locked
        capsys.readouterr()
        assert finetune.main(resumed) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert (str(path) if what == "gone" else f"a run on other data ({which})") in error
    assert tensors_of(output / "checkpoints") == tensors
    path.write_text(before)
    assert finetune.main(resumed) == 0


def test_data_that_were_moved_are_named_again(
    folder: Path, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, output = tmp_path / "files", tmp_path / "run"
    shutil.copytree(folder, files)
    assert train(files, output, "--max-steps", "1") == 0
    files.rename(tmp_path / "moved")
    resumed = ["--resume", "--output-dir", str(output)]
    assert finetune.main(resumed) == 2
    message = f"there is no file {files}/train.jsonl any more: --train names where it lies now"
    assert message in capsys.readouterr().err
    train_file, dev_file = (str(tmp_path / "moved" / f"{name}.jsonl") for name in ("train", "dev"))
    before = (output / "environment.json").read_bytes()
    assert finetune.main([*resumed, "--train", dev_file, "--dev", dev_file]) == 2
    assert "belongs to a run on other data (train)" in capsys.readouterr().err
    assert (output / "environment.json").read_bytes() == before
    moved = ["--train", train_file, "--dev", dev_file]
    assert finetune.main([*resumed, *moved, "--max-steps", "2"]) == 0
    assert finetune.main(resumed) == 0  # they are remembered
    assert tensors_of(output / "checkpoints") == tensors_of(uninterrupted / "checkpoints")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed=3", "seed is 0 in .* and cannot become 3"),
        ("max_length=20", "max_length is 40 in .* and cannot become 20"),
        ("layerwise_decay=0.5", "layerwise_decay is 1.0 in .* and cannot become 0.5"),
        ("head=huggingface", "head is 'original' in .* and cannot become 'huggingface'"),
        ("epochs=5", "epochs is 2.0 in .* and cannot become 5"),
        ("word_column=2", "word_column is 1 in .* and cannot become 2"),
        ("task=regression", "task is 'tagging' in .* and cannot become 'regression'"),
        ("steps=3", "steps = 3, but .* is at step 12 already"),
    ],
)
def test_what_is_fixed_is_refused_by_name(
    setting: str, message: str, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (uninterrupted / "config.toml").read_bytes()
    resumed = ["--resume", "--output-dir", str(uninterrupted)]
    assert finetune.main([*resumed, "--set", setting]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, error), error
    assert (uninterrupted / "config.toml").read_bytes() == before


def test_a_finished_run_goes_on_with_more_steps(
    tmp_path: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    shutil.copytree(uninterrupted, output)
    free = ["steps=14", "learning_rate=0.002", "evaluate_every=0", "checkpoint_every=0"]
    flags = [flag for setting in free for flag in ("--set", setting)]
    assert finetune.main(["--resume", "--output-dir", str(output), *flags]) == 0
    assert "from step 12 on: learning_rate = 0.002, before 0.01" in capsys.readouterr().err
    assert [r["step"] for r in held_out(output)] == [6, 12, 14]
    config = (output / "config.toml").read_text()
    assert "evaluate_every = 6 " in config  # zero still counts an epoch
    assert "checkpoint_every = 6 " in config


def test_a_pretraining_run_is_not_continued_here(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert finetune.main(["--resume", "--output-dir", str(folder / "model")]) == 2
        assert "is no fine-tuning run" in capsys.readouterr().err


def test_a_run_that_diverges_says_so_when_it_is_evaluated(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"learning_rate": 1e300, "warmup_proportion": 0.0}
    assert train(folder, tmp_path / "run", "--max-steps", "1", **wrong) == 2
    message = "error: step 1 has diverged (the model computes NaN or infinity): "
    assert message in capsys.readouterr().err
