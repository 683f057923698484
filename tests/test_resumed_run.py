"""A pre-training run that is resumed: where it goes on, what may change, what is refused."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from electra_ref import train
from electra_ref.config.pretraining import resolve_config
from electra_ref.errors import UserError
from electra_ref.training.checkpoint import CheckpointError
from electra_ref.training.loop import Trainer
from electra_ref.training.pretraining.run import resume
from electra_ref.training.pretraining.source import Source
from electra_ref.training.records import read_records
from electra_ref.training.stop_signals import StoppedError, StopSignals
from tests.small_runs import (
    begin_small,
    listening,
    quiet,
    said_to,
    small_config,
    write_corpus,
)

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(autouse=True)
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small corpus, and a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return write_corpus(tmp_path / "corpus.txt")


def vectors_of(trainer: Trainer) -> list[bytes]:
    """Return the parameters and both moments."""
    state = trainer.state
    flats = state.parameters, state.first_moment, state.second_moment
    return [flat.vector.tobytes() for flat in flats]


def test_a_resumed_run_is_where_it_was(corpus: Path, tmp_path: Path) -> None:
    trainer = begin_small(tmp_path / "run", corpus, seed=6)
    with trainer.run:
        trainer.train(StopSignals(), 3)
    progress = listening()
    again = resume(tmp_path / "run", [], None, progress, StopSignals())
    with again.run:
        assert again.state.step == 3
        assert vectors_of(again) == vectors_of(trainer)
        assert again.config == trainer.config
        assert again.task.identity() == trainer.task.identity()
        assert said_to(progress)[-1] == f"resuming {tmp_path / 'run'} at step 3 of 20"


def test_a_run_without_a_checkpoint_resumes_at_its_beginning(corpus: Path, tmp_path: Path) -> None:
    trainer = begin_small(tmp_path / "run", corpus)
    trainer.run.close()
    again = resume(tmp_path / "run", [], None, quiet(), StopSignals())
    again.run.close()
    assert again.state.step == 0
    assert vectors_of(again) == vectors_of(trainer)


def test_another_machine_is_named_when_a_run_is_resumed(corpus: Path, tmp_path: Path) -> None:
    begin_small(tmp_path / "run", corpus).run.close()
    path = tmp_path / "run" / "environment.json"
    environment = json.loads(path.read_text())
    cores = environment["fingerprint"]["cores"]
    environment["fingerprint"]["cores"] = 1000
    path.write_text(json.dumps(environment))
    progress = listening()
    resume(tmp_path / "run", [], None, progress, StopSignals()).run.close()
    assert [line for line in said_to(progress) if "not the machine" in line] == [
        f"not the machine this run began on, its bits may differ: cores: 1000 then, {cores} now"
    ]


def test_a_run_that_forgot_its_data_is_refused_and_unlocked(corpus: Path, tmp_path: Path) -> None:
    begin_small(tmp_path / "run", corpus).run.close()
    path = tmp_path / "run" / "environment.json"
    environment = json.loads(path.read_text())
    del environment["source"]
    path.write_text(json.dumps(environment))
    for _ in range(2):  # the second time it is not locked
        with pytest.raises(UserError, match="no longer names the data"):
            resume(tmp_path / "run", [], None, quiet(), StopSignals())


def trained(corpus: Path, folder: Path, steps: int = 3, **changes: Any) -> Path:
    """Return the folder of a run that was stopped after ``steps``."""
    trainer = begin_small(folder, corpus, **changes)
    with trainer.run:
        trainer.train(StopSignals(), steps)
    return folder


def split_of(path: Path, split: str) -> list[dict[str, Any]]:
    return [r for r in read_records(path / "metrics.jsonl") if r["split"] == split]


def test_what_is_free_changes_from_a_step_on_and_is_recorded(corpus: Path, tmp_path: Path) -> None:
    path = trained(corpus, tmp_path / "run")
    settings = ["steps=30", "learning_rate=0.002", "log_every=2"]
    for _ in range(2):  # the second time, they are in the folder; they are recorded once
        progress = listening()
        again = resume(path, settings, None, progress, StopSignals())
        again.run.close()
        settings = []
        assert (again.config.steps, again.config.learning_rate) == (30, 0.002)
        assert [line for line in said_to(progress) if line.startswith("from step")] == [
            "from step 3 on: steps = 30, before 20",
            "from step 3 on: learning_rate = 0.002, before 0.01",
            "from step 3 on: log_every = 2, before 1",
        ]
    assert resolve_config(path=again.run.config) == small_config(
        steps=30, learning_rate=0.002, log_every=2
    )
    assert split_of(path, "settings") == [
        {
            "step": 3,
            "split": "settings",
            "changed": {"steps": [20, 30], "learning_rate": [0.01, 0.002], "log_every": [1, 2]},
        }
    ]
    with resume(path, [], None, quiet(), StopSignals()).run as run:
        assert run.environment()["source"] == {
            "corpus": [str(corpus)],
            "tokens": [],
            "text_key": "text",
            "vocabulary": None,
            "init_from": None,
        }
    again = resume(path, [], None, quiet(), StopSignals())
    with again.run:
        again.train(StopSignals(), 6)
    assert [r["step"] for r in split_of(path, "training")] == [1, 2, 3, 4, 6]
    assert split_of(path, "training")[-1]["learning_rate"] == 0.002 * (1 - 5 / 30)
    progress = listening()
    resume(path, [], None, progress, StopSignals()).run.close()
    assert not any(line.startswith("from step") for line in said_to(progress))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("hidden_size=16", "hidden_size is 8 in .* and cannot become 16"),
        ("seed=3", "seed is 0 in .* and cannot become 3"),
        ("lowercase=false", "lowercase is True in .* and cannot become False"),
        ("preset=base", "preset has done its work in .* and cannot change"),
        ("max_vocab_size=70", "max_vocab_size has done its work in .* and cannot change"),
    ],
)
def test_what_is_fixed_is_refused_by_name_and_nothing_changes(
    setting: str, message: str, corpus: Path, tmp_path: Path
) -> None:
    path = trained(corpus, tmp_path / "run")
    before = (path / "config.toml").read_bytes()
    for _ in range(2):  # the second time it is not locked
        with pytest.raises(
            UserError, match=f"{message}; these can change .*: steps, learning_rate"
        ):
            resume(path, [setting], None, quiet(), StopSignals())
    assert (path / "config.toml").read_bytes() == before
    same = f"seed={small_config().seed}"
    resume(path, [same], None, quiet(), StopSignals()).run.close()


def test_a_change_that_is_taken_back_or_replaced_leaves_no_false_record(
    corpus: Path, tmp_path: Path
) -> None:
    path = trained(corpus, tmp_path / "run")
    for rate, changed in ((0.005, [0.01, 0.005]), (0.002, [0.01, 0.002]), (0.01, None)):
        resume(path, [f"learning_rate={rate}"], None, quiet(), StopSignals()).run.close()
        expected = [{"step": 3, "split": "settings", "changed": {"learning_rate": changed}}]
        assert split_of(path, "settings") == (expected if changed else [])
    assert [r["step"] for r in split_of(path, "training")] == [1, 2, 3]


def test_the_command_after_a_stop_keeps_what_was_asked(corpus: Path, tmp_path: Path) -> None:
    path = trained(corpus, tmp_path / "run")
    moved = corpus.rename(tmp_path / "moved.txt")
    shutil.rmtree(tmp_path / "cache")
    stop = StopSignals()
    stop.requested = signal.SIGINT
    command = (
        f"python -m electra_ref.train --resume --output-dir {path} --set steps=30 --corpus {moved}"
    )
    with pytest.raises(StoppedError, match=f"^{command}$"):
        resume(path, ["steps=30"], Source([str(moved)], []), quiet(), stop)


def test_an_edited_size_is_named_with_both_values(corpus: Path, tmp_path: Path) -> None:
    """Before the shapes of tensors are compared."""
    path = trained(corpus, tmp_path / "run")
    text = (path / "config.toml").read_text().replace("hidden_size = 8 ", "hidden_size = 12 ")
    (path / "config.toml").write_text(text)
    with pytest.raises(CheckpointError, match=r"computed with hidden_size = 8, and .* says 12"):
        resume(path, [], None, quiet(), StopSignals())


def test_a_run_that_was_closed_had_a_checkpoint(corpus: Path, tmp_path: Path) -> None:
    """An evaluation that was not due comes after a checkpoint."""
    path = trained(corpus, tmp_path / "run", steps=3, checkpoint_every=10)
    with resume(path, [], None, quiet(), StopSignals()).run:
        pass
    trainer = resume(path, [], None, quiet(), StopSignals())
    with trainer.run:
        trainer.closing_evaluation()
    shutil.rmtree(path / "checkpoints")
    with pytest.raises(CheckpointError, match="goes to step 3, but there is no checkpoint"):
        resume(path, [], None, quiet(), StopSignals())


def test_records_of_no_split_without_a_checkpoint(corpus: Path, tmp_path: Path) -> None:
    """Somebody else wrote them; what is known is that steps were made."""
    path = trained(corpus, tmp_path / "run", steps=3, checkpoint_every=10)
    shutil.rmtree(path / "checkpoints")
    (path / "metrics.jsonl").write_text('{"step": 30}\n')
    with pytest.raises(CheckpointError, match="goes to step 30, but there is no checkpoint"):
        resume(path, [], None, quiet(), StopSignals())


def test_another_closing_evaluation_is_recorded(corpus: Path, tmp_path: Path) -> None:
    path = trained(corpus, tmp_path / "run")
    for settings in ([], [], ["evaluation_batches=1"]):
        trainer = resume(path, settings, None, quiet(), StopSignals())
        with trainer.run:
            evaluation = trainer.closing_evaluation()
        assert split_of(path, "held_out")[-1]["loss"] == evaluation.metrics["loss"]
    assert len(split_of(path, "held_out")) == 2


@pytest.mark.parametrize(
    "source",
    [None, 5, {"corpus": None}, {"corpus": [5], "tokens": None}, {"corpus": "a", "tokens": None}],
)
def test_a_source_of_another_type_is_refused(source: Any, corpus: Path, tmp_path: Path) -> None:
    path = trained(corpus, tmp_path / "run")
    environment = json.loads((path / "environment.json").read_text())
    environment["source"] = source
    (path / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(UserError, match="no longer names the data; name them with --corpus"):
        resume(path, [], None, quiet(), StopSignals())
    resume(path, [], Source([str(corpus)], []), quiet(), StopSignals()).run.close()


def test_fewer_steps_than_are_done_are_refused(corpus: Path, tmp_path: Path) -> None:
    path = trained(corpus, tmp_path / "run")
    with pytest.raises(UserError, match=r"steps = 2, but .* is at step 3 already"):
        resume(path, ["steps=2"], None, quiet(), StopSignals())
    assert resolve_config(path=path / "config.toml").steps == 20


def test_the_data_may_lie_elsewhere(corpus: Path, tmp_path: Path) -> None:
    path = trained(corpus, tmp_path / "run")
    moved = corpus.rename(tmp_path / "moved.txt")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(UserError, match="if it lies elsewhere now, name it: --resume --corpus"):
        resume(path, [], None, quiet(), StopSignals())
    here = Source([str(moved)], [])
    resume(path, [], here, quiet(), StopSignals()).run.close()
    shutil.rmtree(tmp_path / "cache")
    again = resume(path, [], None, quiet(), StopSignals())  # the folder knows
    again.run.close()
    assert again.run.environment()["source"] == here._asdict()
    assert again.state.step == 3


def test_other_data_are_refused_even_if_the_cache_is_there(corpus: Path, tmp_path: Path) -> None:
    path = trained(corpus, tmp_path / "run")
    other = Source([str(write_corpus(tmp_path / "other.txt", seed=1))], [])
    with pytest.raises(UserError, match="not the one this run began with"):
        resume(path, [], other, quiet(), StopSignals())
    with resume(path, [], None, quiet(), StopSignals()).run as run:
        assert run.environment()["source"]["corpus"] == [str(corpus)]


def test_records_beyond_a_checkpoint_that_is_gone_are_not_overwritten(
    corpus: Path, tmp_path: Path
) -> None:
    path = trained(corpus, tmp_path / "run", steps=11)
    (path / "checkpoints").rename(tmp_path / "elsewhere")
    before = (path / "metrics.jsonl").read_bytes()
    for settings in ([], ["checkpoint_every=100"]):
        with pytest.raises(CheckpointError, match=r"goes to step 11, but there is no checkpoint"):
            resume(path, settings, None, quiet(), StopSignals())
    assert (path / "metrics.jsonl").read_bytes() == before
    (path / "checkpoints").rmdir()
    (tmp_path / "elsewhere").rename(path / "checkpoints")  # as the message says
    again = resume(path, [], None, quiet(), StopSignals())
    again.run.close()
    assert again.state.step == 11


def test_steps_before_the_first_checkpoint_are_made_again(corpus: Path, tmp_path: Path) -> None:
    """As after kill -9: the same steps give the same records."""
    path = trained(corpus, tmp_path / "run", steps=9, checkpoint_every=10)
    before = (path / "metrics.jsonl").read_bytes()
    shutil.rmtree(path / "checkpoints")
    progress = listening()
    again = resume(path, ["checkpoint_every=5"], None, progress, StopSignals())
    again.run.close()
    assert again.state.step == 0
    assert "no checkpoint was due up to step 9: beginning at step 0" in said_to(progress)
    assert before
    assert (path / "metrics.jsonl").read_bytes() == b""


def test_data_that_another_version_divided_are_refused(corpus: Path, tmp_path: Path) -> None:
    path = trained(corpus, tmp_path / "run")
    data = json.loads((path / "data.json").read_text())
    del data["format"]
    (path / "data.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="began with a version that held out other documents"):
        resume(path, [], None, quiet(), StopSignals())


def test_a_finished_run_goes_on_with_more_steps_and_says_how(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--max-steps`` beyond the schedule is refused with the setting that makes it longer."""
    path = tmp_path / "run"
    trainer = begin_small(path, corpus, steps=4)
    with trainer.run:
        trainer.train(StopSignals(), 4)
    resumed = ["--resume", "--output-dir", str(path)]
    capsys.readouterr()
    assert train.main([*resumed, "--max-steps", "6"]) == 2
    refused = capsys.readouterr().err.splitlines()[-1]
    assert "--max-steps 6: the schedule ends at step 4" in refused
    assert refused.endswith("write --set steps=6")
    assert train.main([*resumed, "--set", "steps=6"]) == 0
    assert (path / "checkpoints" / "step-00000006").exists()
    assert train.main([*resumed, "--max-steps", "6"]) == 0
    assert train.main(["--set", "steps=4", "--max-steps", "5", "--output-dir", str(path)]) == 2
    assert "the schedule ends at step 4" in capsys.readouterr().err.splitlines()[-1]
