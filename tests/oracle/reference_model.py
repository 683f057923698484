"""The passes and the training that are compared, by our reference backend."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from electra_ref.backends.reference import ReferenceBackend
from electra_ref.config import Config
from electra_ref.model.electra import (
    ElectraOutput,
    electra_backward,
    electra_forward,
    electra_of,
    total_loss,
)
from electra_ref.model.objectives import LossCounts, count_losses
from electra_ref.model.parameters import FlatGradients, FlatParameters, parameter_specs
from electra_ref.sampling import CorruptedBatch
from electra_ref.training.optimizer import TrainingState, optimizer_step

BACKEND = ReferenceBackend()


class Pass(NamedTuple):
    """One forward and backward pass without dropout."""

    output: ElectraOutput  # its losses are sums
    counts: LossCounts
    loss: float
    gradients: FlatGradients


def draw_parameters(config: Config, scale: float, seed: int) -> FlatParameters:
    """Draw parameters in float64, none of them zero; layer norms scale by about 1."""
    specs = parameter_specs(config)
    count = sum(int(np.prod(spec.shape)) for spec in specs)
    random = np.random.default_rng(seed)
    parameters = FlatParameters(specs, scale * random.standard_normal(count))
    for spec in specs:
        if spec.initializer == "ones":
            parameters[spec.name][...] += 1.0
    return parameters


def run_pass(config: Config, parameters: FlatParameters, corrupted: CorruptedBatch) -> Pass:
    """Return losses, logits and all gradients of one batch."""
    electra, counts = electra_of(config), count_losses([corrupted.masked])
    gradients = FlatGradients(parameters.specs, np.full_like(parameters.vector, np.nan))
    output, cache = electra_forward(
        BACKEND, parameters, electra, corrupted.masked, lambda _: corrupted, None
    )
    electra_backward(BACKEND, gradients, electra, counts, cache)
    return Pass(output, counts, float(total_loss(electra, output, counts)), gradients)


def run_training(
    config: Config, parameters: FlatParameters, batches: list[CorruptedBatch]
) -> tuple[list[float], list[float], FlatParameters]:
    """Take one optimizer step a batch: losses, gradient norms before clipping, last parameters."""
    state = TrainingState(config, BACKEND, "float64")
    state.parameters.vector[...] = parameters.vector
    losses, norms = [], []
    for corrupted in batches:
        done = run_pass(config, state.parameters, corrupted)
        state.gradients.vector[...] = done.gradients.vector
        losses.append(done.loss)
        norms.append(float(optimizer_step(config, BACKEND, state)))
    return losses, norms, state.parameters
