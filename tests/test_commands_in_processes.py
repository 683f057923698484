"""The commands train and finetune in several processes: they leave what one process leaves.

The processes are threads here: see ``threaded_mpi``.
"""

from __future__ import annotations

import itertools
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref import finetune, train
from electra_ref.command_line import reporting
from electra_ref.errors import UserError
from electra_ref.message_passing import MpiProcesses
from electra_ref.processes import ALONE, Processes
from electra_ref.text import shards, sharing, tokenizing
from electra_ref.text.prepare import prepare
from electra_ref.text.workers import do_all
from electra_ref.training import completing, opening
from electra_ref.training.completing import Limits
from electra_ref.training.environment import describe_environment
from electra_ref.training.finetuning import run as fine_tuning
from electra_ref.training.loop import Trainer
from electra_ref.training.pretraining import preparing
from electra_ref.training.pretraining import run as pretraining
from electra_ref.training.records import read_records
from electra_ref.training.run_directory import RunDirectory
from electra_ref.training.stop_signals import StoppedError, StopSignals
from tests.small_finetuning import (
    SMALLEST,
    KilledError,
    held_out,
    killed,
    settings_flags,
    tensors_of,
    write_encoder,
    write_examples,
)
from tests.small_runs import SETTINGS, write_corpus
from tests.threaded_mpi import in_processes
from tests.threaded_nccl import Gpus, enter, install

pytestmark = pytest.mark.usefixtures("quick")
REFERENCE = ("--device", "reference", "--precision", "float64")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache and a working folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run_train(size: int, *arguments: str, gpus: Gpus | None = None) -> list[int]:
    """Run the command in ``size`` processes; return its exit codes."""

    def command(own: Processes) -> int:
        if gpus is not None and isinstance(own, MpiProcesses):
            enter(gpus, own)
        return train.train(train.build_parser().parse(arguments), own)

    return [command(ALONE)] if size == 1 else in_processes(size, command)


def run_finetune(size: int, *arguments: str) -> list[int]:
    """Run the command in ``size`` processes; return its exit codes."""

    def command(own: Processes) -> int:
        return finetune.finetune(finetune.build_parser().parse(arguments), own)

    return [command(ALONE)] if size == 1 else in_processes(size, command)


def pretraining_arguments(output: str, **changes: Any) -> list[str]:
    settings = {**SETTINGS, "batch_size": 6, "accumulate": 3, "steps": 6, "evaluate_every": 3,
                "checkpoint_every": 3, **changes}  # fmt: skip
    settings["initial_attention"] = "random"  # the networks are too narrow for the preset's own
    settings["preset"] = None
    given = {key: value for key, value in settings.items() if value is not None}
    return ["--output-dir", output, *settings_flags(given)]


def what_is_left(run: Path) -> tuple[Any, ...]:
    """Return tensors, metrics without times and closing evaluations, samples, facts of the data."""
    metrics = [
        {key: value for key, value in record.items() if key != "tokens_per_second"}
        for record in read_records(run / "metrics.jsonl")
        if record["split"] == "training" or record["step"] % 3 == 0
    ]
    samples = [one for one in read_records(run / "samples.jsonl") if one["step"] % 3 == 0]
    facts = (run / "data.json").read_text(), (run / "vocab.txt").read_text()
    assert metrics
    return tensors_of(run / "checkpoints"), metrics, samples, facts


def test_pre_training_leaves_the_same_for_any_number_of_processes(tmp_path: Path) -> None:
    corpus = str(write_corpus(tmp_path / "corpus.txt"))
    for size in (1, 2, 3):
        arguments = pretraining_arguments(f"run-{size}")
        assert run_train(size, "--corpus", corpus, *arguments) == [0] * size
    expected = what_is_left(tmp_path / "run-1")
    assert what_is_left(tmp_path / "run-2") == expected
    assert what_is_left(tmp_path / "run-3") == expected
    assert expected[1][-1]["mlm_loss"] > 0


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """Two, then three with other settings, then one."""
    corpus = str(write_corpus(tmp_path / "corpus.txt"))
    arguments = ["--corpus", corpus, *pretraining_arguments("run")]
    assert run_train(2, *arguments, "--max-steps", "2") == [0, 0]
    again = ["--resume", "--output-dir", "run"]
    assert run_train(3, *again, "--max-steps", "4", "--set", "log_every=2") == [0] * 3
    assert run_train(1, *again, "--set", "log_every=1") == [0]
    assert run_train(1, "--corpus", corpus, *pretraining_arguments("straight")) == [0]
    left, straight = what_is_left(tmp_path / "run"), what_is_left(tmp_path / "straight")
    assert left[0] == straight[0]
    assert left[2:] == straight[2:]
    assert [one["step"] for one in left[1] if one["split"] == "training"] == [1, 2, 4, 5, 6]
    with pytest.raises(UserError, match="cannot change in a run that has begun: start 3 at most"):
        run_train(4, *again, "--set", "steps=9")


def test_a_run_that_begins_with_a_model_begins_with_it_in_all_processes(tmp_path: Path) -> None:
    corpus = str(write_corpus(tmp_path / "corpus.txt"))
    assert run_train(1, "--corpus", corpus, *pretraining_arguments("model")) == [0]
    for size in (1, 3):
        given = ["--corpus", corpus, "--init-from", "model", *REFERENCE, "--output-dir", f"{size}"]
        settings = settings_flags({"batch_size": 6, "accumulate": 3, "steps": 2, "seed": 5})
        assert run_train(size, *given, *settings) == [0] * size
    assert tensors_of(tmp_path / "3" / "checkpoints") == tensors_of(tmp_path / "1" / "checkpoints")


def test_bad_data_are_an_error_of_all_and_nothing_is_left(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.full((3, 4), 0.5))
    with pytest.raises(UserError, match=r"ids\.npy"):
        run_train(2, "--tokens", "ids.npy", *pretraining_arguments("run"))
    assert not (tmp_path / "run").exists()


def test_no_process_begins_before_all_have_loaded_their_modules() -> None:
    loaded: list[int] = []

    def command(own: Processes) -> list[int]:
        loaded.append(own.rank)
        with reporting(processes=own):
            return sorted(loaded)

    assert in_processes(3, command) == [[0, 1, 2]] * 3


def test_folders_are_chosen_by_the_first_process(tmp_path: Path) -> None:
    corpus = str(write_corpus(tmp_path / "corpus.txt"))
    given = [word for word in pretraining_arguments("") if word not in ("--output-dir", "")]
    assert run_train(2, "--corpus", corpus, *given, "--max-steps", "1") == [0, 0]
    (run,) = (tmp_path / "runs").iterdir()
    assert run_train(2, "--resume", "--max-steps", "2") == [0, 0]
    assert read_records(run / "metrics.jsonl")[-1]["step"] == 2


def test_a_signal_while_data_are_prepared_stops_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = str(write_corpus(tmp_path / "corpus.txt"))

    def stopped(*_: Any, **__: Any) -> Any:
        raise StoppedError("the command that goes on")

    monkeypatch.setattr(preparing, "prepare", stopped)
    assert run_train(2, "--corpus", corpus, *pretraining_arguments("run")) == [0, 0]
    assert (tmp_path / "run" / "config.toml").exists()


def test_a_signal_to_one_that_opens_the_data_stops_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process has prepared them, when another one is asked to stop."""
    begun = itertools.count()

    def stopped(*rest: Any, **options: Any) -> Any:
        if next(begun) == 0:
            return prepare(*rest, **options)
        raise StoppedError("the command that goes on")

    corpus = str(write_corpus(tmp_path / "corpus.txt"))
    monkeypatch.setattr(preparing, "prepare", stopped)
    assert run_train(2, "--corpus", corpus, *pretraining_arguments("run")) == [0, 0]
    assert (tmp_path / "run" / "config.toml").exists()
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.fixture
def late_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last step, when all have agreed that there is no signal, the second gets one."""

    def train_to_end(trainer: Trainer, stop: StopSignals, limits: Limits) -> int:
        def agree(own: Processes, is_late: bool = False) -> bool:
            answer = StopSignals.agree(stop, own, is_late)
            if own.rank == 1:
                stop.requested = signal.SIGTERM
            return answer

        first_step = completing.train_to_end(trainer, stop, limits)
        monkeypatch.setattr(stop, "agree", agree)
        return first_step

    for module in (pretraining, fine_tuning):
        monkeypatch.setattr(module, "train_to_end", train_to_end)


@pytest.mark.usefixtures("late_signal")
def test_a_signal_after_the_last_agreement_waits_for_the_next(tmp_path: Path) -> None:
    corpus = str(write_corpus(tmp_path / "corpus.txt"))
    assert run_train(2, "--corpus", corpus, *pretraining_arguments("run")) == [143, 143]
    assert read_records(tmp_path / "run" / "metrics.jsonl")[-1]["split"] == "held_out"


def test_gpus_leave_the_same_for_any_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for CuPy and NCCL; a run goes on with another number of GPUs."""
    corpus = ["--corpus", str(write_corpus(tmp_path / "corpus.txt")), "--device", "gpu"]
    gpus = install(monkeypatch)
    for size in (1, 3):
        arguments = pretraining_arguments(f"run-{size}", steps=3, evaluation_batches=1)
        assert run_train(size, *corpus, *arguments, gpus=gpus) == [0] * size
    expected = what_is_left(tmp_path / "run-1")
    assert what_is_left(tmp_path / "run-3") == expected
    assert [len(gpus.calls[rank]) > 0 for rank in range(4)] == [True, True, True, False]
    again = ["--resume", "--output-dir", "run-1", "--set", "steps=4"]
    assert run_train(2, *again, gpus=gpus) == [0, 0]


@pytest.fixture
def tokenized(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The keys of the shards that each process takes; shards are small."""
    parts: list[list[str]] = []
    for module in (shards, tokenizing):
        monkeypatch.setattr(module, "SHARD_BYTES", 1000)

    def noting(begin: Any, tasks: Any, workers: int, on_amount: Any) -> Any:
        found = do_all(begin, tasks, workers, on_amount)
        parts.append([shard.key for shard in found])
        return found

    monkeypatch.setattr(sharing, "do_all", noting)
    return parts


def test_processes_share_the_tokenizing(
    tokenized: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every shard is tokenized once; the cache is that of one process."""
    corpus = str(write_corpus(tmp_path / "corpus.txt"))
    for size in (1, 3):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache-{size}"))
        arguments = pretraining_arguments(f"run-{size}", steps=1)
        assert run_train(size, "--corpus", corpus, *arguments) == [0] * size
        assert len(tokenized) == (0 if size == 1 else size)
    assert what_is_left(tmp_path / "run-3") == what_is_left(tmp_path / "run-1")
    names = {path.name for path in (tmp_path / "cache-3/electra_ref").glob("shard-*")}
    assert names == {path.name for path in (tmp_path / "cache-1/electra_ref").glob("shard-*")}
    assert sorted(key for part in tokenized for key in part) == sorted(names)
    assert len(names) > 3
    assert all(tokenized)


@pytest.mark.usefixtures("tokenized")
def test_text_that_one_process_cannot_tokenize_is_an_error_of_all(tmp_path: Path) -> None:
    lines = ['{"text": "some words of a document"}\n'] * 400
    (tmp_path / "corpus.jsonl").write_text("".join([*lines, "no object\n"]))
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "some", "words"])
    )
    arguments = pretraining_arguments("run", max_vocab_size=None)
    with pytest.raises(UserError, match=r"corpus\.jsonl.* line 401"):
        run_train(3, "--corpus", "corpus.jsonl", "--vocab", str(vocabulary), *arguments)
    assert not (tmp_path / "run").exists()


def test_more_processes_than_micro_batches_are_refused(tmp_path: Path) -> None:
    corpus = str(write_corpus(tmp_path / "corpus.txt"))
    with pytest.raises(UserError, match=r"too few for 3 processes: --set accumulate=3$"):
        run_train(3, "--corpus", corpus, *pretraining_arguments("run", accumulate=2))
    assert not (tmp_path / "run").exists()


def test_processes_with_other_versions_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = itertools.count()

    def describe(**facts: Any) -> dict[str, Any]:
        return {**describe_environment(**facts), "python": f"4.{next(numbers)}"}

    monkeypatch.setattr(opening, "describe_environment", describe)
    corpus = str(write_corpus(tmp_path / "corpus.txt"))
    with pytest.raises(UserError, match=r"python is 4\.[01] in process 0, 4\.[01] in process 1"):
        run_train(2, "--corpus", corpus, *pretraining_arguments("run"))
    assert not (tmp_path / "run").exists()


def test_processes_with_other_data_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare_data(run: Any, *rest: Any, **options: Any) -> Any:
        data = preparing.prepare_data(run, *rest, **options)
        return data._replace(key=f"of {rest[-1].rank}")

    monkeypatch.setattr(pretraining, "prepare_data", prepare_data)
    corpus = str(write_corpus(tmp_path / "corpus.txt"))
    with pytest.raises(UserError, match=r"data is of 0 in process 0, of 1 in process 1"):
        run_train(2, "--corpus", corpus, *pretraining_arguments("run"))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_encoder(tmp_path / "model", **SMALLEST)
    for kind in ("multiple-choice", "tagging"):
        write_examples(tmp_path / f"{kind}-train", kind, 7, 0)
        write_examples(tmp_path / f"{kind}-dev", kind, 5, 1)
    return tmp_path


def finetuning_arguments(kind: str, output: str, *flags: str, **changes: Any) -> list[str]:
    settings = {"batch_size": 4, "accumulate": 4, "learning_rate": 0.01, "log_every": 1,
                "epochs": 3, **changes}  # fmt: skip
    return [
        *("--model", "model", "--task", kind, "--output-dir", output, *REFERENCE),
        *("--train", f"{kind}-train.jsonl", "--dev", f"{kind}-dev.jsonl"),
        *settings_flags(settings), *flags,
    ]  # fmt: skip


def lines_of(run: Path) -> list[Any]:
    return [
        {key: value for key, value in record.items() if key != "tokens_per_second"}
        for record in read_records(run / "metrics.jsonl")
    ]


@pytest.mark.parametrize("kind", ["multiple-choice", "tagging"])
@pytest.mark.usefixtures("files")
def test_fine_tuning_leaves_the_same_for_any_number_of_processes(kind: str, tmp_path: Path) -> None:
    """Seven examples make steps of three and of four: once, one of four processes has none."""
    for size in (1, 3, 4):
        arguments = finetuning_arguments(kind, f"run-{size}", patience=2)
        assert run_finetune(size, *arguments) == [0] * size
    for size in (3, 4):
        for name in ("checkpoints", "best"):
            own, alone = tmp_path / f"run-{size}" / name, tmp_path / "run-1" / name
            assert tensors_of(own) == tensors_of(alone)
        assert lines_of(tmp_path / f"run-{size}") == lines_of(tmp_path / "run-1")
        own, alone = (tmp_path / f"run-{one}" / "samples.jsonl" for one in (size, 1))
        assert own.read_text() == alone.read_text()


@pytest.mark.usefixtures("files")
def test_fine_tuning_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    arguments = finetuning_arguments("tagging", "run", checkpoint_every=1)
    assert run_finetune(2, *arguments, "--max-steps", "2") == [0, 0]
    again = ["--resume", "--output-dir", "run"]
    assert run_finetune(3, *again, "--max-steps", "4") == [0] * 3
    assert run_finetune(1, *again) == [0]
    assert run_finetune(1, *finetuning_arguments("tagging", "straight", checkpoint_every=1)) == [0]
    left, straight = (tensors_of(tmp_path / name / "checkpoints") for name in ("run", "straight"))
    assert left == straight


@pytest.mark.usefixtures("files")
def test_all_processes_complete_what_one_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed before its first checkpoint, so its model is taken again."""
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "discard", lambda run, **_: run.close())
        patch.setattr(Trainer, "save", lambda _: killed())
        with pytest.raises(KilledError):
            run_finetune(1, *finetuning_arguments("tagging", "run"))
    (tmp_path / "model").rename(tmp_path / "moved")
    again = ["--resume", "--output-dir", "run"]
    with pytest.raises(UserError, match=str(tmp_path / "model")):
        run_finetune(2, *again)
    (tmp_path / "moved").rename(tmp_path / "model")
    assert run_finetune(3, *again) == [0] * 3
    assert run_finetune(1, *finetuning_arguments("tagging", "straight")) == [0]
    left, straight = (tensors_of(tmp_path / name / "checkpoints") for name in ("run", "straight"))
    assert left == straight
    assert lines_of(tmp_path / "run") == lines_of(tmp_path / "straight")


@pytest.mark.usefixtures("files", "late_signal")
def test_a_signal_after_the_last_agreement_leaves_the_scores(tmp_path: Path) -> None:
    assert run_finetune(2, *finetuning_arguments("tagging", "run", epochs=1)) == [0, 0]
    assert held_out(tmp_path / "run")


@pytest.mark.usefixtures("files")
def test_several_seeds_are_trained_by_all_processes(tmp_path: Path) -> None:
    for size, output in ((2, "two"), (1, "one")):
        arguments = finetuning_arguments("tagging", output, "--seeds", "2", epochs=1)
        assert run_finetune(size, *arguments) == [0] * size
    for seed in ("seed-0", "seed-1"):
        assert held_out(tmp_path / "two" / seed) == held_out(tmp_path / "one" / seed)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        "config.toml", "seed-0", "seed-1", "seeds.json",
    ]  # fmt: skip
    assert run_finetune(2, "--resume", "--output-dir", "two") == [0, 0]  # all are done


@pytest.mark.usefixtures("files")
def test_labelled_data_that_cannot_be_read_are_an_error_of_all(tmp_path: Path) -> None:
    (tmp_path / "tagging-dev.jsonl").write_text('{"words": ["a"], "tags": []}\n')
    with pytest.raises(UserError, match=r"tagging-dev\.jsonl"):
        run_finetune(2, *finetuning_arguments("tagging", "run"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="too few for 3 processes"):
        run_finetune(3, *finetuning_arguments("tagging", "run", accumulate=2))
