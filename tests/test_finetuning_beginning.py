"""A fine-tuning run that is killed before its first checkpoint begins as it would have begun."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from electra_ref import finetune
from electra_ref.errors import UserError
from electra_ref.training import run_directory, saving
from electra_ref.training.checkpoint import list_checkpoints
from electra_ref.training.finetuning import run, session
from electra_ref.training.loop import Trainer
from electra_ref.training.records import read_records
from electra_ref.training.run_directory import RunDirectory
from tests.small_finetuning import (
    SMALLEST,
    KilledError,
    killed,
    run_finetune,
    tensors_of,
    write_encoder,
    write_files,
)

KIND = "tagging"
SEEDS = ("--seeds", "2")

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and labelled data."""
    return write_files(tmp_path_factory.mktemp("files"), KIND)


def train(folder: Path, output: Path, *flags: str) -> int:
    settings: dict[str, Any] = {"batch_size": 4, "epochs": 1, "learning_rate": 0.01,
                                "log_every": 1}  # fmt: skip
    paths = folder / "model", KIND, folder / "train.jsonl", folder / "dev.jsonl"
    return run_finetune(*paths, output, *flags, **settings)


def resume(output: Path, *flags: str) -> int:
    return finetune.main(["--resume", "--output-dir", str(output), *flags])


def result_of(output: Path) -> dict[str, Any]:
    """Return the records of all runs in ``output``, and the tensors where they are kept."""
    found: dict[str, Any] = {}
    for metrics in sorted(output.rglob("metrics.jsonl")):
        records = read_records(metrics)
        for record in records:
            record.pop("tokens_per_second", None)
        checkpoints = metrics.parent / "checkpoints"
        kept = tensors_of(checkpoints) if list_checkpoints(checkpoints) else None
        found[str(metrics.relative_to(output))] = records, kept
    return found


def is_killed_at(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, work: Callable[[], int]
) -> None:
    """Do ``work``, which is killed where it calls ``name``: nothing is taken back."""

    def discard(run: RunDirectory, *, folder: bool) -> None:
        del folder
        run.close()

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "discard", discard)
        patch.setattr(session, "discard_seeds", lambda *_, **__: None)
        patch.setattr(module, name, lambda *_: killed())
        with pytest.raises(KilledError):
            work()


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """What a run with some flags ends with that was never killed."""
    known: dict[tuple[str, ...], Any] = {}

    def result_with(*flags: str) -> Any:
        if flags not in known:
            output = tmp_path_factory.mktemp("whole") / "run"
            assert train(folder, output, *flags) == 0
            known[flags] = result_of(output)
        return known[flags]

    return result_with


@pytest.mark.parametrize(
    ("module", "name", "flags"),
    [
        (run_directory, "write_json_atomically", SEEDS),
        (run_directory, "write_text_atomically", SEEDS),
        (run, "record_data", SEEDS),
        (Trainer, "save", SEEDS),
        (run, "record_data", ()),
        (run, "copy_model", ()),
        (Trainer, "save", ()),
        (Trainer, "save", ("--from-scratch",)),
    ],
)
def test_a_run_that_is_killed_before_its_first_checkpoint_ends_with_the_same_bits(
    module: object, name: str, flags: tuple[str, ...], folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, whole: Callable[..., Any],
) -> None:  # fmt: skip
    output = tmp_path / "killed"
    is_killed_at(monkeypatch, module, name, lambda: train(folder, output, *flags))
    assert resume(output) == 0
    assert result_of(output) == whole(*flags)


@pytest.mark.parametrize("flags", [(), SEEDS])
def test_a_run_whose_first_checkpoint_cannot_be_saved_leaves_nothing(
    flags: tuple[str, ...], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may be full then; the same command works when there is space."""

    def refuse(*_: Any, **__: Any) -> None:
        raise UserError("no space left")

    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(saving, "save_checkpoint", refuse)
        assert train(folder, output, *flags) == 2
    assert not output.exists()
    assert train(folder, output, *flags) == 0


def test_it_may_be_killed_again_and_take_other_free_settings(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Callable[..., Any]
) -> None:
    output = tmp_path / "killed"
    is_killed_at(monkeypatch, run, "record_data", lambda: train(folder, output))
    is_killed_at(monkeypatch, Trainer, "save", lambda: resume(output))
    assert resume(output, "--set", "learning_rate=0.02") == 0
    assert result_of(output) == whole("--set", "learning_rate=0.02")
    assert "learning_rate = 0.02" in (output / "config.toml").read_text()


def other_sizes(folder: Path) -> None:
    shutil.rmtree(folder / "model")
    write_encoder(folder / "model", **{**SMALLEST, "hidden_size": 12})


def other_vocabulary(folder: Path) -> None:
    """Two words change places in the model's vocabulary."""
    path = folder / "model" / "vocab.txt"
    words = path.read_text().splitlines()
    words[-2:] = words[:-3:-1]
    path.write_text("".join(f"{word}\n" for word in words))
    (folder / "model" / "data.json").write_text("{}")


def other_labels(folder: Path) -> None:
    for name in ("train.jsonl", "dev.jsonl"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace('"A"', '"E"'))


def more_examples(folder: Path) -> None:
    text = (folder / "train.jsonl").read_text()
    (folder / "train.jsonl").write_text(text + text)


def other_numbers(folder: Path) -> None:
    """The model is trained on: its sizes and words are the same."""
    shutil.rmtree(folder / "model")
    write_encoder(folder / "model", 1, **SMALLEST)


def other_word(folder: Path) -> None:
    """As many words and tokens as before."""
    first, *others = (folder / "train.jsonl").read_text().splitlines()
    record = json.loads(first)
    record["words"][0] = "h" if record["words"][0] == "g" else "g"
    (folder / "train.jsonl").write_text("\n".join([json.dumps(record), *others]))


def longer_words(folder: Path) -> None:
    """As many sentences with as many words, and one of these has more pieces."""
    first, *others = (folder / "dev.jsonl").read_text().splitlines()
    record = json.loads(first)
    record["words"][0] += "?!"
    (folder / "dev.jsonl").write_text("\n".join([json.dumps(record), *others]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_sizes, "hidden_size of the model in .*/model is 12, and .* has 8"),
        (other_vocabulary, "the model in .*/model has another vocabulary"),
        (other_labels, r"train\.jsonl has other labels than"),
        (more_examples, r"train\.jsonl has changed since the run in .* was begun"),
        (other_numbers, r"model has changed since the run in .* was begun"),
        (other_word, r"train\.jsonl has changed since the run in .* was begun"),
        (longer_words, r"dev\.jsonl has changed since the run in .* was begun"),
    ],
)
def test_a_model_or_data_that_became_others_are_refused(
    change: Callable[[Path], None], message: str, folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(folder, tmp_path / "files")
    folder, output = tmp_path / "files", tmp_path / "killed"
    is_killed_at(monkeypatch, Trainer, "save", lambda: train(folder, output))
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    change(folder)
    assert resume(output) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, error), error
    assert "start a new run in another --output-dir" in error
    assert before == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}


@pytest.mark.parametrize("flags", [(), SEEDS])
def test_a_run_whose_checkpoints_are_gone_keeps_its_records(
    flags: tuple[str, ...], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert train(folder, output, *flags) == 0
    if flags:
        best = json.loads((output / "seeds.json").read_text())["best"]
        output /= f"seed-{1 - best}"
    else:
        shutil.rmtree(output / "checkpoints")
    before = (output / "metrics.jsonl").read_bytes()
    for more in ((), ("--set", "steps=5")):
        assert resume(output, *more) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"goes to step 3, but there is no checkpoint in {output / 'checkpoints'}" in error
        assert "put it back, or start a new run in another --output-dir" in error
        assert (output / "metrics.jsonl").read_bytes() == before


def test_a_seed_that_lost_its_settings_is_not_trained_anew(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "seeds"
    assert train(folder, output, *SEEDS, "--max-steps", "1") == 0
    (output / "seed-0" / "config.toml").unlink()
    tensors = tensors_of(output / "seed-0" / "checkpoints")
    assert resume(output) == 2
    assert "has lost its config.toml: put back a copy" in capsys.readouterr().err
    assert tensors_of(output / "seed-0" / "checkpoints") == tensors
