"""One training step: mask, generate, sample, discriminate, backward, update.

Every random number of the step is named by (seed, purpose, step, row), so a step can be computed
again from its number alone, in any number of micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from electra_ref.arrays import Array
from electra_ref.backends import Backend
from electra_ref.batch import Batch, SpecialTokens
from electra_ref.config import Config
from electra_ref.masking import MaskedBatch, mask_tokens
from electra_ref.model.electra import (
    Corrupt,
    Electra,
    ElectraOutput,
    electra_backward,
    electra_forward,
)
from electra_ref.model.objectives import count_losses
from electra_ref.model.parameters import FlatParameters
from electra_ref.rng import EVALUATION, Purpose, RandomStream
from electra_ref.sampling import CorruptedBatch, corrupt, sample_tokens
from electra_ref.training.optimizer import TrainingState, optimizer_step
from electra_ref.training.schedule import learning_rate


class StepResult(NamedTuple):
    """What a step reports; the losses are means over the step."""

    loss: float
    mlm_loss: float
    rtd_loss: float
    gradient_norm: float  # before clipping
    learning_rate: float
    tokens: int  # padding left out


def train_step(
    config: Config,
    backend: Backend,
    electra: Electra,
    state: TrainingState,
    batches: Sequence[Batch],
    special_tokens: SpecialTokens,
) -> StepResult:
    """Update ``state`` by one step on ``batches``, the micro-batches of the step, in order.

    A loss or a gradient that is not finite leaves the parameters as they are.
    """
    streams, first_example = [], 0
    for batch in batches:
        streams.append(RandomStream(config.seed, Purpose.MASK, state.step, first_example))
        first_example += batch.input_ids.shape[0]
    masked = [
        mask_tokens(batch, special_tokens, config.mask_probability, stream)
        for batch, stream in zip(batches, streams, strict=True)
    ]
    counts = count_losses(masked)
    state.gradients.restart()
    mlm_sum = rtd_sum = 0.0
    for micro_batch, stream in zip(masked, streams, strict=True):
        sampler = make_sampler(config, micro_batch, stream)
        output, cache = electra_forward(
            backend, state.parameters, electra, micro_batch, sampler, stream
        )
        electra_backward(backend, state.gradients, electra, counts, cache)
        mlm_sum += float(output.mlm_loss)
        rtd_sum += float(output.rtd_loss)
    rate = learning_rate(config, state.step)
    norm = float(optimizer_step(config, backend, state))
    mlm, rtd = mlm_sum / counts.mlm, rtd_sum / counts.rtd
    loss = electra.weights.mlm * mlm + electra.weights.rtd * rtd
    return StepResult(loss, mlm, rtd, norm, rate, counts.rtd)


def evaluation_step(
    config: Config,
    backend: Backend,
    electra: Electra,
    parameters: FlatParameters,
    batch: Batch,
    special_tokens: SpecialTokens,
    first_example: int,
) -> ElectraOutput:
    """Run both networks on held-out rows, the first of them number ``first_example``, undropped.

    Masks and samples belong to the rows: they are the same in every evaluation of a run.
    """
    stream = RandomStream(config.seed, Purpose.MASK | EVALUATION, 0, first_example)
    masked = mask_tokens(batch, special_tokens, config.mask_probability, stream)
    sampler = make_sampler(config, masked, stream)
    return electra_forward(backend, parameters, electra, masked, sampler, None)[0]


def make_sampler(config: Config, masked: MaskedBatch, stream: RandomStream) -> Corrupt:
    """Return the function that samples replacements from the generator's logits (B M, V)."""

    def sample(generator_logits: Array) -> CorruptedBatch:
        slots = masked.positions.shape[1]
        return corrupt(masked, sample_tokens(generator_logits, config.temperature, stream, slots))

    return sample
