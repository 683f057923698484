"""A short run of every objective, adversary, sharing and input on each backend, from text on.

What a run leaves behind is compared with what its settings ask for: figures, samples, what is
printed, the saved model, and the bits after it was resumed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from electra_ref.backends import open_backend
from electra_ref.model.encoder import encoder_specs
from electra_ref.model.objectives import electra
from electra_ref.training.completing import Limits
from electra_ref.training.loop import Trainer
from electra_ref.training.pretraining.run import complete, resume
from electra_ref.training.pretraining.samples import LEGEND
from electra_ref.training.records import read_records
from electra_ref.training.saved_model import open_model
from electra_ref.training.step import train_step
from electra_ref.training.stop_signals import StopSignals
from tests.small_runs import begin_small, quiet, write_corpus
from tests.variants import GUMBEL, VARIANTS

STEPS, MIDDLE = 6, 3
STEPS_TO_LEARN = 100
SHORT: dict[str, Any] = {"steps": STEPS, "evaluate_every": STEPS, "checkpoint_every": MIDDLE,
                         "evaluation_batches": 1}  # fmt: skip
BACKENDS = [
    pytest.param("reference.float64", marks=pytest.mark.slow),
    *("cpu.float32", "cpu.bfloat16"),
    pytest.param("gpu.float32", marks=pytest.mark.gpu),
]
SCHEDULES: dict[str, dict[str, Any]] = {
    "two stages": {**VARIANTS["two stages"], "two_stage_steps": 4},
    "two stages, a checkpoint at the border": {
        **VARIANTS["two stages"], "two_stage_steps": MIDDLE
    },
    "temperatures": {
        **GUMBEL, "temperature_steps": 5, "temperature_end": 2.0,
        "gumbel_temperature_steps": 4, "gumbel_temperature_end": 0.2,
    },
}  # fmt: skip
RUNS = {**VARIANTS, **SCHEDULES}

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A corpus and a cache that all runs share."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield write_corpus(folder / "corpus.txt")


class Kind(NamedTuple):
    """What a run has, by its settings."""

    objective: str
    draws: bool  # samples
    generates: bool
    guesses: bool  # words, by a full-size encoder
    detects: bool

    @classmethod
    def of(cls, variant: dict[str, Any]) -> Kind:
        objective = variant.get("objective", "electra")
        return cls(
            objective,
            draws=objective != "mlm",
            generates=objective != "mlm" and not variant.get("uniform_generator", False),
            guesses=objective in ("mlm", "replace-mlm", "all-tokens-mlm"),
            detects=objective in ("electra", "electra-15", "all-tokens-mlm"),
        )

    def losses(self) -> set[str]:
        """Return the names of the losses of an evaluation."""
        own = {"mlm": "mlm", "replace-mlm": "replace_mlm", "all-tokens-mlm": "all_tokens"}
        names = {own.get(self.objective, "rtd")} | ({"mlm"} if self.generates else set())
        return {"loss", *(f"{name}_loss" for name in names)}

    def figures(self) -> set[str]:
        """Return the names of the figures of an evaluation."""
        figures = self.losses()
        if self.generates or self.guesses:
            figures |= {"mlm_baseline_accuracy"}
        if self.generates or self.objective == "mlm":
            figures |= {"mlm_accuracy", "generator_entropy"}
        if self.draws:
            figures |= {"sampled_accuracy", "distinct_samples", "distinct_originals"}
        if self.draws and self.guesses:
            figures |= {"encoder_mlm_loss", "encoder_mlm_accuracy"}
        if self.detects:
            figures |= {f"rtd_{name}" for name in ("accuracy", "precision", "recall", "auc")}
            figures |= {f"rtd_{name}" for name in ("masked_auc", "calibration_error")}
            figures |= {f"rtd_probability_{kind}" for kind in ("original", "replaced")}
            figures |= {"replaced_share", "hidden_cosine"}
        return figures


def bits_of(trainer: Trainer) -> list[bytes]:
    state = trainer.state
    flats = state.parameters, state.first_moment, state.second_moment
    return [trainer.backend.to_host(flat.vector).tobytes() for flat in flats]


def records_of(path: Path) -> list[dict[str, Any]]:
    records = read_records(path)
    for record in records:
        record.pop("tokens_per_second", None)
    return records


@pytest.mark.parametrize("variant", RUNS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_from_text_to_samples_and_again_from_its_middle(
    backend: str,
    variant: str,
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    device, _, precision = backend.partition(".")
    if precision == "bfloat16" and "bfloat16" not in open_backend(device, precision).name:
        pytest.skip("the processor has no bfloat16 products")
    folder = tmp_path / "run"
    changes = {**SHORT, "device": device, "precision": precision, **RUNS[variant]}
    if variant not in SCHEDULES and "two_stage_steps" in changes:
        changes["two_stage_steps"] = 2
    kind = Kind.of(changes)
    trainer = begin_small(folder, corpus, **changes)
    before = trainer.backend.to_host(trainer.state.parameters.vector).copy()
    with trainer.run:
        complete(trainer, StopSignals(), Limits(None, None, time.monotonic()))
    assert_printed(capsys.readouterr().out, kind)
    after = trainer.backend.to_host(trainer.state.parameters.vector)
    assert np.isfinite(after).all()
    assert (before != after).mean() > 0.5
    bits = bits_of(trainer)
    metrics, samples = (records_of(folder / f"{name}.jsonl") for name in ("metrics", "samples"))
    assert_figures(metrics, kind, changes)
    assert_samples(samples, kind)

    saved = open_model(folder, device, precision)
    assert saved.step == STEPS
    assert saved.opened.backend.to_host(saved.parameters.vector).tobytes() == bits[0]

    shutil.rmtree(folder / "checkpoints" / f"step-{STEPS:08d}")
    again = resume(folder, [], None, quiet(), StopSignals())
    with again.run:
        assert again.state.step == MIDDLE
        complete(again, StopSignals(), Limits(None, None, time.monotonic()))
    assert bits_of(again) == bits
    assert records_of(folder / "metrics.jsonl") == metrics
    assert records_of(folder / "samples.jsonl") == samples


def assert_printed(printed: str, kind: Kind) -> None:
    """Samples in their lines, then the figures of what the run does."""
    assert f"step {STEPS}: held-out loss " in printed
    assert (LEGEND in printed) == kind.detects
    for name, shown in (
        (" original ", True),
        ("   masked ", True),
        ("generated ", kind.draws),
        ("  guessed ", not kind.draws),
        ("  flagged ", kind.detects),
    ):
        assert (f"\n{name}" in printed) == shown, name
    for words, shown in (
        ("encoder MLM accuracy", kind.draws and kind.guesses),
        (", MLM accuracy", kind.generates or kind.objective == "mlm"),
        ("RTD AUC", kind.detects),
    ):
        assert (words in printed) == shown, words
    assert "nan" not in printed


def assert_figures(records: list[dict[str, Any]], kind: Kind, changes: dict[str, Any]) -> None:
    """Each line has the figures of its step, and no others."""
    (evaluation,) = [record for record in records if record["split"] == "held_out"]
    assert evaluation.keys() == {"step", "split", *kind.figures()}
    training = [record for record in records if record["split"] == "training"]
    assert [record["step"] for record in training] == [*range(1, STEPS + 1)]
    for record in training:
        losses = kind.losses()
        if changes.get("adversarial") == "reinforce":
            losses |= {"policy_loss", "baseline_loss"}
        if stages := changes.get("two_stage_steps"):
            losses = {"loss", "mlm_loss" if record["step"] <= stages else "rtd_loss"}
        assert record.keys() == {"step", "split", "learning_rate", "gradient_norm", *losses}
        assert all(np.isfinite(record[name]) for name in losses)
        assert record["gradient_norm"] > 0


def assert_samples(samples: list[dict[str, Any]], kind: Kind) -> None:
    """A list entry a token; what is generated or guessed differs at masked positions at most."""
    keys = {"original", "masked", "generated" if kind.draws else "guessed"}
    keys |= {"replaced", "probability"} if kind.detects else set()
    assert samples
    for sample in samples:
        assert sample.keys() == {"step", *keys}
        assert len({len(sample[key]) for key in keys}) == 1
        words = sample["generated" if kind.draws else "guessed"]
        differs = [
            word != original for word, original in zip(words, sample["original"], strict=True)
        ]
        assert "[MASK]" not in sample["original"]
        if kind.detects:
            assert differs == sample["replaced"]
            assert all(0 <= p <= 1 for p in sample["probability"])
    assert any("[MASK]" in sample["masked"] for sample in samples)
    if kind.detects:
        assert any(any(sample["replaced"]) for sample in samples)


class Recorded(NamedTuple):
    """The state after a number of steps, by the name of the parameter."""

    parameters: dict[str, Any]
    moments: dict[str, tuple[Any, Any]]


def recorded(trainer: Trainer) -> Recorded:
    state = trainer.state
    views = state.parameters.views
    moments = {
        name: (state.first_moment[name].copy(), state.second_moment[name].copy()) for name in views
    }
    return Recorded({name: view.copy() for name, view in views.items()}, moments)


def run_steps(trainer: Trainer, count: int) -> Recorded:
    """Train ``count`` steps; return the state after them."""
    task, state = trainer.task, trainer.state
    for _ in range(count):
        batches = task.batches(state.step)
        train_step(trainer.config, trainer.backend, task.objective, task.model, state, batches)
    return recorded(trainer)


def same(before: Recorded, after: Recorded, name: str) -> bool:
    """Return whether a parameter and both its moments kept their bits."""
    return before.parameters[name].tobytes() == after.parameters[name].tobytes() and all(
        old.tobytes() == new.tobytes()
        for old, new in zip(before.moments[name], after.moments[name], strict=True)
    )


def test_two_stages_train_one_network_each(corpus: Path, tmp_path: Path) -> None:
    """What a stage leaves alone keeps every bit, although all weights decay.

    The discriminator's encoder is the generator's when the second stage begins, and only then.
    """
    changes = {**VARIANTS["two stages"], "two_stage_steps": 3, "weight_decay": 0.1}
    trainer = begin_small(tmp_path / "run", corpus, **changes)
    with trainer.run:
        model, parameters = trainer.task.model, trainer.state.parameters
        networks = [[spec.name for spec in encoder_specs(network)]
                    for network in (model.generator, model.discriminator)]  # fmt: skip
        generator = [n for n in parameters.views if n.startswith("generator.")]
        discriminator = [n for n in parameters.views if n not in generator]
        assert set(networks[0]) < set(generator)
        assert set(networks[1]) < set(discriminator)
        assert generator[0] not in discriminator

        start = recorded(trainer)
        first = run_steps(trainer, 3)
        assert all(same(start, first, name) for name in discriminator)
        assert not any(same(start, first, name) for name in generator)

        heads = set(discriminator) - set(networks[1])
        electra.begin_step(model, 3, parameters)
        border = recorded(trainer)
        assert_equal_encoders(border, networks)
        assert all(same(first, border, name) for name in [*generator, *heads])

        second = run_steps(trainer, 1)
        last = run_steps(trainer, 2)
        assert all(same(first, last, name) for name in generator)
        for before, after in ((border, second), (second, last)):
            assert not any(same(before, after, name) for name in discriminator)
        # One step of Adam from the generator's weights, no more: the copy was made at the border.
        for source, target in zip(*networks, strict=True):
            moved = np.abs(second.parameters[target] - second.parameters[source])
            assert moved.max() < 5 * trainer.config.learning_rate


def assert_equal_encoders(state: Recorded, networks: list[list[str]]) -> None:
    for source, target in zip(*networks, strict=True):
        np.testing.assert_array_equal(state.parameters[target], state.parameters[source])


@pytest.mark.parametrize("step", [0, 1, 2, 4, 5, 9])
def test_the_copy_happens_once(step: int, corpus: Path, tmp_path: Path) -> None:
    changes = {**VARIANTS["two stages"], "two_stage_steps": 3}
    trainer = begin_small(tmp_path / "run", corpus, **changes)
    trainer.run.close()
    before = trainer.state.parameters.vector.copy()
    electra.begin_step(trainer.task.model, step, trainer.state.parameters)
    assert (trainer.state.parameters.vector == before).all()
    for objective in ({}, {"sharing": "none"}):  # no stages: nothing is copied at step 0
        other = begin_small(tmp_path / f"one-{len(objective)}", corpus, **objective)
        other.run.close()
        before = other.state.parameters.vector.copy()
        electra.begin_step(other.task.model, 0, other.state.parameters)
        assert (other.state.parameters.vector == before).all()


def test_evaluation_reports_both_networks_in_either_stage(corpus: Path, tmp_path: Path) -> None:
    changes = {**VARIANTS["two stages"], **SHORT, "two_stage_steps": 3, "evaluate_every": 1}
    trainer = begin_small(tmp_path / "run", corpus, **changes)
    with trainer.run:
        trainer.train(StopSignals(), STEPS)
    records = [r for r in read_records(tmp_path / "run" / "metrics.jsonl")
               if r["split"] == "held_out"]  # fmt: skip
    assert len(records) == STEPS
    for record in records:
        assert record.keys() == {"step", "split", *Kind.of({}).figures()}
    mlm, rtd = ([record[f"{name}_loss"] for record in records] for name in ("mlm", "rtd"))
    assert len(set(mlm[:3])) == 3
    assert len(set(mlm[2:])) == 1  # the generator has learned
    assert len(set(rtd[2:])) == 4


@pytest.mark.parametrize(
    "objective",
    [
        "electra",
        "mlm",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("replace-mlm", "all-tokens-mlm")),
    ],
)
def test_training_lowers_the_held_out_loss(objective: str, corpus: Path, tmp_path: Path) -> None:
    trainer = begin_small(
        tmp_path / "run", corpus, objective=objective, steps=STEPS_TO_LEARN, evaluation_batches=10
    )
    with trainer.run:
        start = trainer.task.evaluate(trainer.state.parameters, 0).metrics
        run_steps(trainer, STEPS_TO_LEARN)
        end = trainer.task.evaluate(trainer.state.parameters, STEPS_TO_LEARN).metrics
    for name in Kind.of({"objective": objective}).losses():
        before, after = start[name], end[name]
        assert before is not None
        assert after is not None
        assert after < 0.95 * before, name
