"""The training loop: steps, and between them logging, evaluation and checkpoints.

All that a run depends on is its configuration, its data and the step, so a run that is stopped
anywhere and resumed from its newest checkpoint ends with the same bits as one that is not. The loop
knows nothing of what is trained: a ``Task`` does.

Of several processes each runs the loop. All compute the steps and the evaluations together; the
first one alone has the lock of the run, and alone reads and writes its files. What it learns there
it tells the others (``of_first``), so that all go the same way.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
import shutil
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np

from electra_ref.backends import Backend
from electra_ref.batch import Batch
from electra_ref.config.training import TrainingConfig
from electra_ref.errors import UserError
from electra_ref.files import disk_errors
from electra_ref.model.labelled import LabelledBatch
from electra_ref.model.objectives import Model, Trainable
from electra_ref.model.parameters import FlatParameters
from electra_ref.processes import ALONE, Processes
from electra_ref.training.checkpoint import (
    Groups,
    checkpoint_path,
    list_checkpoints,
    load_newest_checkpoint,
    save_checkpoint,
)
from electra_ref.training.continuation import (
    configuration_of,
    last_step_without_checkpoint,
    record_changes,
    state_of,
)
from electra_ref.training.optimizer import TrainingState
from electra_ref.training.progress import Bar, Progress, format_duration
from electra_ref.training.records import Records, open_records, read_records, truncate_records
from electra_ref.training.run_directory import RunDirectory
from electra_ref.training.step import StepResult, train_step
from electra_ref.training.stop_signals import StopSignals


class Evaluation(NamedTuple):
    """What a task says of itself at one step."""

    metrics: dict[str, float | None]  # for metrics.jsonl; None where a figure is undefined
    samples: list[dict[str, Any]]  # for samples.jsonl
    summary: str  # the figures as one line for people


class Task(Protocol):
    """What a kind of run tells the loop."""

    @property
    def objective(self) -> Trainable: ...
    @property
    def model(self) -> Model: ...

    def identity(self) -> dict[str, Any]:
        """Return, as JSON, what must be the same for a checkpoint to be one of this run.

        The configuration is compared besides.
        """

    def batches(self, step: int) -> Sequence[Batch] | Sequence[LabelledBatch]:
        """Return the micro-batches of the step number ``step``, counted from 0."""

    def evaluate(self, parameters: FlatParameters, step: int) -> Evaluation:
        """Return the figures of the held-out data after ``step`` steps."""

    def warnings(self, records: Sequence[Mapping[str, Any]]) -> Sequence[str]:
        """Return a line for each thing that has just been found to go wrong.

        ``records`` are the held-out ones of metrics.jsonl, the newest last. They alone decide, so
        that a resumed run says the same.
        """

    def is_best(self, records: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether the model of the newest of the held-out ``records`` is to be kept."""

    def why_stop(self, records: Sequence[Mapping[str, Any]]) -> str | None:
        """Return why training ends before its last step, None if it goes on."""


class Trainer:
    """One run: where it stands, and what it needs to go on."""

    def __init__(
        self,
        config: TrainingConfig,
        backend: Backend,
        state: TrainingState,
        task: Task,
        run: RunDirectory,
        progress: Progress,
        processes: Processes = ALONE,
    ) -> None:
        self.config, self.backend, self.state, self.task = config, backend, state, task
        self.run, self.progress, self.processes = run, progress, processes
        self._evaluations: dict[int, Evaluation] = {}  # by step; only the last one is kept

    def restore(self, before: TrainingConfig) -> None:
        """Go back to the newest sound checkpoint, or to step 0 if none was due yet.

        ``before`` is the configuration that the run had until now. Settings that are free may have
        other values from here on; metrics.jsonl records which.

        Raises CheckpointError if there are checkpoints and none of them can be used, if the newest
        belongs to another run, or if there is none although one was due. Raises UserError if the
        run has more steps behind it than it shall have.
        """
        self.processes.of_first(lambda: self._restore(before))
        self.share_state()

    def share_state(self) -> None:
        """Give all processes the state of the first one."""
        state = self.state
        state.step = self.processes.of_first(lambda: state.step)
        if self.processes.size == 1:
            return
        for flat in self._flats():
            vector = self.backend.to_host(flat.vector)
            self.processes.share(vector)
            flat.vector[...] = self.backend.to_device(vector)

    def _restore(self, before: TrainingConfig) -> None:
        if list_checkpoints(self.run.checkpoints):
            identity, saved = self.task.identity(), self.run.checkpoints
            newest = load_newest_checkpoint(saved, warn=lambda _: None, groups=())
            configuration_of(newest, identity, self.config, self.run)  # before shapes are compared
            checkpoint = load_newest_checkpoint(saved, warn=self.progress.say, like=self._groups())
            then = configuration_of(checkpoint, identity, self.config, self.run)
            for views, group in zip(self._views(), ("model", "optimizer"), strict=True):
                for name, view in views.items():
                    view[...] = self.backend.to_device(checkpoint.groups[group][name])
            self.state.step = checkpoint.step
        else:
            if last := last_step_without_checkpoint(self.run, before):
                self.progress.say(f"no checkpoint was due up to step {last}: beginning at step 0")
            then = dataclasses.asdict(self.config)
        for path in (self.run.metrics, self.run.samples):
            truncate_records(path, self.state.step)
        self._restore_best()
        for key, old, new in record_changes(self.run, self.state.step, then, self.config):
            self.progress.say(f"from step {self.state.step} on: {key} = {new}, before {old}")

    def train(self, stop: StopSignals, last_step: int, deadline: float = math.inf) -> None:
        """Train up to ``last_step``; save a checkpoint at the end.

        End earlier if a signal asks one of the processes to, or after the first step that ends
        after ``deadline``, a time of ``time.monotonic`` in the first process. Raises UserError if
        the loss or the gradients stop being finite; the parameters of that step are not saved.
        """
        bar = Bar(self.progress, "training", last_step, start=self.state.step)
        self.progress.bar = bar
        is_last = self.state.step >= last_step or self._ends_early()
        is_first = True  # its time is that of the compiler
        is_late = False
        with self._records() as records:
            while not is_last and not stop.agree(self.processes, is_late):
                started = time.monotonic()
                result = self._step()
                seconds = time.monotonic() - started
                rate = None if is_first else result.tokens / seconds
                is_first = False
                is_last, is_late = self.state.step >= last_step, time.monotonic() >= deadline
                bar.move_to(self.state.step, _note(result.loss, rate))
                goes_on = not is_last and not is_late
                if goes_on and (left := bar.first_estimate()) is not None:
                    left = min(left, deadline - time.monotonic())
                    self.progress.say(f"about {format_duration(left)} of training left")
                if self._is_due(self.config.log_every):
                    records.metrics.append(self._training_record(result, rate))
                is_best = False
                if self._is_due(self.config.evaluate_every):
                    evaluation = self._record_evaluation(records)
                    is_best = self._is_best(self.held_out_records())
                    is_last = self._ends_early() or is_last
                    if not is_last and not is_late:  # then the caller has the last word
                        self.progress.say(f"step {self.state.step}: {evaluation.summary}")
                if self._is_due(self.config.checkpoint_every) or is_best:
                    self._save(records)
                if is_best:
                    self._save_best()
            if not self._is_due(self.config.checkpoint_every):
                self._save(records)
        self.progress.close()

    def save(self) -> None:
        """Save a checkpoint of the present step. Raises UserError."""
        with self._records() as records:
            self._save(records)

    def closing_evaluation(self) -> Evaluation:
        """Return the evaluation at the present parameters; record it if it is not recorded yet."""
        evaluation = self.evaluate()
        if self._held_out_record(evaluation) in self.held_out_records():
            return evaluation
        with self._records() as records:
            self._record_evaluation(records)
            if self._is_best(self.held_out_records()):
                self._save(records)
                self._save_best()
        return evaluation

    def evaluate(self) -> Evaluation:
        """Return the evaluation at the present parameters; it is made once a step."""
        step = self.state.step
        if step not in self._evaluations:
            self._evaluations = {step: self.task.evaluate(self.state.parameters, step)}
        return self._evaluations[step]

    def _step(self) -> StepResult:
        step = self.state.step + 1
        batches = self.task.batches(self.state.step)
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # looked for below
                result = train_step(
                    self.config,
                    self.backend,
                    self.task.objective,
                    self.task.model,
                    self.state,
                    batches,
                    self.processes,
                )
        except FloatingPointError as error:
            raise self._diverged(step, str(error)) from error
        if not math.isfinite(result.loss) or not math.isfinite(result.gradient_norm):
            what = f"loss {result.loss}, gradient norm {result.gradient_norm}"
            raise self._diverged(step, what)
        return result

    def _diverged(self, step: int, what: str) -> UserError:
        if step == 1:
            return UserError(
                f"step 1 has diverged ({what}): a setting is too large or too small, a weight, a "
                "temperature or initializer_range; start a new run with another value"
            )
        return UserError(
            f"step {step} has diverged ({what}) and is not saved; go on from the last checkpoint "
            f"at a lower rate: --resume --output-dir {shlex.quote(str(self.run.path))} --set "
            f"learning_rate={self.config.learning_rate / 2:g}; if that diverges too, start a new "
            "run with it"
        )

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.config.steps

    def _training_record(self, result: StepResult, rate: float | None) -> dict[str, Any]:
        return {
            "step": self.state.step,
            "split": "training",
            "loss": result.loss,
            **result.losses,
            "gradient_norm": result.gradient_norm,
            "learning_rate": result.learning_rate,
            "tokens_per_second": rate and round(rate, 1),
        }

    def _held_out_record(self, evaluation: Evaluation) -> dict[str, Any]:
        return {"step": self.state.step, "split": "held_out", **evaluation.metrics}

    def _records(self) -> AbstractContextManager[Records]:
        return open_records(self.run.metrics, self.run.samples, self.processes)

    def _record_evaluation(self, records: Records) -> Evaluation:
        evaluation = self.evaluate()
        records.metrics.append(self._held_out_record(evaluation))
        for sample in evaluation.samples:
            records.samples.append({"step": self.state.step, **sample})
        for warning in self.task.warnings(self.held_out_records()):
            self.progress.say(warning)
        return evaluation

    def held_out_records(self) -> list[dict[str, Any]]:
        """Return the evaluations so far, the newest last. Raises UserError."""
        return self.processes.of_first(self._read_held_out)

    def _read_held_out(self) -> list[dict[str, Any]]:
        records = read_records(self.run.metrics)
        return [record for record in records if record.get("split") == "held_out"]

    def _ends_early(self) -> bool:
        reason = self.task.why_stop(self.held_out_records())
        if reason is not None:
            self.progress.say(reason)
        return reason is not None

    def _is_best(self, records: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether the present model was evaluated, and is to be kept.

        ``records`` are the evaluations so far.
        """
        is_present = bool(records) and records[-1]["step"] == self.state.step
        return is_present and self.task.is_best(records)

    def _save_best(self) -> None:
        """Keep the present model beside the checkpoints, in the place of the one kept before.

        Its checkpoint is saved already, so a run that is killed does not resume before it.
        """
        self.processes.of_first(self._write_best)

    def _write_best(self) -> None:
        with disk_errors(f"save {self.run.best}"):
            self.run.best.mkdir(exist_ok=True)
        model = {name: self.backend.to_host(x) for name, x in self.state.parameters.views.items()}
        state = state_of(self.task.identity(), dataclasses.asdict(self.config))
        save_checkpoint(self.run.best, self.state.step, {"model": model}, state, keep=1)

    def _restore_best(self) -> None:
        """Make what is kept fit the records: a killed run may have just evaluated its best model.

        A model of a later step is deleted: newer checkpoints were damaged, and their steps are made
        again.
        """
        kept = checkpoint_path(self.run.best, self.state.step)
        with disk_errors(f"tidy {self.run.best}"):
            for path in list_checkpoints(self.run.best):
                if path > kept:
                    shutil.rmtree(path)
        if self._is_best(self._read_held_out()) and kept not in list_checkpoints(self.run.best):
            self._write_best()

    def _save(self, records: Records) -> None:
        self._require_one_state()
        self.processes.of_first(lambda: self._write_checkpoint(records))

    def _write_checkpoint(self, records: Records) -> None:
        for file in records:
            file.sync()
        save_checkpoint(
            self.run.checkpoints,
            self.state.step,
            self._groups(),
            state_of(self.task.identity(), dataclasses.asdict(self.config)),
            keep=self.config.keep_checkpoints,
        )

    def _require_one_state(self) -> None:
        """Raise UserError if the processes have parameters or moments that differ."""
        if self.processes.size == 1:
            return
        digest = 0
        for flat in self._flats():
            digest = zlib.crc32(self.backend.to_host(flat.vector).data, digest)
        for rank, other in enumerate(self.processes.gather(digest)):
            if other != digest:
                raise UserError(
                    f"step {self.state.step} is not saved: processes {self.processes.rank} and "
                    f"{rank} have drifted apart, so the memory or the processor of one of them may "
                    "be faulty; go on from the last checkpoint on other nodes: --resume "
                    f"--output-dir {shlex.quote(str(self.run.path))}"
                )

    def _flats(self) -> tuple[FlatParameters, FlatParameters, FlatParameters]:
        return self.state.parameters, self.state.first_moment, self.state.second_moment

    def _views(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the model's parameters and the optimizer's moments by their names in a file."""
        state = self.state
        moments = {
            f"{moment}.{name}": view
            for moment, flat in (
                ("first_moment", state.first_moment),
                ("second_moment", state.second_moment),
            )
            for name, view in flat.views.items()
        }
        return dict(state.parameters.views), moments

    def _groups(self) -> Groups:
        model, optimizer = (
            {name: self.backend.to_host(view) for name, view in views.items()}
            for views in self._views()
        )
        return {"model": model, "optimizer": optimizer}


def _note(loss: float, rate: float | None) -> str:
    return f"loss {loss:.2f}" + ("" if rate is None else f", {rate:,.0f} tokens/s")
