"""One training step, whatever the objective: forward and backward by micro-batches, then an update.

Every random number of the step is named by (seed, purpose, step, example), so a step can be
computed again from its number alone, in any number of micro-batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from electra_ref.backends import Backend
from electra_ref.batch import Batch
from electra_ref.config.training import TrainingConfig
from electra_ref.model.labelled import LabelledBatch
from electra_ref.model.losses import add_counts, add_terms, mean_losses, total_loss
from electra_ref.model.objectives import Model, Trainable
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.rng import Purpose, RandomStream
from electra_ref.training.optimizer import TrainingState, optimizer_step
from electra_ref.training.schedule import learning_rate


class StepResult(NamedTuple):
    """What a step reports."""

    loss: float
    losses: dict[str, float]  # mean of each term over the step, by the name it is logged under
    gradient_norm: float  # before clipping
    learning_rate: float
    tokens: int  # padding left out


def train_step(
    config: TrainingConfig,
    backend: Backend,
    objective: Trainable,
    model: Model,
    state: TrainingState,
    batches: Sequence[Batch] | Sequence[LabelledBatch],
) -> StepResult:
    """Update ``state`` by one step on ``batches``, the micro-batches of the step, in order.

    A loss or a gradient that is not finite leaves parameters, moments and the number of updates as
    they are: the caller looks at the result and stops.
    """
    model = objective.at_step(model, state.step)
    objective.begin_step(model, state.step, state.parameters)
    unchanged = frozenset(objective.unchanged(model))
    counts = add_counts(objective.count_losses(model, batch) for batch in batches)
    terms, first_example = [], 0
    for batch in batches:
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
    total, gradient = add_terms(terms), state.gradients.total()
    loss = float(total_loss(total))
    if math.isfinite(loss):
        norm = optimizer_step(config, backend, state, gradient, unchanged)
    else:
        norm = float(backend.global_norm(gradient.vector))
    tokens = sum(int(batch.attention_mask.sum()) for batch in batches)
    return StepResult(loss, mean_losses(total), norm, rate, tokens)
