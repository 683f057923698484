"""The head that chooses one of K labels for a row, by what the encoder says of its [CLS].

    h      = hidden at [CLS]                                                  (B, C)
    logits = dropout(h) W + b                                                 (B, K)   original
    logits = dropout(gelu(dropout(h) W_1 + b_1)) W_2 + b_2                    (B, K)   huggingface
    loss   = sum over the rows of cross entropy(softmax(logits), label)

Source: google-research/electra finetune/classification/classification_tasks.py
(``ClassificationTask``, ``get_prediction_module``); transformers
models/electra/modeling_electra.py (``ElectraClassificationHead``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from electra_ref.arrays import Array, get_xp
from electra_ref.backends import Cache
from electra_ref.model.labelled import (
    HEAD,
    FineTuned,
    HeadOutput,
    LabelledBatch,
    head_site,
)
from electra_ref.model.losses import Counts, LossTerm, gradient_scale
from electra_ref.model.parameters import ParameterSpec
from electra_ref.model.passes import BackwardPass, ForwardPass, linear_specs

NAME = "classification"  # of the loss


class LabelTargets(NamedTuple):
    """One label a row."""

    labels: Array  # (B,)  from 0 to K - 1
    weights: Array  # (B,)  0 where there is no label


def head_specs(model: FineTuned) -> Iterator[ParameterSpec]:
    """Yield the specs of the head."""
    width, outputs = model.encoder.size.hidden_size, model.head.outputs
    if model.head.form == "huggingface":
        yield from linear_specs(f"{HEAD}.dense", width, width)
        yield from linear_specs(f"{HEAD}.output", width, outputs)
    else:
        yield from linear_specs(f"{HEAD}.output", width, outputs, "glorot_uniform")


def count_losses(model: FineTuned, batch: LabelledBatch) -> Counts:
    """Return how many rows have a label."""
    del model
    return {NAME: int(batch.targets.weights.sum())}


class LogitsCache(NamedTuple):
    """One cache for each operation, in the order they run; None where the head has none."""

    gather: Cache
    dropout: Cache
    dense: Cache
    gelu: Cache
    dense_dropout: Cache
    output: Cache


def cls_logits(
    run: ForwardPass, model: FineTuned, hidden: Array, examples: int
) -> tuple[Array, LogitsCache]:
    """Return the logits (B, K) of ``examples`` B rows with ``hidden`` states (N, C)."""
    head, width = model.head, hidden.shape[1]
    first = get_xp(hidden).zeros((examples, 1), "int32")
    h, gather = run.backend.gather_positions(hidden, first)
    h, dropout = _dropped(run, model, h, 0)
    dense = gelu = dense_dropout = None
    if head.form == "huggingface":
        h, dense = run.linear(f"{HEAD}.dense", h)
        h, gelu = run.backend.gelu(h)
        h, dense_dropout = _dropped(run, model, h, 1)
    assert h.shape == (examples, width)
    logits, output = run.linear(f"{HEAD}.output", h)
    return logits, LogitsCache(gather, dropout, dense, gelu, dense_dropout, output)


def cls_logits_backward(
    run: BackwardPass, model: FineTuned, dlogits: Array, cache: LogitsCache
) -> Array:
    """Return dhidden (N, C) for ``dlogits`` (B, K)."""
    dh = run.linear(f"{HEAD}.output", dlogits, cache.output)
    if model.head.form == "huggingface":
        dh = run.backend.dropout_backward(dh, cache.dense_dropout)
        dh = run.backend.gelu_backward(dh, cache.gelu)
        dh = run.linear(f"{HEAD}.dense", dh, cache.dense)
    dh = run.backend.dropout_backward(dh, cache.dropout)
    return run.backend.gather_positions_backward(dh, cache.gather)


class ClassificationCache(NamedTuple):
    """The caches of the logits and of the loss, and the term."""

    logits: LogitsCache
    loss: Cache
    term: LossTerm


def forward(
    run: ForwardPass, model: FineTuned, hidden: Array, batch: LabelledBatch
) -> tuple[HeadOutput, ClassificationCache]:
    """Return the logits and their loss."""
    logits, cache = cls_logits(run, model, hidden, len(batch.input_ids))
    targets = batch.targets
    loss, loss_cache = run.backend.softmax_cross_entropy(logits, targets.labels, targets.weights)
    term = LossTerm(NAME, loss, count_losses(model, batch)[NAME], model.head.loss_weight)
    return HeadOutput((term,), logits), ClassificationCache(cache, loss_cache, term)


def backward(
    run: BackwardPass, model: FineTuned, counts: Counts, cache: ClassificationCache
) -> Array:
    """Return dhidden (N, C); add to the gradients those of the head."""
    dlogits = run.backend.softmax_cross_entropy_backward(
        gradient_scale(cache.term, counts), cache.loss
    )
    return cls_logits_backward(run, model, dlogits, cache.logits)


def answer(run: ForwardPass, model: FineTuned, hidden: Array, batch: LabelledBatch) -> Array:
    """Return the logits (B, K)."""
    return cls_logits(run, model, hidden, len(batch.input_ids))[0]


def _dropped(run: ForwardPass, model: FineTuned, h: Array, number: int) -> tuple[Array, Cache]:
    """Return dropout of ``h`` (B, C) at the site ``number`` of the head."""
    rate, site = model.head.dropout, head_site(model, number)
    bits = run.dropout_bits(model.encoder, site, h.shape[0], h.shape[1], rate)
    return run.backend.dropout(h, bits, rate)
