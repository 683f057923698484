"""A pre-training run from its folder to its end: what is kept, what is asked of each part.

Parts that have tests of their own (backends, preparation, loop) are replaced where a test looks at
what they are given.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref.backends import OpenedBackend, reference
from electra_ref.config.pretraining import resolve_config
from electra_ref.config.settings import to_toml
from electra_ref.errors import UserError
from electra_ref.text.cache_folder import FORMAT_VERSION
from electra_ref.text.prepare import prepare
from electra_ref.text.reading import ONE_PROCESS
from electra_ref.text.vocabulary import load_vocabulary
from electra_ref.training import opening
from electra_ref.training.completing import Limits
from electra_ref.training.loop import Trainer
from electra_ref.training.pretraining import preparing
from electra_ref.training.pretraining import run as run_module
from electra_ref.training.pretraining.data_report import data_lines
from electra_ref.training.pretraining.run import begin, complete, resume
from electra_ref.training.pretraining.samples import LEGEND
from electra_ref.training.pretraining.source import Source
from electra_ref.training.progress import Progress
from electra_ref.training.records import read_records
from electra_ref.training.run_directory import RunDirectory
from electra_ref.training.stop_signals import StoppedError, StopSignals
from electra_ref.training.task import Evaluation
from tests.small_runs import (
    begin_small,
    listening,
    quiet,
    said_to,
    small_config,
    write_corpus,
)
from tests.test_samples import SAMPLE

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(autouse=True)
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small corpus, and a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return write_corpus(tmp_path / "corpus.txt")


def test_the_folder_holds_what_was_asked_and_what_was_read(corpus: Path, tmp_path: Path) -> None:
    config, progress = small_config(temperature=1.25, seed=8), listening()
    source = Source([str(corpus)], [])
    trainer = begin(tmp_path / "run", config, source, progress, StopSignals())
    run = trainer.run
    run.close()
    data = prepare(config, tmp_path / "cache" / "electra_ref", corpus=[str(corpus)])
    assert run.path == tmp_path / "run"
    assert run.config.read_text() == to_toml(config)  # as asked: vocab_size = 0
    assert resolve_config(path=run.config) == config
    assert trainer.config == dataclasses.replace(config, vocab_size=60)  # as the data yield
    assert load_vocabulary(run.vocabulary) == list(data.tokenizer.vocab)
    digest = hashlib.sha256(run.vocabulary.read_bytes()).hexdigest()
    facts = {"key": data.key, **data.report, "format": FORMAT_VERSION, "vocabulary_sha256": digest}
    assert json.loads(run.data.read_text()) == facts
    assert data.report["bytes"] == corpus.stat().st_size
    environment = run.environment()
    assert environment["source"] == Source([str(corpus)], [])._asdict()
    fingerprint = environment["fingerprint"]
    assert [fingerprint[key] for key in ("device", "precision", "backend")] == [
        *("cpu", "float64", "reference")
    ]
    assert trainer.state.step == 0
    assert said_to(progress)[:3] == [
        "device: cpu, float64",
        f"data: {data.report['tokens']:,} tokens, 60 in the vocabulary, "
        f"{data.training.count:,} rows to train on; held out: {data.held_out.count:,} rows with "
        f"{data.held_out.tokens:,} tokens of {data.held_out.documents:,} documents",
        *data_lines(data.report),
    ]


def test_what_was_read_is_said(corpus: Path, tmp_path: Path) -> None:
    corpus.write_bytes(corpus.read_bytes() + b"\xff\xfe\xff")
    progress, source = listening(), Source([str(corpus)], [])
    begin(tmp_path / "run", small_config(), source, progress, StopSignals()).run.close()
    assert said_to(progress)[2].startswith("text: 1 file, 40 documents, ")
    assert said_to(progress)[3].startswith("3 bytes of the text (")


def test_one_document_is_counted_in_the_singular(corpus: Path, tmp_path: Path) -> None:
    paragraphs = corpus.read_text().split("\n\n")
    corpus.write_text("\n\n".join(["\n".join(paragraphs[:10]), "\n".join(paragraphs[10:])]))
    progress, source = listening(), Source([str(corpus)], [])
    begin(tmp_path / "run", small_config(), source, progress, StopSignals()).run.close()
    assert said_to(progress)[1].endswith(" tokens of 1 document")


def test_a_resumed_run_reads_the_text_under_the_same_key(
    prepared: list[dict[str, Any]], corpus: Path, tmp_path: Path
) -> None:
    lines = [json.dumps({"body": text}) for text in corpus.read_text().split("\n\n")]
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(lines))
    source = Source([str(path)], [], "body")
    begin(tmp_path / "run", small_config(), source, quiet(), StopSignals()).run.close()
    shutil.rmtree(tmp_path / "cache")
    resume(tmp_path / "run", [], None, quiet(), StopSignals()).run.close()
    moved = path.rename(tmp_path / "moved.jsonl")
    named = Source([str(moved)], [])
    resume(tmp_path / "run", [], named, quiet(), StopSignals()).run.close()
    assert [call["text_key"] for call in prepared] == ["body", "body", "body"]
    again = RunDirectory(tmp_path / "run").environment()["source"]
    assert (again["corpus"], again["text_key"]) == ([str(moved)], "body")


@pytest.mark.parametrize("source", [None, {}, {"corpus": []}, [1]])
def test_a_run_that_forgot_its_data_is_resumed_on_those_that_are_named(
    source: Any, corpus: Path, tmp_path: Path
) -> None:
    begin_small(tmp_path / "run", corpus).run.close()
    path = tmp_path / "run" / "environment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "source": source}))
    named = Source([str(corpus)], [])
    resume(tmp_path / "run", [], named, quiet(), StopSignals()).run.close()
    assert RunDirectory(tmp_path / "run").environment()["source"] == named._asdict()


def test_a_run_from_before_there_were_keys_is_resumed(corpus: Path, tmp_path: Path) -> None:
    begin_small(tmp_path / "run", corpus).run.close()
    path = tmp_path / "run" / "environment.json"
    environment = json.loads(path.read_text())
    del environment["source"]["text_key"]
    path.write_text(json.dumps(environment))
    resume(tmp_path / "run", [], None, quiet(), StopSignals()).run.close()


def test_folders_and_files_may_have_names_that_are_no_utf_8(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a disk of another system; a terminal shows such bytes as escapes."""
    folder = tmp_path / os.fsdecode(b"caf\xe9 \x1b[31m")
    folder.mkdir()
    corpus = corpus.rename(folder / "corpus.txt")
    trainer = begin_small(folder / "run", corpus, steps=2)
    with trainer.run:
        complete(trainer, StopSignals(), Limits(1, None, time.monotonic()))
    assert (
        r"the run is in " + str(tmp_path) + r"/caf\udce9 \x1b[31m/run;" in capsys.readouterr().out
    )
    resumed = resume(folder / "run", [], None, quiet(), StopSignals())
    with resumed.run as run:
        assert run.environment()["source"]["corpus"] == [str(corpus)]
        assert resumed.state.step == 1


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Record what backend is asked for; the answer is the reference under another name."""
    asked: list[tuple[str, str]] = []

    def open_backend(device: str, precision: str) -> OpenedBackend:
        asked.append((device, precision))
        return OpenedBackend(reference, "named", "float32", "gpu", "device: because")

    monkeypatch.setattr(opening, "open_backend", open_backend)
    return asked


def test_the_backend_is_the_one_asked_for(
    opened: list[tuple[str, str]], corpus: Path, tmp_path: Path
) -> None:
    source, progress = Source([str(corpus)], []), listening()
    config = small_config(device="gpu", precision="bfloat16")
    trainer = begin(tmp_path / "run", config, source, progress, StopSignals())
    with trainer.run:
        assert opened == [("gpu", "bfloat16")]
        assert trainer.backend is reference
        assert trainer.state.parameters.vector.dtype == np.float32
        fingerprint = trainer.run.environment()["fingerprint"]
        assert [fingerprint[key] for key in ("device", "precision", "backend")] == [
            *("gpu", "float32", "named")
        ]
        assert said_to(progress)[0] == "device: because"
    for settings, asked in (([], "gpu"), (["device=cpu"], "cpu"), ([], "cpu")):
        opened.clear()
        progress = listening()
        resume(tmp_path / "run", settings, None, progress, StopSignals()).run.close()
        assert opened == [(asked, "bfloat16")]
        assert said_to(progress)[0] == "device: because"
        assert not any("not the machine" in line for line in said_to(progress))


def test_a_run_without_a_name_takes_that_of_its_preset(corpus: Path) -> None:
    config, source = small_config(preset="large"), Source([str(corpus)], [])
    for name in ("large", "large-2"):
        trainer = begin(None, config, source, quiet(), StopSignals())
        trainer.run.close()
        assert trainer.run.path == Path("runs") / name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 5000}, r"vocabulary of \d+ entries, not of vocab_size = 5000"),
        ({"mask_probability": 0.01}, "leave 0 tokens to mask"),
        ({"max_vocab_size": 10}, "too small"),
    ],
)
@pytest.mark.parametrize("exists", [False, True])
def test_what_the_data_do_not_allow_is_refused_and_leaves_nothing(
    changes: dict[str, Any], message: str, exists: bool, corpus: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    if exists:
        folder.mkdir()
    with pytest.raises(UserError, match=message):
        begin_small(folder, corpus, **changes)
    assert folder.exists() == exists
    assert not exists or not list(folder.iterdir())
    begin_small(folder, corpus).run.close()


def test_a_wanted_vocabulary_that_the_data_yield_is_taken(corpus: Path, tmp_path: Path) -> None:
    trainer = begin_small(tmp_path / "run", corpus, vocab_size=62)
    trainer.run.close()
    assert dataclasses.asdict(trainer.config)["vocab_size"] == 62
    assert len(load_vocabulary(trainer.run.vocabulary)) == 62


@pytest.mark.parametrize("error", [UserError, MemoryError, ZeroDivisionError, StoppedError])
def test_a_run_that_could_not_begin(
    error: type[Exception], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the user can mend leaves nothing; after all else the folder can be resumed."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "prepare", fail)
        with pytest.raises(error):
            begin_small(tmp_path / "run", corpus)
    assert (tmp_path / "run").exists() == (error in (ZeroDivisionError, StoppedError))
    if (tmp_path / "run").exists():
        resume(tmp_path / "run", [], None, quiet(), StopSignals()).run.close()  # it is not locked


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Record what the preparation is given; it runs as it is."""
    calls: list[dict[str, Any]] = []

    def recording(config: Any, cache_dir: Any, **rest: Any) -> Any:
        calls.append({"config": config, "cache_dir": cache_dir, **rest})
        return prepare(config, cache_dir, **rest)

    monkeypatch.setattr(preparing, "prepare", recording)
    return calls


def test_a_resumed_run_prepares_the_data_of_its_beginning(
    prepared: list[dict[str, Any]], corpus: Path, tmp_path: Path
) -> None:
    run = begin_small(tmp_path / "run", corpus).run
    run.close()
    resume(tmp_path / "run", [], None, quiet(), StopSignals()).run.close()
    first, second = prepared
    assert first.pop("progress") is not second.pop("progress")
    same = {
        "config": small_config(),
        "cache_dir": tmp_path / "cache" / "electra_ref",
        "corpus": [str(corpus)],
        "text_key": "text",
        "ids_paths": [],
        "reading": ONE_PROCESS,
    }
    assert first == {**same, "vocabulary": None, "known_key": None, "moved": False}
    key = json.loads(run.data.read_text())["key"]
    known = {"vocabulary": load_vocabulary(run.vocabulary), "known_key": key, "moved": False}
    assert second == {**same, **known}


def test_token_ids_are_prepared_as_such(prepared: list[dict[str, Any]], tmp_path: Path) -> None:
    path = str(tmp_path / "ids.npy")
    np.save(path, np.random.default_rng(0).integers(0, 50, (40, 30)))
    trainer = begin(tmp_path / "run", small_config(), Source([], [path]), quiet(), StopSignals())
    trainer.run.close()
    (call,) = prepared
    assert (call["corpus"], call["ids_paths"]) == ([], [path])
    assert trainer.run.environment()["source"] == Source([], [path])._asdict()


def test_a_cache_that_cannot_be_written_lies_in_the_run(
    prepared: list[dict[str, Any]], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(corpus))  # a file
    begin_small(tmp_path / "run", corpus).run.close()
    assert prepared[0]["cache_dir"] == tmp_path / "run" / "cache"


def test_the_preparation_is_shown_and_can_be_stopped(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[tuple[str, int, int]] = []
    closed: list[bool] = []
    monkeypatch.setattr(Progress, "stage", lambda _, *stage: stages.append(stage))
    monkeypatch.setattr(Progress, "close", lambda _: closed.append(True))
    begin_small(tmp_path / "run", corpus).run.close()
    size = corpus.stat().st_size
    assert ("tokenizing", size, size) in stages
    assert closed == [True]
    stop = StopSignals()
    stop.requested = signal.SIGINT
    stages.clear()
    source = Source([str(corpus)], [])
    command = f"python -m electra_ref.train --resume --output-dir {tmp_path}/stopped"
    with pytest.raises(StoppedError, match=f"^{command}$"):
        begin(tmp_path / "stopped", small_config(), source, quiet(), stop)
    assert stages == []
    assert closed == [True, True]
    assert not (tmp_path / "stopped" / "data.json").exists()


class Finishing(Trainer):
    """A trainer that only notes how far it shall train and says it is there."""

    def __init__(self, folder: Path, step: int = 0) -> None:
        run, progress = RunDirectory(folder), listening()
        says = {"warnings": lambda *_: [], "is_best": lambda *_: False, "why_stop": lambda *_: None}
        nothing: Any = type("Nothing", (), {"step": step, **says})()
        super().__init__(small_config(steps=20), reference, nothing, nothing, run, progress)
        self.trained: tuple[int, float] | None = None

    def train(self, stop: StopSignals, last_step: int, deadline: float = math.inf) -> None:
        del stop
        self.trained = last_step, deadline
        self.state.step = last_step

    def evaluate(self) -> Evaluation:
        return Evaluation({"rtd_auc": 0.75}, [SAMPLE, SAMPLE], "all is well")


@pytest.mark.parametrize(("max_steps", "last"), [(None, 20), (7, 7), (20, 20), (21, 20), (1, 1)])
def test_a_run_is_completed(
    max_steps: int | None,
    last: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Samples and figures go to standard output, as wide as the terminal."""
    monkeypatch.setenv("COLUMNS", "27")
    monkeypatch.setattr(run_module, "find_spec", lambda _: object())
    trainer = Finishing(tmp_path)
    complete(trainer, StopSignals(), Limits(max_steps, None, time.monotonic() - 65))
    assert trainer.trained == (last, math.inf)
    printed = capsys.readouterr().out.split("\n\n")
    assert printed[0] == f"held-out samples: {LEGEND}"
    assert printed[1] == printed[2]
    assert printed[1].splitlines()[1] == "   masked [CLS] a [MASK]"
    command = f"python -m electra_ref.train --resume --output-dir {tmp_path}"
    assert printed[3].splitlines() == [
        f"step {last}: all is well",
        f"curves: python -m electra_ref.report {tmp_path}",
        f"{'1 step' if last == 1 else f'{last} steps'} in 1 min 05 s; the run is in {tmp_path}; "
        "to train on:",
        f"{command}{' --set steps=40' if last == 20 else ''}",
    ]
    assert said_to(trainer.progress) == []


def test_the_curves_need_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    complete(Finishing(tmp_path), StopSignals(), Limits(7, None, time.monotonic()))
    assert capsys.readouterr().out.splitlines()[-3] == (
        "curves, after pip install 'matplotlib>=3.8' (extra: plots): "
        f"python -m electra_ref.report {tmp_path}"
    )


def test_minutes_count_from_the_start_of_the_command(tmp_path: Path) -> None:
    trainer = Finishing(tmp_path)
    complete(trainer, StopSignals(), Limits(None, 2.5, 100.0))
    assert trainer.trained == (20, 250.0)


@pytest.mark.parametrize("step", [0, 12, 20])
def test_the_closing_evaluation_is_recorded_once(step: int, tmp_path: Path) -> None:
    for _ in range(2):
        complete(Finishing(tmp_path, step), StopSignals(), Limits(12, None, time.monotonic()))
    end = max(step, 12)
    metrics = read_records(tmp_path / "metrics.jsonl")
    assert metrics == [{"step": end, "split": "held_out", "rtd_auc": 0.75}]
    samples = read_records(tmp_path / "samples.jsonl")
    assert samples == [{"step": end, **SAMPLE}] * 2


def test_a_finished_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Finishing(tmp_path, 20)
    complete(trainer, StopSignals(), Limits(None, None, time.monotonic()))
    assert trainer.trained is None
    assert said_to(trainer.progress) == ["nothing is left to train: the run is at step 20"]
    assert "--set steps=40" in capsys.readouterr().out.splitlines()[-1]


def test_a_limit_that_is_reached_already_says_what_it_counts_from(tmp_path: Path) -> None:
    """Steps are left, but not below the limit."""
    trainer = Finishing(tmp_path, 12)
    complete(trainer, StopSignals(), Limits(5, None, time.monotonic()))
    assert trainer.trained is None
    assert said_to(trainer.progress) == [
        "--max-steps 5 is reached already: the run is at step 12 of 20; it counts from the run's "
        "first step, so give a larger one"
    ]


def test_a_stopped_run_says_how_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a run").mkdir()
    trainer, stop = Finishing(tmp_path / "a run"), StopSignals()
    stop.requested = signal.SIGTERM
    complete(trainer, stop, Limits(7, None, time.monotonic()))
    assert said_to(trainer.progress) == [
        "saved at step 7; to go on:",
        f"python -m electra_ref.train --resume --output-dir '{tmp_path}/a run'",
    ]
    assert capsys.readouterr().out == ""
