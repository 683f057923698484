"""One training step, whatever the objective: forward and backward by micro-batches, then an update.

Every random number of the step is named by (seed, purpose, step, example), so a step can be
computed again from its number alone, in any number of micro-batches.

Several processes share the micro-batches: each has some of them, in a row. They tell each other
what is counted before the backward pass, add up their gradients (see ``summation``), and then each
makes the same update of its own copy of the state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from electra_ref.backends import Backend
from electra_ref.batch import Batch
from electra_ref.config.training import TrainingConfig
from electra_ref.model.labelled import LabelledBatch
from electra_ref.model.losses import (
    Counts,
    LossTerm,
    add_counts,
    add_terms,
    mean_losses,
    total_loss,
)
from electra_ref.model.objectives import Model, Trainable
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.processes import ALONE, Processes, share_of
from electra_ref.rng import Purpose, RandomStream
from electra_ref.training.optimizer import TrainingState, optimizer_step
from electra_ref.training.schedule import learning_rate

T = TypeVar("T")


class StepResult(NamedTuple):
    """What a step reports."""

    loss: float
    losses: dict[str, float]  # mean of each term over the step, by the name it is logged under
    gradient_norm: float  # before clipping
    learning_rate: float
    tokens: int  # padding left out


class MicroBatch(NamedTuple):
    """What all processes must know of a micro-batch before its backward pass."""

    counts: Counts
    examples: int
    tokens: int


def train_step(
    config: TrainingConfig,
    backend: Backend,
    objective: Trainable,
    model: Model,
    state: TrainingState,
    batches: Sequence[Batch] | Sequence[LabelledBatch],
    processes: Processes = ALONE,
) -> StepResult:
    """Update ``state`` by one step on ``batches``, the micro-batches of the step, in order.

    Each of the ``processes`` asks for its own ``batches`` only. A loss or a gradient that is not
    finite leaves parameters, moments and the number of updates as they are: the caller looks at the
    result and stops.
    """
    model = objective.at_step(model, state.step)
    objective.begin_step(model, state.step, state.parameters)
    unchanged = frozenset(objective.unchanged(model))
    numbers = share_of(len(batches), processes.rank, processes.size)
    own = [batches[number] for number in numbers]
    described = [
        MicroBatch(
            objective.count_losses(model, batch),
            len(batch.input_ids),
            int(batch.attention_mask.sum()),
        )
        for batch in own
    ]
    everyone = _joined(processes.gather(described))
    counts = add_counts(batch.counts for batch in everyone)
    first_example = sum(batch.examples for batch in everyone[: numbers.start])
    terms: list[Sequence[LossTerm]] = []
    state.gradients.begin(numbers.start)
    for batch in own:
        stream = RandomStream(config.seed, Purpose.MASK, state.step, first_example)
        first_example += len(batch.input_ids)
        run = ForwardPass(backend, state.parameters, stream)
        output, cache = objective.forward(run, model, batch, stream)
        gradients = state.gradients.leaf()
        objective.backward(BackwardPass(backend, gradients), model, counts, cache)
        for name in unchanged:
            gradients.sum_of(name).add_nothing()
        state.gradients.add(gradients)
        terms.append(output.terms)
    rate = learning_rate(config, state.step)
    sums = [[term._replace(sum=float(term.sum)) for term in of_one] for of_one in terms]
    total = add_terms(_joined(processes.gather(sums)))
    gradient = state.gradients.total(len(batches), processes)
    loss = float(total_loss(total))
    if math.isfinite(loss):
        norm = optimizer_step(config, backend, state, gradient, unchanged)
    else:
        norm = float(backend.global_norm(gradient.vector))
    tokens = sum(batch.tokens for batch in everyone)
    return StepResult(loss, mean_losses(total), norm, rate, tokens)


def _joined(parts: Iterable[Sequence[T]]) -> list[T]:
    """Return what all processes have said of their micro-batches, in the order of these."""
    return [one for part in parts for one in part]
