"""Every setting of a fine-tuning run reaches something: see ``test_settings_of_a_run``.

Each is changed alone in a run of two steps. A new setting must be added to one of the tables.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.config.settings import keys_of
from electra_ref.training.finetuning import session
from electra_ref.training.finetuning.configuring import new_settings
from electra_ref.training.finetuning.run import Files, begin, prepare
from electra_ref.training.step import train_step
from electra_ref.training.stop_signals import StopSignals
from tests.small_finetuning import SMALLEST, write_encoder, write_examples
from tests.small_runs import quiet

BASE = {"batch_size": 4, "learning_rate": 0.01, "layerwise_decay": 0.8, "epochs": 20,
        "warmup_proportion": 0.0,
        "device": "reference", "precision": "float64", "bucket_batches": 2}  # fmt: skip
# The model decides about these: another value is refused, see ``test_finetuning_start``.
MODELS = (
    "vocab_size", "embedding_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "intermediate_size", "max_position_embeddings", "type_vocab_size", "layer_norm_eps",
    "lowercase", "strip_accents", "task",
)  # fmt: skip
# What the run begins with is another, and so are its steps.
BEGINNING: dict[str, Any] = {
    "from_scratch": "true", "initializer_range": 0.1, "seed": 1, "precision": "float32",
    "head": "huggingface", "initial_attention": "neighbours",
}  # fmt: skip
# The steps alone change.
STEPS: dict[str, Any] = {
    "epochs": 3, "warmup_proportion": 0.5, "layerwise_decay": 0.5, "layerwise_gap": "false",
    "bucket_batches": 1, "batch_size": 2, "max_length": 8, "head_dropout": 0.5, "steps": 9,
    "warmup_steps": 5, "learning_rate": 0.02, "lr_decay_power": 2.0, "weight_decay": 0.5,
    "adam_beta1": 0.8, "adam_beta2": 0.99, "adam_epsilon": 1e-3, "gradient_clip": 0.01,
    "hidden_dropout": 0.3, "attention_dropout": 0.3,
}  # fmt: skip
# Sums in another order.
ORDER = {"accumulate": 2}
# When a run reports and ends, and how much it keeps.
NOTHING: dict[str, Any] = {
    "log_every": 2, "evaluate_every": 1, "checkpoint_every": 1, "keep_checkpoints": 2,
    "patience": 3,
}  # fmt: skip
BACKEND = {"device": "cpu"}
# What stands beside a setting: the original's head for tags drops nothing, and begins otherwise.
BESIDE = {
    **{key: {"head": "huggingface"} for key in ("head_dropout", "initializer_range")},
    "initial_attention": {"from_scratch": "true"},
}

pytestmark = pytest.mark.usefixtures("quick")


class Ending(NamedTuple):
    """What a run of two steps begins with and leaves."""

    first: bytes
    evaluation: str
    last: Any


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_encoder(folder / "model", **{**SMALLEST, "embedding_size": 8})
    write_examples(folder / "train", "tagging", 16, 0)
    write_examples(folder / "dev", "tagging", 6, 1)
    return folder


def run_two_steps(folder: Path, output: Path, changes: dict[str, Any]) -> Ending:
    """Run two steps in ``output``, with ``changes`` of the settings."""
    progress = quiet()
    encoder = session.encoder_at(folder / "model", progress)
    given = [f"{key}={value}" for key, value in {**BASE, **changes}.items()]
    settings = new_settings("tagging", encoder, None, given)
    files = Files(*(str(folder / name) for name in ("model", "train.jsonl", "dev.jsonl")))
    prepared = prepare(settings, files, encoder.tokenizer, progress, StopSignals())
    trainer = begin(output, prepared.settings, files, encoder, prepared, progress)
    with trainer.run:
        task, state = trainer.task, trainer.state
        first = state.parameters.vector.tobytes()
        metrics, samples, _ = task.evaluate(state.parameters, 0)
        for step in range(2):
            train_step(
                trainer.config, trainer.backend, task.objective, task.model, state,
                task.batches(step),
            )  # fmt: skip
    last = np.concatenate([state.parameters.vector, state.first_moment.vector])
    return Ending(first, json.dumps([metrics, samples]), last)


@pytest.fixture(scope="module")
def base(folder: Path) -> Ending:
    return run_two_steps(folder, folder / "base", {})


def test_every_setting_stands_in_one_table() -> None:
    keys = [*MODELS, *BEGINNING, *STEPS, *ORDER, *NOTHING, *BACKEND]
    assert sorted(keys) == sorted(field.name for field in dataclasses.fields(FinetuningConfig))


@pytest.mark.parametrize("key", BEGINNING)
def test_what_changes_the_beginning(key: str, folder: Path, tmp_path: Path, base: Ending) -> None:
    beside = BESIDE.get(key, {})
    base = run_two_steps(folder, tmp_path / "base", beside) if beside else base
    ending = run_two_steps(folder, tmp_path / "run", {**beside, key: BEGINNING[key]})
    assert ending.first != base.first
    assert ending.last.tobytes() != base.last.tobytes()


@pytest.mark.parametrize("key", STEPS)
def test_what_changes_the_steps(key: str, folder: Path, tmp_path: Path, base: Ending) -> None:
    beside = BESIDE.get(key, {})
    base = run_two_steps(folder, tmp_path / "base", beside) if beside else base
    ending = run_two_steps(folder, tmp_path / "run", {**beside, key: STEPS[key]})
    assert ending.first == base.first
    assert ending.last.tobytes() != base.last.tobytes()
    assert (ending.evaluation == base.evaluation) == (key != "max_length")


def test_micro_batches_change_the_order_of_sums(folder: Path, tmp_path: Path, base: Ending) -> None:
    ending = run_two_steps(folder, tmp_path / "run", dict(ORDER))
    np.testing.assert_allclose(ending.last, base.last, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("key", NOTHING)
def test_what_changes_no_step(key: str, folder: Path, tmp_path: Path, base: Ending) -> None:
    ending = run_two_steps(folder, tmp_path / "run", {key: NOTHING[key]})
    assert ending.evaluation == base.evaluation
    assert ending.last.tobytes() == base.last.tobytes()


def test_random_beginnings_follow_the_seed(folder: Path, tmp_path: Path) -> None:
    beginnings = [
        run_two_steps(folder, tmp_path / str(number), {"from_scratch": "true", "seed": seed}).first
        for number, seed in enumerate((0, 0, 1))
    ]
    assert beginnings[0] == beginnings[1] != beginnings[2]


def test_the_model_decides_about_its_sizes_and_its_text(folder: Path) -> None:
    encoder = session.encoder_at(folder / "model", quiet())
    assert encoder.settings().keys() == set(MODELS) - {"task"}


def test_what_may_change_in_a_run_that_has_begun() -> None:
    assert sorted(keys_of(FinetuningConfig, "free")) == [
        "checkpoint_every", "device", "evaluate_every", "keep_checkpoints", "learning_rate",
        "log_every", "lr_decay_power", "steps", "warmup_steps",
    ]  # fmt: skip
