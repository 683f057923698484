"""Whole runs of the training command on the CPU backend, in both precisions.

A run that is killed, or resumed with another number of threads, ends with the same bits as one that
is not. A NaN, from any source, ends the run with one line and is never saved in a checkpoint.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref import train
from electra_ref.training import loop, step
from electra_ref.training.checkpoint import load_newest_checkpoint
from tests.test_train_command import KILLED, SETTINGS, STEPS, result_of

PRECISIONS = ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)]
# Rows enough for several tasks in every kernel: 8 x 48 of them a step, widths beyond one panel.
WIDER = {
    **{key: value for key, value in SETTINGS.items() if key != "max_vocab_size"},
    "vocab_size": 155,  # 150 ids and the special tokens
    "hidden_size": 40,
    "num_attention_heads": 2,
    "intermediate_size": 72,
    "max_length": 48,
    "max_position_embeddings": 48,
    "batch_size": 8,
    "accumulate": 1,
}

Result = tuple[dict[str, Any], list[Any], list[Any]]


@pytest.fixture(scope="module")
def ids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty documents of token ids; no tokenizer has to be trained."""
    path = tmp_path_factory.mktemp("data") / "ids.npy"
    np.save(path, np.random.default_rng(0).integers(0, 150, (40, 90)))
    return path


def arguments(ids: Path, output: Path, precision: str, **changes: Any) -> list[str]:
    settings = [f"{key}={value}" for key, value in {**WIDER, **changes}.items()]
    return [
        *("--tokens", str(ids), "--output-dir", str(output)),
        *("--device", "cpu", "--precision", precision),
        *(flag for setting in settings for flag in ("--set", setting)),
    ]


def run_python(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(train.__file__).parents[1])
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module", params=PRECISIONS)
def uninterrupted(
    request: pytest.FixtureRequest, ids: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Result]:
    """The precision, and what a run in it leaves behind."""
    output = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert train.main(arguments(ids, output, request.param)) == 0
    return request.param, result_of(output)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits_on_any_number_of_threads(
    ids: Path, tmp_path: Path, uninterrupted: tuple[str, Result]
) -> None:
    """It begins on one thread and goes on with three; the other run had as many as cores."""
    precision, expected = uninterrupted
    output = tmp_path / "run"
    killed = run_python(
        *("-c", KILLED, "7"), *arguments(ids, output, precision), NUMBA_NUM_THREADS="1"
    )
    assert killed.returncode == -9, killed.stderr
    resumed = run_python(
        *("-m", "electra_ref.train", "--resume", "--output-dir", str(output)),
        NUMBA_NUM_THREADS="3",
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "bits may differ" not in resumed.stderr
    assert result_of(output) == expected


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_run_that_diverges_ends_in_one_line(ids: Path, tmp_path: Path, precision: str) -> None:
    """A step of 1e30 makes numbers that overflow; the checkpoint before them is the last."""
    output = tmp_path / "run"
    changes = {"learning_rate": 1e30, "warmup_steps": 0, "checkpoint_every": 1}
    done = run_python("-m", "electra_ref.train", *arguments(ids, output, precision, **changes))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "has diverged" in last
    assert "learning_rate" in last
    saved = load_newest_checkpoint(output / "checkpoints", warn=pytest.fail)
    assert saved.step < STEPS
    for tensors in saved.groups.values():
        assert all(np.isfinite(tensor).all() for tensor in tensors.values())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "name",
    [
        "embeddings.word_embeddings.weight",
        "generator.layer.0.attention.query_key_value.weight",
        "discriminator.layer.0.layer_norm.bias",
    ],
)
def test_a_nan_in_the_parameters_ends_the_run_before_a_checkpoint(
    name: str,
    ids: Path,
    tmp_path: Path,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One number of a tensor that every step reads whole, as if memory had failed."""

    def train_step(*everything: Any) -> Any:
        state = everything[4]
        if state.step == 2:
            state.parameters[name].reshape(-1)[0] = np.nan
        return step.train_step(*everything)

    output = tmp_path / "run"
    monkeypatch.setattr(loop, "train_step", train_step)
    assert train.main(arguments(ids, output, precision, checkpoint_every=1)) == 2
    assert "step 3 has diverged" in capsys.readouterr().err.splitlines()[-1]
    saved = load_newest_checkpoint(output / "checkpoints", warn=pytest.fail)
    assert saved.step == 2
    assert np.isfinite(saved.groups["model"][name]).all()
