"""The command line of ``train``: each argument reaches its place, and each end has its exit code.

What begins, resumes and completes a run is replaced by functions that record what they are given.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from electra_ref import command_line, running, train
from electra_ref.config.pretraining import PretrainingConfig, resolve_config
from electra_ref.config.settings import to_toml
from electra_ref.errors import UserError
from electra_ref.processes import ALONE, usable_cores
from electra_ref.text.reading import Reading
from electra_ref.training import run_directory
from electra_ref.training.completing import Limits
from electra_ref.training.pretraining import run as pretraining
from electra_ref.training.pretraining.source import Source
from electra_ref.training.stop_signals import StoppedError

READING = Reading(len(usable_cores()), verify=False)


class Stop:
    """Stands in for the signals: ``requested`` is set by a test."""

    requested: int | None = None

    def agree(self, processes: Any) -> None:
        assert processes is ALONE


class Run:
    """Stands in for a run's folder: notes when its lock is given back."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    def __enter__(self) -> None:
        self.calls.closed = False

    def __exit__(self, *_: object) -> None:
        self.calls.closed = True


class Trainer:
    """Stands in for what ``begin`` and ``resume`` return."""

    def __init__(self, calls: Calls) -> None:
        self.run = Run(calls)
        self.config = PretrainingConfig()


class Calls:
    """What the command did: the arguments of each function, and what ``complete`` shall do."""

    def __init__(self) -> None:
        self.begun: tuple[Any, ...] | None = None
        self.resumed: tuple[Any, ...] | None = None
        self.completed: tuple[Any, ...] | None = None
        self.max_minutes: float | None = None
        self.closed: bool | None = None
        self.said: list[str] = []
        self.stop = Stop()
        self.trainer = Trainer(self)
        self.error: BaseException | None = None  # that ``begin`` shall raise

    @property
    def config(self) -> PretrainingConfig:
        assert self.begun is not None
        config = self.begun[1]
        assert isinstance(config, PretrainingConfig)
        return config

    @property
    def source(self) -> Source:
        assert self.begun is not None
        source = self.begun[2]
        assert isinstance(source, Source)
        return source

    def say(self, line: str, *, whole: bool = False) -> None:
        self.said.append(line)
        assert whole == (line == "the command")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    recorded = Calls()

    def begin(*arguments: Any) -> Trainer:
        *begun, processes = arguments
        recorded.begun = tuple(begun)
        assert processes is ALONE
        if recorded.error is not None:
            raise recorded.error
        return recorded.trainer

    def resume(*arguments: Any) -> Trainer:
        *resumed, processes = arguments
        recorded.resumed = tuple(resumed)
        assert processes is ALONE
        return recorded.trainer

    def complete(trainer: Any, stop: Any, limits: Limits) -> None:
        assert recorded.closed is False  # the lock is held
        recorded.completed = trainer, stop, limits.max_steps
        recorded.max_minutes = limits.max_minutes
        assert 0 <= time.monotonic() - limits.started < 60

    @contextmanager
    def reporting(processes: Any) -> Iterator[tuple[Any, Any]]:
        assert processes is ALONE
        yield recorded, recorded.stop

    monkeypatch.setattr(pretraining, "begin", begin)
    monkeypatch.setattr(pretraining, "resume", resume)
    monkeypatch.setattr(pretraining, "complete", complete)
    monkeypatch.setattr(train, "reporting", reporting)
    monkeypatch.chdir(tmp_path)
    return recorded


def test_without_arguments_the_tiny_preset_trains_on_the_embedded_corpus(calls: Calls) -> None:
    assert train.main([]) == 0
    assert calls.begun == (None, resolve_config(), Source([], []), calls, calls.stop, READING)
    assert calls.resumed is None
    assert calls.completed == (calls.trainer, calls.stop, None)
    assert calls.closed


def test_every_argument_reaches_its_place(calls: Calls, tmp_path: Path) -> None:
    arguments = (
        "--corpus a.txt b --output-dir out --preset small --device reference --precision float64 "
        "--seed 7 --max-steps 5 --max-minutes 1.5 --set steps=9 --set temperature=1.5"
    )
    assert train.main(arguments.split()) == 0
    settings = ["steps=9", "temperature=1.5", "device=reference", "precision=float64", "seed=7"]
    expected = resolve_config(preset="small", settings=settings)
    assert (expected.device, expected.precision, expected.seed) == ("reference", "float64", 7)
    corpus = [str(tmp_path / "a.txt"), str(tmp_path / "b")]
    assert calls.begun == (Path("out"), expected, Source(corpus, []), calls, calls.stop, READING)
    assert calls.completed == (calls.trainer, calls.stop, 5)
    assert calls.max_minutes == 1.5


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        (["--preset", "large"], {"preset": "large", "hidden_size": 1024}),
        (["--device", "cpu"], {"device": "cpu"}),
        (["--precision", "bfloat16"], {"precision": "bfloat16"}),
        (["--seed", "12"], {"seed": 12}),
        (["--set", "seed=3", "--seed", "12"], {"seed": 12}),
        (["--set", "device=cpu"], {"device": "cpu"}),
        (["--set", "steps=5", "--set", "steps=6"], {"steps": 6}),
        (["--config", "run.toml"], {"preset": "base", "steps": 77, "seed": 4}),
        (["--config", "run.toml", "--preset", "small"], {"preset": "small", "steps": 77}),
        (["--config", "run.toml", "--set", "steps=8"], {"preset": "base", "steps": 8}),
        (["--config", "run.toml", "--seed", "0"], {"steps": 77, "seed": 0}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_fills_the_configuration(
    arguments: list[str], changed: dict[str, Any], calls: Calls, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text('preset = "base"\nsteps = 77\nseed = 4\n')
    assert train.main(arguments) == 0
    assert {key: getattr(calls.config, key) for key in changed} == changed


@pytest.mark.parametrize(
    ("arguments", "corpus", "tokens"),
    [
        (["--corpus", "b", "a.txt", "-"], ["{}/b", "{}/a.txt", "-"], []),
        (["--corpus", "/x/../y"], ["/y"], []),
        (["--tokens", "ids.npy", "/a/b.npy"], [], ["{}/ids.npy", "/a/b.npy"]),
    ],
)
def test_data_are_named_by_absolute_paths(
    arguments: list[str], corpus: list[str], tokens: list[str], calls: Calls, tmp_path: Path
) -> None:
    assert train.main(arguments) == 0
    assert calls.source.corpus == [name.format(tmp_path) for name in corpus]
    assert calls.source.tokens == [name.format(tmp_path) for name in tokens]
    assert calls.source.text_key == "text"


def test_the_key_of_the_text_is_part_of_the_source(calls: Calls, tmp_path: Path) -> None:
    assert train.main(["--corpus", "a.jsonl", "--text-key", "body"]) == 0
    assert calls.source == Source([str(tmp_path / "a.jsonl")], [], "body")


@pytest.mark.parametrize("arguments", [[], ["--tokens", "ids.npy"]])
def test_a_key_without_a_corpus_is_refused(
    arguments: list[str], calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*arguments, "--text-key", "body"]) == 2
    assert calls.begun is None
    assert "--text-key names a key of JSON lines" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--resume"]])
def test_how_the_data_are_read_reaches_its_place(
    arguments: list[str], calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*arguments, "--output-dir", "out", "--workers", "3", "--verify"]) == 0
    assert (calls.begun or calls.resumed or ())[-1] == Reading(workers=3, verify=True)
    calls.begun = calls.resumed = None
    assert train.main([*arguments, "--output-dir", "out", "--workers", "0"]) == 2
    assert calls.begun is calls.resumed is None
    assert "--workers 0: at least 1" in capsys.readouterr().err


def test_a_run_is_resumed_where_it_is_named(calls: Calls) -> None:
    """Its configuration stands in its folder; what is free may be set anew."""
    arguments = "--resume --output-dir out --device cpu --set steps=9 --max-steps 8"
    assert train.main(arguments.split()) == 0
    assert calls.begun is None
    assert calls.resumed == (
        Path("out"),
        ["steps=9", "device=cpu"],
        None,
        calls,
        calls.stop,
        READING,
    )
    assert calls.completed == (calls.trainer, calls.stop, 8)
    assert calls.closed


def test_the_newest_run_is_resumed_where_none_is_named(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_directory, "newest_run", lambda root: root / "newest")
    assert train.main(["--resume"]) == 0
    assert calls.resumed == (Path("runs/newest"), [], None, calls, calls.stop, READING)
    assert calls.completed == (calls.trainer, calls.stop, None)
    assert calls.max_minutes is None


@pytest.mark.parametrize(
    ("arguments", "source"),
    [
        (["--corpus", "b", "-"], Source(["{}/b", "-"], [])),
        (["--tokens", "ids.npy"], Source([], ["{}/ids.npy"])),
    ],
)
def test_a_resumed_run_is_told_where_its_data_lie_now(
    arguments: list[str], source: Source, calls: Calls, tmp_path: Path
) -> None:
    assert train.main(["--resume", "--output-dir", "out", *arguments]) == 0
    assert calls.resumed is not None
    moved = calls.resumed[2]
    assert moved.corpus == [name.format(tmp_path) for name in source.corpus]
    assert moved.tokens == [name.format(tmp_path) for name in source.tokens]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--text-key", "body"),
        ("--preset", "tiny"),
        ("--config", "run.toml"),
        ("--precision", "float32"),
        ("--seed", "0"),
    ],
)
def test_a_resumed_run_refuses_what_would_change_it(
    flag: str, value: str, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["--resume", flag, value]) == 2
    assert calls.resumed is None
    assert f"{flag} cannot change a run that is resumed" in capsys.readouterr().err


def test_the_configuration_is_printed_and_nothing_begun(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["--preset", "base", "--seed", "5", "--print-config"]) == 0
    assert capsys.readouterr().out == to_toml(resolve_config(preset="base", settings=["seed=5"]))
    assert calls.begun is calls.completed is None


@pytest.mark.parametrize("steps", ["0", "-3"])
@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_no_steps_are_refused(resume: list[str], steps: str, calls: Calls) -> None:
    assert train.main([*resume, "--max-steps", steps]) == 2
    assert calls.begun is calls.resumed is None


def test_one_step_is_a_run(calls: Calls) -> None:
    assert train.main(["--max-steps", "1"]) == 0
    assert calls.completed == (calls.trainer, calls.stop, 1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_gives_the_exit_code_of_a_shell(number: int, code: int, calls: Calls) -> None:
    calls.stop.requested = number
    assert train.main([]) == code
    assert calls.completed is not None


def test_a_run_stopped_before_its_first_step_says_how_to_begin(calls: Calls) -> None:
    calls.error = StoppedError("the command")
    calls.stop.requested = signal.SIGTERM
    assert train.main([]) == 143
    assert calls.completed is None
    assert calls.said == ["stopped before the first step; to go on:", "the command"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("the disk is full"), "the disk is full"),
        (
            MemoryError("9 TiB"),
            "out of memory (9 TiB): begin a run with a larger accumulate, or a smaller preset",
        ),
    ],
)
def test_an_error_for_people_is_one_line_and_exit_code_2(
    error: Exception, line: str, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.error = error
    assert train.main([]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"python -m electra_ref.train: error: {line}\n"
    assert printed.out == ""


def test_a_mistake_of_ours_is_not_hidden(calls: Calls) -> None:
    calls.error = ZeroDivisionError("a mistake")
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        train.main([])


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_no_minutes_are_refused(
    minutes: str, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["--max-minutes", minutes]) == 2
    assert calls.begun is None
    assert f"--max-minutes {minutes}: a number above 0" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["single_segment_probability", "short_probability"])
def test_where_sentences_are_cut_needs_sentences(
    key: str, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens, chosen = ["--tokens", "ids.npy"], ["--set", f"{key}=0.5"]
    assert train.main([*tokens, *chosen]) == 2
    assert calls.begun is None
    assert f"{key} needs sentences, and --tokens has none: leave it out" in capsys.readouterr().err
    assert train.main(tokens) == train.main(chosen) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unknown"], "unknown argument --unknown; --help lists all arguments"),
        (["word"], "word belongs to no argument; --help lists all arguments"),
        (["--seed", "x"], "argument --seed: invalid int value: 'x'; --help lists all arguments"),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["--max-step", "4"], "unknown argument --max-step; the nearest one is --max-steps"),
        (["--seeds=4"], "unknown argument --seeds; the nearest one is --seed"),
        (["--steps", "4"], "unknown argument --steps; write --set steps=VALUE"),
        (["--lr", "4"], "unknown argument --lr; write --set learning_rate=VALUE"),
        (["--epochs=4"], "unknown argument --epochs; write --set steps=VALUE"),
        (["--batch-size=4"], "unknown argument --batch-size; write --set batch_size=4"),
        (["--corpus"], "argument --corpus: expected at least one argument"),
        (["--device", "cpu", "--device=gpu"], "--device is given twice: name one value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(arguments) == 2
    assert calls.begun is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"python -m electra_ref.train: error: {message}")


def test_data_may_be_named_one_after_the_other(calls: Calls, tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("a.txt", "b.txt", "c.txt")]
    assert train.main(["--corpus", *names[:2], "--set", "steps=3", "--corpus", names[2]]) == 0
    assert calls.source.corpus == names


def test_an_argument_is_not_abbreviated(calls: Calls) -> None:
    assert train.main(["--max-s", "4"]) == 2
    assert calls.begun is None


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        train.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"electra_ref {version('electra-ref')}\n"


def test_help_names_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        train.main(["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    for flag in (
        *(
            "--corpus",
            "--text-key",
            "--tokens",
            "--output-dir",
            "--preset",
            "--config",
            "--set",
            "--device",
        ),
        *("--precision", "--seed", "--print-config", "--max-steps", "--resume"),
        *("--max-minutes", "--version"),
    ):
        assert flag in printed


def test_a_command_prepares_its_process_first(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(running, "prepare_process", lambda: done.append("prepared"))

    def command() -> int:
        done.append("ran")
        return 5

    assert running.run_command("program", command) == 5
    assert done == ["prepared", "ran"]


def test_a_report_catches_signals_and_tells_of_a_compilation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Freed memory is kept, and signals get their handlers back in the end."""
    from electra_ref import compilation  # noqa: PLC0415  (as the function does)

    kept: list[bool] = []
    monkeypatch.setattr(command_line, "keep_freed_memory", lambda: kept.append(True))

    @contextmanager
    def before_first_compilation(tell: Any) -> Iterator[None]:
        tell()
        yield

    monkeypatch.setattr(compilation, "before_first_compilation", before_first_compilation)
    before = signal.getsignal(signal.SIGTERM)
    with command_line.reporting() as (progress, stop):
        progress.say("begun")
        assert signal.getsignal(signal.SIGTERM) is not before
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert kept == [True]
    assert capsys.readouterr().err.splitlines()[:2] == [
        "compiling kernels for this processor: up to a minute, the first time they are needed",
        "begun",
    ]
