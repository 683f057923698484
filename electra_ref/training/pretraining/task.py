"""Pre-training as a task of the loop: the rows of each step, the evaluation on held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from electra_ref.backends import Backend
from electra_ref.batch import Batch, MadeOnDemand
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.model.objectives import Model
from electra_ref.model.objectives.output import Output
from electra_ref.model.objectives.table import objective_of
from electra_ref.model.parameters import FlatParameters, initial_values
from electra_ref.model.passes import ForwardPass
from electra_ref.processes import ALONE, Processes, divided
from electra_ref.rng import EVALUATION, Purpose, RandomStream
from electra_ref.text.prepare import PreparedData
from electra_ref.training.optimizer import TrainingState
from electra_ref.training.pretraining.collapse import judged, new_warnings
from electra_ref.training.pretraining.metrics import Measured, measure, metrics_of, summary
from electra_ref.training.pretraining.samples import describe_samples
from electra_ref.training.task import Evaluation


class PretrainingTask:
    """An objective of ELECTRA's family on prepared data: see ``training.task``."""

    def __init__(
        self,
        config: PretrainingConfig,
        backend: Backend,
        data: PreparedData,
        processes: Processes = ALONE,
        *,
        of_model: bool = False,
    ) -> None:
        """``processes`` share the rows of an evaluation; ``of_model``: see ``collapse``."""
        self._config, self._backend, self._data = config, backend, data
        self._processes, self._of_model = processes, of_model
        self._special_tokens = data.tokenizer.special_tokens
        self.objective = objective_of(config)
        self.model = self.objective.model_of(config, config, self._special_tokens)

    def identity(self) -> dict[str, Any]:
        """Return the key of the data."""
        return {"data": self._data.key}

    def batches(self, step: int) -> Sequence[Batch]:
        """Return the rows of a step in ``accumulate`` micro-batches."""
        config, source = self._config, self._data.training
        numbers = source.training_examples(step, config.batch_size, config.seed)
        parts = np.split(numbers, config.accumulate)
        return MadeOnDemand(
            len(parts),
            lambda part: source.batch(parts[part], config.row_length, self._special_tokens),
        )

    def held_out_rows(self) -> npt.NDArray[np.int64]:
        """Return the numbers of the rows that an evaluation reads, in their order."""
        most = self._config.evaluation_batches * self._config.batch_size
        return self._data.held_out.evaluation_examples(most, self._config.seed)

    def evaluate(
        self,
        parameters: FlatParameters,
        step: int,
        on_rows: Callable[[int], None] = lambda _: None,
    ) -> Evaluation:
        """Return figures of ``evaluation_batches`` batches at most, and samples of their rows.

        ``on_rows`` is called with the rows that are done; it may raise to stop. Raises
        FloatingPointError if the model has diverged.
        """
        config = self._config
        model = self.objective.at_step(self.model, step)
        rows = config.batch_size // config.accumulate
        numbers = self.held_out_rows()
        firsts = range(0, numbers.size, rows)
        samples: list[dict[str, Any]] = []

        def measured(part: int) -> Measured:
            on_rows(firsts[part])
            output = self._held_out_output(parameters, model, numbers, firsts[part])
            if part == 0:
                vocabulary = self._data.tokenizer.vocab
                samples.extend(describe_samples(self._backend, output, vocabulary))
            return measure(self._backend, output)

        with np.errstate(over="ignore", invalid="ignore"):  # metrics_of looks for it
            parts = divided(self._processes, len(firsts), measured)
        metrics = metrics_of(parts)
        return Evaluation(metrics, self._processes.of_first(lambda: samples), summary(metrics))

    def warnings(self, records: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return what the newest record is the first to show: see ``collapse``."""
        history = judged(records, self._config)
        return new_warnings(history, self._config, of_model=self._of_model)

    def is_best(self, records: Sequence[Mapping[str, Any]]) -> bool:
        """Return False: the last model is the one that was trained longest."""
        del records
        return False

    def why_stop(self, records: Sequence[Mapping[str, Any]]) -> str | None:
        """Return None: only the schedule ends a run."""
        del records
        return None

    def _held_out_output(
        self, parameters: FlatParameters, model: Model, numbers: npt.NDArray[np.int64], first: int
    ) -> Output:
        """Return the output for a micro-batch of the held-out rows ``numbers``, without dropout."""
        config = self._config
        part = numbers[first : first + config.batch_size // config.accumulate]
        batch = self._data.held_out.batch(part, config.row_length, self._special_tokens)
        return evaluate_batch(config, self._backend, model, parameters, batch, first)


def initial_state(
    config: PretrainingConfig, backend: Backend, model: Model, dtype: str
) -> TrainingState:
    """Return the state in which a run of ``config`` begins, in floats of type ``dtype``."""
    specs = objective_of(config).parameter_specs(model)
    values = initial_values(specs, config.seed, config.initializer_range, dtype)
    return TrainingState(backend, specs, values)


def evaluate_batch(
    config: PretrainingConfig,
    backend: Backend,
    model: Model,
    parameters: FlatParameters,
    batch: Batch,
    first_example: int,
) -> Output:
    """Run the networks on held-out rows without dropout; the first row is ``first_example``.

    Masks and samples belong to the rows: they are the same in every evaluation of a run.
    """
    stream = RandomStream(config.seed, Purpose.MASK | EVALUATION, 0, first_example)
    output: Output = objective_of(config).evaluate(
        ForwardPass(backend, parameters, None, with_caches=False), model, batch, stream
    )
    return output
