"""The loop knows nothing of ELECTRA: here it trains another kind of thing.

The task is a line through points, with an objective, batches and figures of its own. It is logged,
evaluated, saved, stopped and resumed by the same loop as pre-training.
"""

from __future__ import annotations

import dataclasses
import io
import re
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from electra_ref.arrays import Array
from electra_ref.backends import reference
from electra_ref.batch import Batch
from electra_ref.config.settings import to_toml
from electra_ref.config.training import TrainingConfig
from electra_ref.errors import UserError
from electra_ref.model.losses import Counts, LossTerm, gradient_scale
from electra_ref.model.objectives import Objective
from electra_ref.model.parameters import FlatParameters, ParameterSpec, initial_values
from electra_ref.model.passes import BackwardPass, ForwardPass, linear_specs
from electra_ref.rng import RandomStream
from electra_ref.training import progress
from electra_ref.training.checkpoint import CheckpointError, load_newest_checkpoint
from electra_ref.training.loop import Trainer
from electra_ref.training.optimizer import TrainingState
from electra_ref.training.progress import Progress
from electra_ref.training.records import read_records
from electra_ref.training.run_directory import RunDirectory
from electra_ref.training.stop_signals import StopSignals
from electra_ref.training.task import Evaluation
from tests.one_stage import OneStage

CONFIG = TrainingConfig(
    steps=10, batch_size=4, accumulate=2, learning_rate=0.1, warmup_steps=0, log_every=2,
    evaluate_every=5, checkpoint_every=4, keep_checkpoints=2, device="reference",
)  # fmt: skip


class Output(NamedTuple):
    terms: tuple[LossTerm, ...]


class Line(OneStage):
    """The sum of squares of x w + b - y; the rows of ``input_ids`` are pairs (x, y)."""

    def parameter_specs(self, model: float) -> list[ParameterSpec]:
        del model
        return list(linear_specs("line", 1, 1))

    def count_losses(self, model: float, batch: Batch) -> Counts:
        del model
        return {"square": len(batch.input_ids)}

    def forward(
        self, run: ForwardPass, model: float, batch: Batch, stream: RandomStream
    ) -> tuple[Output, Any]:
        del stream
        x, y = batch.input_ids[:, :1].astype(float), batch.input_ids[:, 1:].astype(float)
        line, cache = run.linear("line", x)
        term = LossTerm("square", np.sum((line - y) ** 2), len(x), model)
        return Output((term,)), (2 * (line - y), term, cache)

    def backward(self, run: BackwardPass, model: float, counts: Counts, cache: Any) -> None:
        del model
        slope, term, linear = cache
        run.linear("line", slope * gradient_scale(term, counts), linear)


class LineTask:
    """Points on y = 3 x + 1."""

    objective: Objective = Line()
    model = 0.5  # the weight of the loss

    def __init__(self, name: str = "points") -> None:
        self.name = name
        self.asked: list[int] = []
        self.best: set[int] = set()  # numbers of evaluations
        self.enough = 1 << 30  # evaluations

    def identity(self) -> dict[str, Any]:
        return {"data": self.name}

    def batches(self, step: int) -> Sequence[Batch]:
        self.asked.append(step)
        return [batch_of(np.arange(2) + 4 * step + part) for part in (0, 2)]

    def evaluate(self, parameters: FlatParameters, step: int) -> Evaluation:
        del step
        slope = float(parameters["line.weight"][0, 0])
        return Evaluation({"slope": slope, "undefined": None}, [{"line": "seen"}], f"{slope:.1f}")

    def warnings(self, records: Sequence[Mapping[str, Any]]) -> Sequence[str]:
        del records
        return []

    def is_best(self, records: Sequence[Mapping[str, Any]]) -> bool:
        return len(records) in self.best

    def why_stop(self, records: Sequence[Mapping[str, Any]]) -> str | None:
        return "enough" if len(records) >= self.enough else None


def batch_of(x: Array) -> Batch:
    x = x % 5 - 2
    points = np.stack([x, 3 * x + 1], axis=1).astype(np.int32)
    return Batch(points, np.zeros_like(points), np.ones(points.shape, bool))


def trainer_of(run: RunDirectory, task: LineTask, config: TrainingConfig = CONFIG) -> Trainer:
    specs = task.objective.parameter_specs(task.model)
    state = TrainingState(reference, specs, initial_values(specs, config.seed, 0.5))
    return Trainer(config, reference, state, task, run, Progress())


def train(
    path: Path, last_step: int, task: LineTask, *, resume: bool = False, **changes: Any
) -> Trainer:
    run = RunDirectory.resume(path) if resume else RunDirectory.create(path, to_toml(CONFIG), {})
    with run, StopSignals() as stop:
        trainer = trainer_of(run, task, dataclasses.replace(CONFIG, **changes))
        if resume:
            trainer.restore(CONFIG)
        trainer.train(stop, last_step)
    return trainer


def what_is_left(path: Path) -> tuple[dict[str, bytes], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return tensors, metrics but timings, and samples."""
    groups = load_newest_checkpoint(path / "checkpoints", warn=pytest.fail).groups
    metrics = read_records(path / "metrics.jsonl")
    for record in metrics:
        record.pop("tokens_per_second", None)
    tensors = {f"{g}/{n}": t.tobytes() for g, ts in groups.items() for n, t in ts.items()}
    return tensors, metrics, read_records(path / "samples.jsonl")


def test_another_kind_of_run_is_trained_logged_evaluated_and_saved(tmp_path: Path) -> None:
    task = LineTask()
    trainer = train(tmp_path / "run", 10, task)
    tensors, metrics, samples = what_is_left(tmp_path / "run")
    assert task.asked == list(range(10))  # every step has rows of its own
    training = [record for record in metrics if record["split"] == "training"]
    assert [record["step"] for record in training] == [2, 4, 6, 8, 10]
    assert list(training[0]) == [
        *("step", "split", "loss", "square_loss", "gradient_norm", "learning_rate"),
    ]
    for record in training:
        assert record["loss"] == pytest.approx(0.5 * record["square_loss"])
    held_out = [record for record in metrics if record["split"] == "held_out"]
    assert [record["step"] for record in held_out] == [5, 10]
    assert held_out[-1]["slope"] == trainer.state.parameters["line.weight"][0, 0]
    assert held_out[-1]["undefined"] is None
    assert samples == [{"step": step, "line": "seen"} for step in (5, 10)]
    assert set(tensors) == {
        f"{prefix}line.{part}"
        for prefix in ("model/", "optimizer/first_moment.", "optimizer/second_moment.")
        for part in ("weight", "bias")
    }
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-00000008", "step-00000010"]  # every 4, and the end; two are kept


def test_a_loss_is_recomputed_from_its_parts(tmp_path: Path) -> None:
    """The first step by hand: means over both micro-batches, the weight, the clipped update."""
    run = RunDirectory.create(tmp_path / "run", "", {})
    config = dataclasses.replace(CONFIG, log_every=1, weight_decay=0.25, gradient_clip=0.7)
    with run, StopSignals() as stop:
        trainer = trainer_of(run, LineTask(), config)
        w, b = (float(v.ravel()[0]) for v in trainer.state.parameters.views.values())
        trainer.train(stop, 1)
        after = [float(view.ravel()[0]) for view in trainer.state.parameters.views.values()]
    (record,) = read_records(run.metrics)[:1]
    x = np.arange(4) % 5 - 2
    errors = x * w + b - (3 * x + 1)
    gradient = 0.5 * np.array([(2 * errors * x).mean(), (2 * errors).mean()])
    norm = np.linalg.norm(gradient)
    assert record["square_loss"] == pytest.approx((errors**2).mean(), rel=1e-12)
    assert record["gradient_norm"] == pytest.approx(norm, rel=1e-12)
    assert record["learning_rate"] == 0.1
    clipped = gradient * 0.7 / max(float(norm), 0.7)
    update = 0.1 * clipped / (np.sqrt(0.001 * clipped**2) + 1e-6)
    decay = np.array([0.25 * w, 0.0])
    np.testing.assert_allclose(after, [w, b] - 0.1 * (update + decay), rtol=1e-12)


@pytest.mark.parametrize("stopped_at", [1, 4, 7])
def test_a_stopped_run_resumes_to_the_same_bits(stopped_at: int, tmp_path: Path) -> None:
    train(tmp_path / "whole", 10, LineTask())
    train(tmp_path / "parts", stopped_at, LineTask())
    train(tmp_path / "parts", 10, LineTask(), resume=True)
    assert what_is_left(tmp_path / "parts") == what_is_left(tmp_path / "whole")


def test_a_signal_stops_after_the_step(tmp_path: Path) -> None:
    class Interrupting(LineTask):
        def batches(self, step: int) -> Sequence[Batch]:
            if step == 2:
                signal.raise_signal(signal.SIGTERM)
            return super().batches(step)

    trainer = train(tmp_path / "run", 10, Interrupting())
    assert trainer.state.step == 3
    assert load_newest_checkpoint(tmp_path / "run" / "checkpoints", warn=pytest.fail).step == 3


def test_a_checkpoint_of_another_task_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run", 4, LineTask())
    with pytest.raises(CheckpointError, match="belongs to a run on other data: put back those"):
        train(tmp_path / "run", 10, LineTask("other points"), resume=True)


def test_an_evaluation_is_made_once_a_step(tmp_path: Path) -> None:
    made: list[float] = []

    class Counting(LineTask):
        def evaluate(self, parameters: FlatParameters, step: int) -> Evaluation:
            made.append(float(parameters["line.weight"][0, 0]))
            return super().evaluate(parameters, step)

    trainer = train(tmp_path / "run", 10, Counting())
    assert len(made) == 2  # at steps 5 and 10
    assert trainer.evaluate().metrics["slope"] == made[-1]
    assert len(made) == 2
    trainer.state.step += 1
    trainer.evaluate()
    assert len(made) == 3


@pytest.mark.parametrize(
    ("step", "advice"),
    [
        (3, "is not saved; .* --set learning_rate=0.05; if"),
        (1, ": a setting is too large or too small, .* start a new run"),  # nothing to go on from
    ],
)
@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_step_that_is_not_finite_ends_the_run(
    broken: str, step: int, advice: str, tmp_path: Path
) -> None:
    """Each alone: a loss without a gradient that shows it, and the other way round."""

    class Broken(Line):
        steps = 0

        def at_step(self, model: Any, step: int) -> Any:
            self.steps = step + 1
            return model

        def forward(self, *arguments: Any) -> tuple[Output, Any]:
            output, cache = super().forward(*arguments)
            term = output.terms[0]._replace(sum=np.float64(np.nan))
            is_broken = broken == "loss" and self.steps == step
            return (Output((term,)) if is_broken else output), cache

        def backward(self, run: BackwardPass, model: float, counts: Counts, cache: Any) -> None:
            slope, *rest = cache
            slope = slope * np.inf if broken == "gradient" and self.steps == step else slope
            super().backward(run, model, counts, (slope, *rest))

    class BrokenTask(LineTask):
        objective: Objective = Broken()

    with pytest.raises(UserError, match=rf"step {step} has diverged .*{advice}"):
        train(tmp_path / "run", 10, BrokenTask())


def test_one_of_several_runs_does_not_go_on_at_another_rate(tmp_path: Path) -> None:
    """They are compared: a mean over other settings would say nothing."""
    run = RunDirectory.create(tmp_path / "run", to_toml(CONFIG), {})
    with run:
        trainer = trainer_of(run, LineTask())
        assert "--resume" in str(trainer._diverged(3, "loss nan"))
        trainer.is_one_of_several = True
        assert str(trainer._diverged(3, "loss nan")).endswith(
            f"start a new run at a lower rate: --set learning_rate={CONFIG.learning_rate / 2:g}"
        )


def test_the_time_left_is_told_once_after_the_first_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_TO_ESTIMATE", 0.0)
    stream = io.StringIO()
    run = RunDirectory.create(tmp_path / "run", to_toml(CONFIG), {})
    with run, StopSignals() as stop:
        trainer = trainer_of(run, LineTask())
        trainer.progress = Progress(stream)
        trainer.train(stop, 4)
    assert stream.getvalue() == "about 0 s of training left\n"


def test_a_run_ends_after_the_step_that_passes_the_deadline(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", to_toml(CONFIG), {})
    with run, StopSignals() as stop:
        trainer = trainer_of(run, LineTask())
        trainer.train(stop, 10, deadline=time.monotonic() + 3600)
        assert trainer.state.step == 10
        trainer = trainer_of(run, LineTask())
        trainer.train(stop, 10, deadline=time.monotonic() - 1)
        assert trainer.state.step == 1
    assert load_newest_checkpoint(run.checkpoints, warn=pytest.fail).step == 1


def test_the_task_may_warn_of_each_evaluation_that_is_recorded(tmp_path: Path) -> None:
    """It is given the held-out records so far, also those before a resume."""

    class Talking(LineTask):
        def warnings(self, records: Sequence[Mapping[str, Any]]) -> Sequence[str]:
            return [f"{len(records)} evaluations, slope {records[-1]['slope']}"]

    run, stream = RunDirectory.create(tmp_path / "run", "", {}), io.StringIO()
    for last_step in (7, 10):
        with run, StopSignals() as stop:
            trainer = trainer_of(run, Talking())
            trainer.progress.stream = stream
            if last_step == 10:
                trainer.restore(CONFIG)
            trainer.train(stop, last_step)
            trainer.closing_evaluation()
            trainer.closing_evaluation()  # it is recorded already
        if last_step == 7:
            run = RunDirectory.resume(tmp_path / "run")
    said = [line for line in stream.getvalue().splitlines() if "evaluations" in line]
    records = [r for r in read_records(run.metrics) if r["split"] == "held_out"]
    assert [record["step"] for record in records] == [5, 7, 10]
    assert said == [f"{n} evaluations, slope {r['slope']}" for n, r in enumerate(records, 1)]


def test_the_last_evaluation_is_left_to_the_caller(tmp_path: Path) -> None:
    """The command prints it in the end, and once is enough."""
    stream = io.StringIO()
    run = RunDirectory.create(tmp_path / "run", to_toml(CONFIG), {})
    with run, StopSignals() as stop:
        trainer = trainer_of(run, LineTask())
        trainer.progress = Progress(stream)
        trainer.train(stop, 10)
    assert [line[:7] for line in stream.getvalue().splitlines()] == ["step 5:"]


def test_the_time_of_the_compiler_is_no_rate(tmp_path: Path) -> None:
    train(tmp_path / "run", 4, LineTask(), log_every=1)
    rates = [record["tokens_per_second"] for record in read_records(tmp_path / "run/metrics.jsonl")]
    assert rates[0] is None
    assert all(rate > 0 for rate in rates[1:])


def test_progress_names_loss_and_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    stream = io.StringIO()
    run = RunDirectory.create(tmp_path / "run", to_toml(CONFIG), {})
    with run, StopSignals() as stop:
        trainer = trainer_of(run, LineTask())
        trainer.progress = Progress(stream)
        trainer.train(stop, 3)
    lines = stream.getvalue().splitlines()
    loss = r"loss \d+\.\d\d"
    assert re.match(rf"training: 1/3 \(33 %\), {loss}$", lines[0])  # its time is the compiler's
    assert re.match(rf"training: 2/3 \(66 %\), {loss}, [\d,]+ tokens/s, \d+ s left$", lines[1])


def test_a_token_that_cannot_be_drawn_ends_the_run_too(tmp_path: Path) -> None:
    class Undrawable(Line):
        def forward(self, *_: Any) -> tuple[Output, Any]:
            raise FloatingPointError("no token can be drawn")

    class UndrawableTask(LineTask):
        objective: Objective = Undrawable()

    with pytest.raises(UserError, match=r"step 1 has diverged \(no token can be drawn\)"):
        train(tmp_path / "run", 10, UndrawableTask())


def test_an_evaluation_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    """At a step that is due its checkpoint is not saved; at any other it is saved already."""

    class Diverging(LineTask):
        def evaluate(self, *_: Any) -> Evaluation:
            raise FloatingPointError("held-out loss nan")

    with pytest.raises(UserError, match=r"step 5 has diverged \(held-out loss nan\) and is not"):
        train(tmp_path / "run", 10, Diverging(), checkpoint_every=5)
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    trainer = train(tmp_path / "other", 3, Diverging())
    with pytest.raises(UserError, match=r"step 3 .* start a new run at a lower rate: --set learn"):
        trainer.closing_evaluation()
