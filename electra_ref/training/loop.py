"""The training loop: steps, and between them logging, evaluation and checkpoints.

All that a run depends on is its configuration, its data and the step, so a run that is stopped
anywhere and resumed from its newest checkpoint ends with the same bits as one that is not. The loop
knows nothing of what is trained: a ``Task`` does.

Of several processes each runs the loop. All compute the steps and the evaluations together; the
first one alone has the lock of the run, and alone reads and writes its files. What it learns there
it tells the others (``of_first``), so that all go the same way.
"""

from __future__ import annotations

import math
import shlex
import time
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from electra_ref.backends import Backend
from electra_ref.config.training import TrainingConfig
from electra_ref.errors import UserError
from electra_ref.processes import ALONE, Processes
from electra_ref.training.checkpoint import NonFiniteError
from electra_ref.training.optimizer import TrainingState
from electra_ref.training.progress import Bar, Progress, format_duration
from electra_ref.training.records import Records, held_out_records, open_records
from electra_ref.training.run_directory import RunDirectory
from electra_ref.training.saving import Saver
from electra_ref.training.step import StepResult, train_step
from electra_ref.training.stop_signals import StopSignals
from electra_ref.training.task import Evaluation, Task


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
        self._saver = Saver(config, backend, state, task, run, processes)
        self._evaluations: dict[int, Evaluation] = {}  # by step; only the last one is kept
        self.is_one_of_several = False  # that are compared, so that all keep the same settings

    def restore(self, before: TrainingConfig) -> None:
        """Go back to the newest sound checkpoint, or to step 0 if none was due yet.

        ``before`` is the configuration that the run had until now. Settings that are free may have
        other values from here on; metrics.jsonl records which.

        Raises CheckpointError if there are checkpoints and none of them can be used, if the newest
        belongs to another run, or if there is none although one was due. Raises UserError if the
        run has more steps behind it than it shall have.
        """
        self._saver.restore(before, self.progress.say)

    def share_state(self) -> None:
        """Give all processes the state of the first one."""
        self._saver.share()

    def train(self, stop: StopSignals, last_step: int, deadline: float = math.inf) -> None:
        """Train up to ``last_step``; save a checkpoint at the end.

        End earlier if a signal asks one of the processes to, or after the first step that ends
        after ``deadline``, a time of ``time.monotonic`` in the first process. Raises UserError if
        the loss, the gradients or an evaluation stop being finite; the parameters of that step are
        not saved.
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
                    is_best = self._saver.is_best(self.held_out_records())
                    is_last = self._ends_early() or is_last
                    if not is_last and not is_late:  # then the caller has the last word
                        self.progress.say(f"step {self.state.step}: {evaluation.summary}")
                if self._is_due(self.config.checkpoint_every) or is_best:
                    self._saver.save(records)
                if is_best:
                    self._saver.save_best()
            if not self._is_due(self.config.checkpoint_every):
                self._saver.save(records)
        self.progress.close()

    def save(self) -> None:
        """Save a checkpoint of the present step. Raises UserError."""
        with self._records() as records:
            self._saver.save(records)

    def closing_evaluation(self) -> Evaluation:
        """Return the evaluation at the present parameters; record it if it is not recorded yet.

        Raises UserError as ``evaluate`` does.
        """
        evaluation = self.evaluate()
        if self._held_out_record(evaluation) in self.held_out_records():
            return evaluation
        with self._records() as records:
            self._record_evaluation(records)
            if self._saver.is_best(self.held_out_records()):
                self._saver.save(records)
                self._saver.save_best()
        return evaluation

    def evaluate(self) -> Evaluation:
        """Return the evaluation at the present parameters; it is made once a step.

        Raises UserError if the model has diverged.
        """
        step = self.state.step
        if step not in self._evaluations:
            try:
                self._evaluations = {step: self.task.evaluate(self.state.parameters, step)}
            except FloatingPointError as error:
                raise self._diverged(step, str(error)) from error
            except NonFiniteError as error:
                raise self._diverged(step, "the model computes NaN or infinity") from error
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
        lower = f"--set learning_rate={self.config.learning_rate / 2:g}"
        if step == 1:
            return UserError(
                f"step 1 has diverged ({what}): a setting is too large or too small, "
                "learning_rate, a weight, a temperature or initializer_range; start a new run with "
                "another value"
            )
        if step == self._saver.saved_step or self.is_one_of_several:
            return UserError(
                f"step {step} has diverged ({what}); start a new run at a lower rate: {lower}"
            )
        return UserError(
            f"step {step} has diverged ({what}) and is not saved; go on from the last checkpoint "
            f"at a lower rate: --resume --output-dir {shlex.quote(str(self.run.path))} {lower}; if "
            "that diverges too, start a new run with it"
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
        return self.processes.of_first(lambda: held_out_records(self.run.metrics))

    def _ends_early(self) -> bool:
        reason = self.task.why_stop(self.held_out_records())
        if reason is not None:
            self.progress.say(reason)
        return reason is not None


def _note(loss: float, rate: float | None) -> str:
    return f"loss {loss:.2f}" + ("" if rate is None else f", {rate:,.0f} tokens/s")
