"""Every setting of a run has the effect that it should have, and no other.

Each setting is changed alone, in a run of two steps from text to parameters. What the run knows
before its first step (figures and samples of the held-out rows) and what it ends with (figures of
the steps, parameters, moments) are compared with those of the same run without the change. A new
setting must be added to one of the tables below: a test compares them with the configuration.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.training.checkpoint import CheckpointError
from electra_ref.training.loop import Trainer
from electra_ref.training.pretraining.run import resume
from electra_ref.training.step import StepResult, train_step
from electra_ref.training.stop_signals import StopSignals
from tests.small_runs import begin_small, quiet, small_config, write_corpus

# The evaluation before the first step changes, and so do the steps.
ALL: dict[str, Any] = {
    "vocab_size": 66,
    "embedding_size": 7,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 14,
    "generator_hidden_size": 0.75,
    "generator_layers": 1.0,
    "generator_num_attention_heads": 2,
    "generator_intermediate_size": 7,
    "tie_word_embeddings": False,
    "layer_norm_eps": 1e-3,
    "initializer_range": 0.05,
    "initial_attention": "neighbours",
    "mask_probability": 0.3,
    "temperature": 3.0,
    "generator_weight": 2.0,
    "discriminator_weight": 20.0,
    "encoder_weight": 2.0,
    "objective": "electra-15",
    "sharing": "none",
    "discriminator_input": "paired",
    "exploration": 0.5,
    "disallow_correct": True,
    "uniform_generator": True,
    "max_vocab_size": 66,
    "lowercase": False,
    "strip_accents": False,
    "max_length": 18,
    "single_segment_probability": 0.5,
    "short_probability": 0.5,
    "held_out_fraction": 0.2,
    "batch_size": 6,
    "seed": 1,
    "precision": "float32",
}
# The evaluation before the first step is the same.
STEPS: dict[str, Any] = {
    "temperature_end": 400.0,
    "temperature_steps": 1,
    "adversarial": "gumbel-softmax",
    "adversarial_weight": -2.0,
    "straight_through": False,
    "gumbel_temperature": 0.5,
    "gumbel_temperature_end": 3.0,
    "gumbel_temperature_steps": 2,
    "two_stage_steps": 1,
    "hidden_dropout": 0.2,
    "attention_dropout": 0.2,
    "steps": 30,
    "learning_rate": 0.02,
    "warmup_steps": 3,
    "lr_decay_power": 2.0,
    "weight_decay": 0.1,
    "adam_beta1": 0.8,
    "adam_beta2": 0.99,
    "adam_epsilon": 1e-3,
    "gradient_clip": 0.5,
}
# A table gets rows that nothing reads: there are more parameters, all figures are the same.
SPARE_ROWS: dict[str, Any] = {"max_position_embeddings": 24, "type_vocab_size": 3}
# The same sums in another order: all figures are the same but for rounding.
ORDER: dict[str, Any] = {"accumulate": 4}
# The evaluation alone changes.
EVALUATION: dict[str, Any] = {"evaluation_batches": 1}
# Nothing of it changes: when a run reports, how much it keeps, and what its settings began with.
NOTHING: dict[str, Any] = {
    "preset": "base",
    "log_every": 2,
    "evaluate_every": 1,
    "checkpoint_every": 1,
    "keep_checkpoints": 1,
}
# Another backend, whose last bits may differ: ``test_pretraining_run`` sees that it is opened.
BACKEND: dict[str, Any] = {"device": "cpu"}
# A setting that does nothing alone: what stands beside it before and after the change.
FULL_SIZE = {"generator_hidden_size": 1.0, "generator_layers": 1.0, "num_attention_heads": 1,
             "intermediate_size": 32}  # fmt: skip
GUMBEL = {"adversarial": "gumbel-softmax"}
BESIDE: dict[str, dict[str, Any]] = {
    "initial_attention": {"embedding_size": 8},
    "encoder_weight": {"objective": "replace-mlm"},
    "temperature_end": {"temperature_steps": 40, "temperature_end": 40.0},
    "temperature_steps": {"temperature_steps": 40, "temperature_end": 40.0},
    "adversarial_weight": GUMBEL,
    "straight_through": GUMBEL,
    "gumbel_temperature": GUMBEL,
    "gumbel_temperature_end": {
        **GUMBEL, "gumbel_temperature_steps": 4, "gumbel_temperature_end": 2.0
    },
    "gumbel_temperature_steps": {
        **GUMBEL, "gumbel_temperature_steps": 4, "gumbel_temperature_end": 2.0
    },
    "two_stage_steps": {**FULL_SIZE, "sharing": "none"},
}  # fmt: skip
TABLES = (ALL, STEPS, SPARE_ROWS, ORDER, EVALUATION, NOTHING, BACKEND)

pytestmark = pytest.mark.usefixtures("quick")


class Ending(NamedTuple):
    """What a run of two steps leaves."""

    evaluation: str  # of the initial parameters: figures and samples, as JSON
    results: list[StepResult]
    vectors: npt.NDArray[np.floating[Any]]  # (3 P,)  parameters and both moments


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a corpus, a cache and room for runs.

    All runs share the cache, so a result of one must never serve another that differs.
    """
    folder = tmp_path_factory.mktemp("runs")
    write_corpus(folder / "corpus.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def endings() -> dict[str, Ending]:
    """The endings without a change, by what stands beside it."""
    return {}


@pytest.fixture
def base(key: str, folder: Path, endings: dict[str, Ending]) -> Ending:
    """The ending of the run without the change of ``key``."""
    name = f"without-{key}" if key in BESIDE else "without"
    if name not in endings:
        endings[name] = run_two_steps(folder / name, BESIDE.get(key, {}))
    return endings[name]


def end_of(folder: Path, key: str, value: Any) -> Ending:
    """Run two steps in a new folder, with one setting changed."""
    return run_two_steps(folder / f"with-{key}", {**BESIDE.get(key, {}), key: value})


def run_two_steps(folder: Path, changes: dict[str, Any]) -> Ending:
    """Run two steps in ``folder``."""
    trainer = begin_small(folder, folder.parent / "corpus.txt", **changes)
    with trainer.run:
        task, state = trainer.task, trainer.state
        metrics, samples, _ = task.evaluate(state.parameters, 0)
        results = [
            train_step(
                trainer.config, trainer.backend, task.objective, task.model, state,
                task.batches(step),
            )
            for step in range(2)
        ]  # fmt: skip
    moments = state.first_moment.vector, state.second_moment.vector
    vectors = np.concatenate([state.parameters.vector, *moments])
    return Ending(json.dumps([metrics, samples]), results, vectors)


def changes_of(table: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("key", "value"), table.items(), ids=table.keys())


def test_every_setting_stands_in_one_table_with_another_value() -> None:
    keys = [key for table in TABLES for key in table]
    assert sorted(keys) == sorted(field.name for field in dataclasses.fields(PretrainingConfig))
    for table in TABLES:
        for key, value in table.items():
            assert getattr(small_config(**BESIDE.get(key, {})), key) != value


@changes_of(ALL)
def test_what_changes_data_model_or_loss(key: str, value: Any, folder: Path, base: Ending) -> None:
    ending = end_of(folder, key, value)
    assert ending.evaluation != base.evaluation
    assert ending.results != base.results
    assert ending.vectors.tobytes() != base.vectors.tobytes()


@changes_of(STEPS)
def test_what_changes_the_steps_alone(key: str, value: Any, folder: Path, base: Ending) -> None:
    ending = end_of(folder, key, value)
    assert ending.evaluation == base.evaluation
    assert (ending.vectors != base.vectors).any()


@changes_of(SPARE_ROWS)
def test_what_makes_room_for_other_rows(key: str, value: Any, folder: Path, base: Ending) -> None:
    ending = end_of(folder, key, value)
    assert ending.evaluation == base.evaluation
    assert [result.losses for result in ending.results] == [
        pytest.approx(result.losses, rel=1e-12) for result in base.results
    ]
    assert ending.vectors.size > base.vectors.size


@changes_of(ORDER)
def test_what_changes_the_order_of_sums(key: str, value: Any, folder: Path, base: Ending) -> None:
    ending = end_of(folder, key, value)
    np.testing.assert_allclose(ending.vectors, base.vectors, rtol=1e-9, atol=1e-12)
    assert [result.tokens for result in ending.results] == [r.tokens for r in base.results]


@changes_of(EVALUATION)
def test_what_changes_the_evaluation_alone(
    key: str, value: Any, folder: Path, base: Ending
) -> None:
    ending = end_of(folder, key, value)
    assert ending.evaluation != base.evaluation
    assert ending.results == base.results
    assert ending.vectors.tobytes() == base.vectors.tobytes()


@changes_of(NOTHING)
def test_what_changes_nothing(key: str, value: Any, folder: Path, base: Ending) -> None:
    ending = end_of(folder, key, value)
    assert ending.evaluation == base.evaluation
    assert ending.results == base.results
    assert ending.vectors.tobytes() == base.vectors.tobytes()


RESUMED = {
    "free": ("steps", "learning_rate", "warmup_steps", "lr_decay_power", "device", "log_every",
             "evaluate_every", "evaluation_batches", "checkpoint_every", "keep_checkpoints"),
    "unread": ("preset", "max_vocab_size"),
}  # fmt: skip


@pytest.fixture(scope="module")
def stopped(folder: Path) -> Callable[[str], Path]:
    """Return the folder of a run that was stopped at step 3, with what stands beside a setting."""

    def run(key: str) -> Path:
        path = folder / (f"stopped-{key}" if key in BESIDE else "stopped")
        if not path.exists():
            trainer = begin_small(path, folder / "corpus.txt", **BESIDE.get(key, {}))
            with trainer.run:
                trainer.train(StopSignals(), 3)
        return path

    return run


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for table in TABLES for key, value in table.items()]
)
def test_a_checkpoint_belongs_to_its_settings(
    key: str, value: Any, stopped: Callable[[str], Path]
) -> None:
    """A run whose settings were edited: what decides about bits is named, the rest is taken."""
    trainer = _edited(stopped(key), key, value)
    before = small_config(**BESIDE.get(key, {}))
    try:
        if key in RESUMED["free"] or key in RESUMED["unread"]:
            trainer.restore(before)
            assert trainer.state.step == 3
        else:
            with pytest.raises(CheckpointError, match=rf"step-00000003 .* {key} = .* says"):
                trainer.restore(before)
    finally:
        trainer.run.close()


def _edited(path: Path, key: str, value: Any) -> Trainer:
    """Return the trainer of the run at ``path``, with the model of before and another setting."""
    again = resume(path, [], None, quiet(), StopSignals())
    changed = dataclasses.replace(again.config, **{key: value})
    return Trainer(changed, again.backend, again.state, again.task, again.run, quiet())
