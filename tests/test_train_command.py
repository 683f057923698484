"""The command as a person runs it: start, stop, kill, resume, and wrong input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref import evaluate, train
from electra_ref.training import loop, step
from electra_ref.training.checkpoint import load_newest_checkpoint
from electra_ref.training.progress import Progress
from electra_ref.training.records import read_records

STEPS = 12
SETTINGS = {
    "max_vocab_size": 60,
    "embedding_size": 8,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 16,
    "max_length": 16,
    "batch_size": 4,
    "accumulate": 2,
    "steps": STEPS,
    "warmup_steps": 2,
    "log_every": 1,
    "evaluate_every": 4,
    "evaluation_batches": 2,
    "checkpoint_every": 5,
}

# A process that kills itself, as the kernel would, when it is about to begin one of the steps.
KILLED = """
import os, signal, sys
from electra_ref import train
from electra_ref.training import loop
original = loop.train_step
def train_step(config, backend, objective, model, state, batches, processes):
    if state.step == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(config, backend, objective, model, state, batches, processes)
loop.train_step = train_step
train.main(sys.argv[2:])
"""


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Thirty small documents, and a cache of the test's own."""
    random = np.random.default_rng(0)
    words = ["tree", "stone", "river", "cloud", "bird", "green", "old", "runs", "sings", "the"]
    documents = ["\n".join(" ".join(random.choice(words, 9)) for _ in range(6)) for _ in range(30)]
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(documents))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return path


def arguments(corpus: Path, output: Path, **changes: Any) -> list[str]:
    settings = [f"{key}={value}" for key, value in {**SETTINGS, **changes}.items()]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    return ["--corpus", str(corpus), "--output-dir", str(output), "--device", "reference", *flags]


def result_of(output: Path) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """Return what must not depend on interruptions: tensors, metrics but timings, samples."""
    checkpoint = load_newest_checkpoint(output / "checkpoints", warn=pytest.fail)
    assert checkpoint.step == STEPS
    tensors = {
        f"{group}/{name}": tensor.tobytes()
        for group, entries in checkpoint.groups.items()
        for name, tensor in entries.items()
    }
    metrics = read_records(output / "metrics.jsonl")
    for record in metrics:
        record.pop("tokens_per_second", None)
    return (
        tensors,
        without_closing(metrics),
        without_closing(read_records(output / "samples.jsonl")),
    )


def without_closing(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the evaluation with which a run of fewer steps closed."""
    return [
        r
        for r in records
        if r.get("split") == "training" or r["step"] % SETTINGS["evaluate_every"] == 0
    ]


@pytest.fixture
def uninterrupted(corpus: Path, tmp_path: Path) -> tuple[dict[str, Any], list[Any], list[Any]]:
    output = tmp_path / "uninterrupted"
    assert train.main(arguments(corpus, output)) == 0
    return result_of(output)


def test_a_run_leaves_all_that_the_readme_names(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert train.main(arguments(corpus, output)) == 0
    names = {path.name for path in output.iterdir()}
    assert names >= {
        *("config.toml", "environment.json", "data.json", "vocab.txt"),
        *("metrics.jsonl", "samples.jsonl", "checkpoints"),
    }
    _, metrics, samples = result_of(output)
    steps = [record["step"] for record in metrics if record["split"] == "training"]
    assert steps == list(range(1, STEPS + 1))
    training = {"loss", "mlm_loss", "rtd_loss", "learning_rate", "gradient_norm"}
    held_out = {"mlm_accuracy", "sampled_accuracy", "rtd_accuracy", "rtd_precision", "rtd_recall"}
    assert set(metrics[0]) >= training
    assert set(metrics[-1]) >= {*held_out, "rtd_auc", "mlm_baseline_accuracy"}
    assert {sample["step"] for sample in samples} == {4, 8, 12}
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("original", "masked", "generated", "RTD AUC"))
    assert "\33" not in printed  # no colour where nobody looks


@pytest.mark.parametrize(
    "step", [0, 5, *(pytest.param(step, marks=pytest.mark.slow) for step in (3, 11))]
)
def test_a_killed_run_resumes_to_the_same_bits(
    step: int, corpus: Path, tmp_path: Path, uninterrupted: Any
) -> None:
    output = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(step), *arguments(corpus, output)]
    environment = {**os.environ, "PYTHONPATH": str(Path(train.__file__).parents[1])}
    finished = subprocess.run(
        command, capture_output=True, timeout=120, check=False, env=environment
    )
    assert finished.returncode == -signal.SIGKILL, finished.stderr.decode()
    assert train.main(["--resume", "--output-dir", str(output)]) == 0
    assert result_of(output) == uninterrupted


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_saves_and_resumes_to_the_same_bits(
    number: signal.Signals,
    code: int,
    corpus: Path,
    tmp_path: Path,
    uninterrupted: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, output = step.train_step, tmp_path / "stopped"

    def train_step(*everything: Any) -> Any:
        result = original(*everything)
        if everything[4].step == 7:
            os.kill(os.getpid(), number)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", train_step)
        assert train.main(arguments(corpus, output)) == code
    assert load_newest_checkpoint(output / "checkpoints", warn=pytest.fail).step == 7
    assert train.main(["--resume", "--output-dir", str(output)]) == 0
    assert result_of(output) == uninterrupted


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    corpus: Path, tmp_path: Path, uninterrupted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "damaged"
    assert train.main([*arguments(corpus, output), "--max-steps", "11"]) == 0
    newest = output / "checkpoints" / "step-00000011" / "model.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    capsys.readouterr()
    assert train.main(["--resume", "--output-dir", str(output)]) == 0
    assert "step-00000011" in capsys.readouterr().err
    assert result_of(output) == uninterrupted


def test_a_checkpoint_of_another_run_is_refused(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for output, seed in ((one, 1), (other, 2)):
        assert train.main([*arguments(corpus, output, seed=seed), "--max-steps", "5"]) == 0
    shutil.rmtree(one / "checkpoints")
    shutil.copytree(other / "checkpoints", one / "checkpoints")
    assert train.main(["--resume", "--output-dir", str(one)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "step-00000005 was computed with seed = 2, and " in error
    assert "config.toml says 1; set that back, or start a new run" in error


def test_micro_batches_and_max_steps_do_not_change_the_schedule(
    corpus: Path, tmp_path: Path
) -> None:
    whole, split = tmp_path / "whole", tmp_path / "split"
    for output, accumulate in ((whole, 1), (split, 4)):
        settings = arguments(corpus, output, accumulate=accumulate, precision="float64")
        assert train.main([*settings, "--max-steps", "6"]) == 0
        assert train.main(["--resume", "--output-dir", str(output)]) == 0
    losses = [
        [record["loss"] for record in read_records(output / "metrics.jsonl")]
        for output in (whole, split)
    ]
    assert len(losses[0]) == STEPS + STEPS // 4 + 1  # and the evaluation at step 6
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-12)


def test_a_loss_that_is_not_finite_stops_the_run_before_a_checkpoint(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "diverged"
    settings = arguments(corpus, output, learning_rate=1e30, warmup_steps=0, checkpoint_every=1)
    assert train.main(settings) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "diverged" in error
    assert f"--resume --output-dir {output} --set learning_rate=5e+29" in error
    checkpoint = load_newest_checkpoint(output / "checkpoints", warn=pytest.fail)
    assert all(np.isfinite(tensor).all() for tensor in checkpoint.groups["model"].values())


def test_the_advice_after_a_divergence_can_be_followed(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, original = tmp_path / "diverged", step.train_step

    def train_step(config: Any, *everything: Any) -> Any:
        result = original(config, *everything)
        diverges = everything[3].step == 7 and config.learning_rate > 1e-4
        return result._replace(loss=np.inf) if diverges else result

    monkeypatch.setattr(loop, "train_step", train_step)
    assert train.main(arguments(corpus, output, learning_rate=2e-4)) == 2
    assert load_newest_checkpoint(output / "checkpoints", warn=pytest.fail).step == 5
    lower = ["--resume", "--output-dir", str(output), "--set", "learning_rate=1e-4"]
    assert train.main(lower) == 0
    assert load_newest_checkpoint(output / "checkpoints", warn=pytest.fail).step == STEPS


def test_token_ids_train_without_text(corpus: Path, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 40, (30, 50))
    np.save(tmp_path / "ids.npy", ids)
    settings = arguments(corpus, tmp_path / "ids")[2:]
    assert train.main(["--tokens", str(tmp_path / "ids.npy"), *settings]) == 0
    assert (tmp_path / "ids" / "vocab.txt").read_text().splitlines()[:6] == [
        *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "0")
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--set", "hiden_size=3"], "nearest one is 'hidden_size'"),
        (["--set", "hidden_size"], "key=value"),
        (["--set", "hidden_size=-1"], "hidden_size = -1"),
        (["--corpus", "missing.txt"], "missing.txt"),
        (["--config", "missing.toml"], "missing.toml"),
        (["--corpus", "corpus.txt", "--tokens", "ids.npy"], "exclude each other"),
        (["--max-steps", "0"], "--max-steps"),
        (["--resume"], "runs"),
        (["--resume", "--preset", "tiny"], "--preset"),
        (["--resume", "--print-config"], "--print-config"),
        (["--corpus", ""], "an empty name stands for no file"),
        (["--config", ""], "an empty name stands for no file"),
        (["--output-dir", ""], "an empty name stands for no folder"),
        (["--corpus", "missing"], "No such file"),
        (["--set", "learning_rate=nan"], "no finite number"),
        (["--output-dir", "x" * 300], "too long"),
        (["--output-dir", "."], "something else"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_clear_line_and_exit_code_2(
    wrong: list[str], message: str, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(corpus.parent.rglob("*"))
    assert train.main(wrong) == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1]
    left = {path.name for path in corpus.parent.rglob("*") if path not in before}
    assert left <= {"cache", "electra_ref", "runs"}  # folders, and no run in them


@pytest.mark.parametrize("exists", [False, True])
def test_a_run_without_usable_data_leaves_its_folder_as_it_was(
    exists: bool, corpus: Path, tmp_path: Path
) -> None:
    output, empty = tmp_path / "run", tmp_path / "empty.txt"
    empty.touch()
    if exists:
        output.mkdir()
    assert train.main(arguments(empty, output)) == 2
    assert output.exists() == exists
    assert not exists or not any(output.iterdir())
    assert train.main([*arguments(corpus, output), "--max-steps", "1"]) == 0


def test_a_run_stopped_while_its_data_were_prepared_resumes_as_if_it_had_not_been(
    corpus: Path, tmp_path: Path, uninterrupted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "stopped"
    shutil.rmtree(tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(
            Progress, "stage", lambda *_: os.kill(os.getpid(), signal.SIGINT), raising=True
        )
        assert train.main(arguments(corpus, output)) == 130
    assert not (output / "vocab.txt").exists()
    assert train.main(["--resume", "--output-dir", str(output)]) == 0
    assert result_of(output) == uninterrupted
    for name in ("config.toml", "data.json", "vocab.txt"):
        assert (output / name).read_bytes() == (tmp_path / "uninterrupted" / name).read_bytes()


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"key": 5}', '{"key": "a\\u0000"}'])
def test_a_damaged_record_of_the_data_is_named(
    text: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert train.main([*arguments(corpus, output), "--max-steps", "1"]) == 0
    (output / "data.json").write_text(text)
    assert train.main(["--resume", "--output-dir", str(output)]) == 2
    assert "data.json is damaged" in capsys.readouterr().err.splitlines()[-1]


def test_a_lost_record_of_the_data_costs_no_vocabulary(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another text is refused before anything of the run is replaced; the first one goes on."""
    output, resume = tmp_path / "run", ["--resume", "--output-dir", str(tmp_path / "run")]
    assert train.main([*arguments(corpus, output), "--max-steps", "1"]) == 0
    kept = {name: (output / name).read_bytes() for name in ("data.json", "vocab.txt")}
    (output / "data.json").unlink()
    text = corpus.read_text()
    corpus.write_text(text + "\n\na quick fox")
    assert evaluate.main(["--model", str(output)]) == 2
    assert "data.json is missing: resume the run" in capsys.readouterr().err.splitlines()[-1]
    assert train.main(resume) == 2
    assert "other data" in capsys.readouterr().err.splitlines()[-1]
    assert (output / "vocab.txt").read_bytes() == kept["vocab.txt"]
    assert not (output / "data.json").exists()
    corpus.write_text(text)
    assert train.main([*resume, "--max-steps", "2"]) == 0
    assert {name: (output / name).read_bytes() for name in kept} == kept
    assert evaluate.main(["--model", str(output)]) == 0


@pytest.mark.parametrize(
    ("sink", "code", "message"),
    [
        ("> /dev/full", 2, "write to standard output: No space left on device; free some space"),
        ("| true", 128 + signal.SIGPIPE, ""),
    ],
)
def test_a_full_standard_output_is_one_line_and_a_closed_one_is_none(
    sink: str, code: int, message: str
) -> None:
    command = f"{sys.executable} -m electra_ref.train --print-config"
    environment = {**os.environ, "PYTHONPATH": str(Path(train.__file__).parents[1])}
    finished = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} {sink}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert finished.returncode == code
    assert len(finished.stderr.splitlines()) == bool(message)
    assert message in finished.stderr


def test_too_little_memory_is_one_line(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def train_step(*_: Any) -> Any:
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(loop, "train_step", train_step)
    assert train.main(arguments(corpus, tmp_path / "run")) == 2
    assert "9 TiB" in capsys.readouterr().err.splitlines()[-1]


def test_invalid_utf_8_is_reported(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus.write_bytes(corpus.read_bytes() + b"\n\nthe old \xff\xfe tree")
    assert train.main([*arguments(corpus, tmp_path / "run"), "--max-steps", "1"]) == 0
    assert "2 bytes" in capsys.readouterr().err


def test_print_config_prints_what_a_config_file_may_hold(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["--preset", "base", "--set", "steps=7", "--print-config"]) == 0
    printed = capsys.readouterr().out
    path = corpus.parent / "base.toml"
    path.write_text(printed)
    assert train.main(["--config", str(path), "--print-config"]) == 0
    assert capsys.readouterr().out == printed
    assert "steps = 7 " in printed


def test_metrics_are_json_without_nan(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    assert train.main(arguments(corpus, output)) == 0
    for line in (output / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
