"""The training loop: steps, and between them logging, evaluation and checkpoints.

All that a run depends on is its configuration, its data and the step, so a run that is stopped
anywhere and resumed from its newest checkpoint ends with the same bits as one that is not.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from electra_ref.backends import Backend
from electra_ref.batch import Batch
from electra_ref.config import Config
from electra_ref.errors import UserError
from electra_ref.model.electra import ElectraOutput, electra_of
from electra_ref.text.prepare import PreparedData
from electra_ref.training.checkpoint import (
    CheckpointError,
    Groups,
    list_checkpoints,
    load_newest_checkpoint,
    save_checkpoint,
)
from electra_ref.training.metrics import Metrics, evaluate
from electra_ref.training.optimizer import TrainingState
from electra_ref.training.progress import Bar, Progress
from electra_ref.training.records import RecordFile, truncate_records
from electra_ref.training.run_directory import RunDirectory
from electra_ref.training.samples import describe_samples
from electra_ref.training.step import StepResult, evaluation_step, train_step
from electra_ref.training.stop_signals import StopSignals


class Trainer:
    """One run: where it stands, and what it needs to go on.

    ``samples`` and ``metrics`` are those of the last evaluation, made at ``evaluated_step``.
    """

    def __init__(
        self,
        config: Config,
        backend: Backend,
        dtype: str,
        data: PreparedData,
        run: RunDirectory,
        progress: Progress,
    ) -> None:
        self.config, self.backend, self.data, self.run = config, backend, data, run
        self.progress = progress
        self.electra = electra_of(config)
        self.state = TrainingState(config, backend, dtype)
        self.evaluated_step: int | None = None
        self.metrics: Metrics = {}
        self.samples: list[dict[str, Any]] = []

    def restore(self) -> None:
        """Go back to the newest sound checkpoint, or to step 0 if the run has saved none.

        Raises CheckpointError if there are checkpoints and none of them can be used, or if the
        newest belongs to another run.
        """
        if list_checkpoints(self.run.checkpoints):
            groups = self._groups()
            checkpoint = load_newest_checkpoint(
                self.run.checkpoints, warn=self.progress.say, like=groups
            )
            if checkpoint.state != self._checkpoint_state():
                raise CheckpointError(
                    f"{checkpoint.path} belongs to a run with another configuration or other data; "
                    "remove it"
                )
            for views, group in zip(self._views(), ("model", "optimizer"), strict=True):
                for name, view in views.items():
                    view[...] = self.backend.to_device(checkpoint.groups[group][name])
            self.state.step = checkpoint.step
        for path in (self.run.metrics, self.run.samples):
            truncate_records(path, self.state.step)

    def train(self, stop: StopSignals, last_step: int) -> None:
        """Train up to ``last_step`` or until a signal asks to stop; save a checkpoint at the end.

        Raises UserError if the loss or the gradients stop being finite; the parameters of that
        step are not saved.
        """
        bar = Bar(self.progress, "training", last_step, start=self.state.step)
        self.progress.bar = bar
        with RecordFile(self.run.metrics) as metrics, RecordFile(self.run.samples) as samples:
            while self.state.step < last_step and stop.requested is None:
                started = time.monotonic()
                result = self._step()
                rate = result.tokens / (time.monotonic() - started)
                bar.move_to(self.state.step, f"loss {result.loss:.2f}, {rate:,.0f} tokens/s")
                if self._is_due(self.config.log_every):
                    metrics.append(self._training_record(result, rate))
                if self._is_due(self.config.evaluate_every):
                    self._evaluate(metrics, samples)
                if self._is_due(self.config.checkpoint_every):
                    self._save(metrics, samples)
            if not self._is_due(self.config.checkpoint_every):
                self._save(metrics, samples)
        self.progress.close()

    def evaluate(self) -> None:
        """Set ``metrics`` and ``samples`` from the held-out rows, at the present parameters."""
        outputs = self._held_out_outputs()
        self.metrics = evaluate(self.config, self.backend, outputs)
        self.evaluated_step = self.state.step

    def _step(self) -> StepResult:
        numbers = self.data.training.training_examples(
            self.state.step, self.config.batch_size, self.config.seed
        )
        batches = [self._batch(part) for part in np.split(numbers, self.config.accumulate)]
        special_tokens = self.data.tokenizer.special_tokens
        step = self.state.step + 1
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # looked for below
                result = train_step(
                    self.config, self.backend, self.electra, self.state, batches, special_tokens
                )
        except FloatingPointError as error:
            raise _diverged(step, str(error)) from error
        if not math.isfinite(result.loss) or not math.isfinite(result.gradient_norm):
            raise _diverged(step, f"loss {result.loss}, gradient norm {result.gradient_norm}")
        return result

    def _batch(self, numbers: np.ndarray[Any, np.dtype[np.int64]]) -> Batch:
        special_tokens = self.data.tokenizer.special_tokens
        return self.data.training.batch(numbers, self.config.max_length, special_tokens)

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.config.steps

    def _training_record(self, result: StepResult, rate: float) -> dict[str, Any]:
        losses = {k: v for k, v in result._asdict().items() if k != "tokens"}
        return {
            "step": self.state.step,
            "split": "training",
            **losses,
            "tokens_per_second": round(rate, 1),
        }

    def _evaluate(self, metrics: RecordFile, samples: RecordFile) -> None:
        self.evaluate()
        metrics.append({"step": self.state.step, "split": "held_out", **self.metrics})
        for sample in self.samples:
            samples.append({"step": self.state.step, **sample})
        self.progress.say(f"step {self.state.step}: {summary(self.metrics)}")

    def _held_out_outputs(self) -> Iterator[ElectraOutput]:
        config, source = self.config, self.data.held_out
        rows = config.batch_size // config.accumulate
        most = config.evaluation_batches * config.batch_size
        numbers = source.evaluation_examples(most, config.seed)
        special_tokens = self.data.tokenizer.special_tokens
        for first in range(0, numbers.size, rows):
            part = numbers[first : first + rows]
            batch = source.batch(part, config.max_length, special_tokens)
            output = evaluation_step(
                config,
                self.backend,
                self.electra,
                self.state.parameters,
                batch,
                special_tokens,
                first,
            )
            if first == 0:
                self.samples = describe_samples(self.backend, output, self.data.tokenizer.vocab)
            yield output

    def _save(self, metrics: RecordFile, samples: RecordFile) -> None:
        for records in (metrics, samples):
            records.sync()
        save_checkpoint(
            self.run.checkpoints,
            self.state.step,
            self._groups(),
            self._checkpoint_state(),
            keep=self.config.keep_checkpoints,
        )

    def _checkpoint_state(self) -> dict[str, Any]:
        """Return what must be the same for a checkpoint to be one of this run."""
        return {"data": self.data.key, "config": dataclasses.asdict(self.config)}

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


def summary(metrics: Metrics) -> str:
    """Return the figures of an evaluation as one line for people."""
    figures = {name: math.nan if value is None else value for name, value in metrics.items()}
    return (
        "held-out loss {loss:.2f} (MLM {mlm_loss:.3f}, RTD {rtd_loss:.4f}), "
        "MLM accuracy {mlm_accuracy:.3f} (most frequent token {mlm_baseline_accuracy:.3f}), "
        "RTD AUC {rtd_auc:.3f}, accuracy {rtd_accuracy:.3f} (all original {all_original:.3f})"
    ).format(**figures, all_original=1.0 - figures["replaced_share"])


def _diverged(step: int, what: str) -> UserError:
    return UserError(
        f"step {step} has diverged ({what}) and is not saved; lower learning_rate or raise "
        "warmup_steps, or --resume from the last checkpoint with another --device"
    )
