"""The passes and the training that are compared, by our reference backend."""

from __future__ import annotations

from typing import NamedTuple
from unittest import mock

import numpy as np

from electra_ref.backends import reference
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.model.generation import Samples
from electra_ref.model.losses import total_loss
from electra_ref.model.objectives import electra
from electra_ref.model.objectives.output import Output
from electra_ref.model.parameters import FlatParameters, Gradients
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.rng import RandomStream
from electra_ref.sampling import CorruptedBatch
from electra_ref.training.optimizer import optimizer_step
from tests.tiny_electra import tiny_model, tiny_state

STREAM = RandomStream(0, 0, 0)  # names nothing: masks and samples were drawn beforehand


class Pass(NamedTuple):
    """One forward and backward pass without dropout."""

    output: Output  # its losses are sums
    loss: float
    gradients: Gradients


def draw_parameters(config: PretrainingConfig, scale: float, seed: int) -> FlatParameters:
    """Draw parameters in float64, none of them zero; layer norms scale by about 1."""
    specs = electra.parameter_specs(tiny_model(config))
    count = sum(int(np.prod(spec.shape)) for spec in specs)
    random = np.random.default_rng(seed)
    parameters = FlatParameters(specs, scale * random.standard_normal(count))
    for spec in specs:
        if spec.initializer == "ones":
            parameters[spec.name][...] += 1.0
    return parameters


def run_pass(
    config: PretrainingConfig, parameters: FlatParameters, corrupted: CorruptedBatch
) -> Pass:
    """Return losses, logits and all gradients of one batch."""
    masked, model = corrupted.masked, tiny_model(config)
    counts = {"mlm": int(masked.weights.sum()), "rtd": int(masked.batch.attention_mask.sum())}
    gradients = Gradients(parameters.specs, np.full_like(parameters.vector, np.nan))
    with (
        mock.patch.object(electra, "mask_tokens", return_value=masked),
        mock.patch.object(electra, "sample", return_value=Samples(corrupted, None)),
        mock.patch.object(electra, "count_losses", return_value=counts),
    ):
        run = ForwardPass(reference, parameters, None)
        output, cache = electra.forward(run, model, masked.batch, STREAM)
    electra.backward(BackwardPass(reference, gradients), model, counts, cache)
    return Pass(output, float(total_loss(output.terms)), gradients)


def run_training(
    config: PretrainingConfig, parameters: FlatParameters, batches: list[CorruptedBatch]
) -> tuple[list[float], list[float], FlatParameters]:
    """Take one optimizer step a batch: losses, gradient norms before clipping, last parameters."""
    state = tiny_state(config, "float64")
    state.parameters.vector[...] = parameters.vector
    losses, norms = [], []
    for corrupted in batches:
        done = run_pass(config, state.parameters, corrupted)
        losses.append(done.loss)
        norms.append(optimizer_step(config, reference, state, done.gradients))
    return losses, norms, state.parameters
