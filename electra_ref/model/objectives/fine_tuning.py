"""Fine-tuning: an encoder reads the rows, a task head compares what it says with the targets.

    hidden = encode(rows)                                    (N, C)
    loss   = head(hidden, targets)

A head of the form layers reads the sum of all layers, the other forms read the last one.

The functions are those that a training step asks of an objective. ``heads.table`` has the heads.
Source: google-research/electra finetune/run_finetuning.py.
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.backends import Backend
from electra_ref.batch import Batch
from electra_ref.model.encoder import (
    EncoderCache,
    encode,
    encode_backward,
    encoder_specs,
    hidden_states,
)
from electra_ref.model.heads.table import HEADS
from electra_ref.model.labelled import (
    LAYERS,
    Answers,
    FineTuned,
    HeadCache,
    HeadOutput,
    LabelledBatch,
)
from electra_ref.model.losses import Counts
from electra_ref.model.objectives.one_stage import begin_step, unchanged
from electra_ref.model.parameters import ParameterSpec, parameter_table
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.rng import RandomStream

__all__ = ["answer", "at_step", "backward", "begin_step", "count_losses", "forward",
           "parameter_specs", "unchanged"]  # fmt: skip


def parameter_specs(model: FineTuned) -> list[ParameterSpec]:
    """Return the table of the parameters of the encoder and the head."""
    head = HEADS[model.head.kind].head_specs(model)
    return parameter_table([encoder_specs(model.encoder), head])


def at_step(model: FineTuned, step: int) -> FineTuned:
    """Return ``model``: all steps are alike."""
    del step
    return model


def count_losses(model: FineTuned, batch: LabelledBatch) -> Counts:
    """Return over how many places of ``batch`` each loss is summed."""
    return HEADS[model.head.kind].count_losses(model, batch)


class FineTuningCache(NamedTuple):
    """The caches of the encoder and of the head."""

    encoder: EncoderCache
    head: HeadCache


def forward(
    run: ForwardPass, model: FineTuned, batch: LabelledBatch, stream: RandomStream
) -> tuple[HeadOutput, FineTuningCache]:
    """Return the head's output for ``batch`` on the host; dropout alone draws random numbers."""
    del stream
    batch = on_device(run.backend, batch)
    sums = model.head.form == LAYERS
    hidden, encoder = encode(run, model.encoder, batch.tokens, sum_layers=sums)
    output, head = HEADS[model.head.kind].forward(run, model, hidden, batch)
    return output, FineTuningCache(encoder, head)


def backward(run: BackwardPass, model: FineTuned, counts: Counts, cache: FineTuningCache) -> None:
    """Add to the gradients those of the loss, its sums divided by ``counts``; consume the cache."""
    dhidden = HEADS[model.head.kind].backward(run, model, counts, cache.head)
    encode_backward(run, model.encoder, dhidden, cache.encoder)


def answer(run: ForwardPass, model: FineTuned, batch: LabelledBatch) -> Answers:
    """Return what the head says of ``batch`` on the host, without dropout, without caches."""
    run = run._replace(stream=None, with_caches=False)
    batch = on_device(run.backend, batch)
    sums = model.head.form == LAYERS
    hidden = hidden_states(run, model.encoder, batch.tokens, sum_layers=sums)
    return HEADS[model.head.kind].answer(run, model, hidden, batch)


def on_device(backend: Backend, batch: LabelledBatch) -> LabelledBatch:
    """Return ``batch`` with all its arrays on the device."""
    tokens = Batch(*map(backend.to_device, batch.tokens))
    targets = type(batch.targets)(*map(backend.to_device, batch.targets))
    return LabelledBatch(tokens, targets)
