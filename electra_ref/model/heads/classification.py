"""The head that says which of K labels a row has, by what the encoder says of it.

    h      = hidden at [CLS]                                      (B, C)   original, huggingface
    h      = mean of hidden over the tokens of the row            (B, C)   layers
    logits = dropout(h) W + b                                     (B, K)   original, layers
    logits = dropout(gelu(dropout(h) W_1 + b_1)) W_2 + b_2        (B, K)   huggingface

    loss   = sum over the rows of cross entropy(softmax(logits), label)            one label a row
    loss   = sum over the rows and the labels of
             binary cross entropy(sigmoid(logit), whether the row has the label)   any number

The targets tell which loss it is: ``LabelTargets`` or ``LabelSetTargets``. The second one is
divided by the number of rows; transformers divides it by K as well.
Source: google-research/electra finetune/classification/classification_tasks.py
(``ClassificationTask``, ``get_prediction_module``), which has one label a row; transformers
models/electra/modeling_electra.py (``ElectraClassificationHead``, ``problem_type``).

The form layers reads the sum of all layers at all tokens, by which ``objectives.fine_tuning`` calls
it. It is for small models. Pre-training asks little of [CLS], and a few layers that were trained
for a short while do not gather in it what the other tokens say. The last layer tells replaced words
from others, and the embeddings still tell which words there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from electra_ref.arrays import Array, get_xp
from electra_ref.backends import Cache
from electra_ref.model.heads.pooling import token_mean, token_mean_backward
from electra_ref.model.labelled import (
    HEAD,
    LAYERS,
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


class LabelSetTargets(NamedTuple):
    """Any number of labels a row."""

    has_label: Array  # (B, K)  1 for the labels of the row, otherwise 0
    weights: Array  # (B,)  0 where the labels are not known


def head_specs(model: FineTuned) -> Iterator[ParameterSpec]:
    """Yield the specs of the head."""
    width, outputs = model.encoder.size.hidden_size, model.head.outputs
    if model.head.form == "huggingface":
        yield from linear_specs(f"{HEAD}.dense", width, width)
        yield from linear_specs(f"{HEAD}.output", width, outputs)
    else:
        yield from linear_specs(f"{HEAD}.output", width, outputs, "glorot_uniform")


def count_losses(model: FineTuned, batch: LabelledBatch) -> Counts:
    """Return how many rows have known labels."""
    del model
    return {NAME: int(batch.targets.weights.sum())}


class LogitsCache(NamedTuple):
    """One cache for each operation, in the order they run; None where the head has none."""

    pool: Cache
    dropout: Cache
    dense: Cache
    gelu: Cache
    dense_dropout: Cache
    output: Cache


def row_logits(
    run: ForwardPass, model: FineTuned, hidden: Array, batch: LabelledBatch, dropout: float
) -> tuple[Array, LogitsCache]:
    """Return the logits (B, K) of the rows with ``hidden`` states (N, C).

    ``dropout`` is the rate at which the head drops what it reads. The second dropout of the
    huggingface form has the rate of the head.
    """
    h, pool = _pooled(run, model, hidden, batch.attention_mask)
    h, first_dropout = _dropped(run, model, h, 0, dropout)
    dense = gelu = dense_dropout = None
    if model.head.form == "huggingface":
        h, dense = run.linear(f"{HEAD}.dense", h)
        h, gelu = run.backend.gelu(h)
        h, dense_dropout = _dropped(run, model, h, 1, model.head.dropout)
    logits, output = run.linear(f"{HEAD}.output", h)
    return logits, LogitsCache(pool, first_dropout, dense, gelu, dense_dropout, output)


def row_logits_backward(
    run: BackwardPass, model: FineTuned, dlogits: Array, cache: LogitsCache
) -> Array:
    """Return dhidden (N, C) for ``dlogits`` (B, K)."""
    dh = run.linear(f"{HEAD}.output", dlogits, cache.output)
    if model.head.form == "huggingface":
        dh = run.backend.dropout_backward(dh, cache.dense_dropout)
        dh = run.backend.gelu_backward(dh, cache.gelu)
        dh = run.linear(f"{HEAD}.dense", dh, cache.dense)
    dh = run.backend.dropout_backward(dh, cache.dropout)
    if model.head.form == LAYERS:
        return token_mean_backward(dh, cache.pool)
    return run.backend.gather_positions_backward(dh, cache.pool)


class ClassificationCache(NamedTuple):
    """The caches of the logits and of the loss, and the term."""

    logits: LogitsCache
    loss: Cache
    outputs: int | None  # K of a set of labels; None for one label a row
    term: LossTerm


def forward(
    run: ForwardPass, model: FineTuned, hidden: Array, batch: LabelledBatch
) -> tuple[HeadOutput, ClassificationCache]:
    """Return the logits and their loss."""
    logits, cache = row_logits(run, model, hidden, batch, model.head.dropout)
    targets, outputs = batch.targets, None
    if isinstance(targets, LabelSetTargets):
        outputs = logits.shape[1]
        weights = get_xp(logits).repeat(targets.weights, outputs)
        loss, loss_cache = run.backend.binary_cross_entropy(
            logits.reshape(-1), targets.has_label.reshape(-1), weights
        )
    else:
        loss, loss_cache = run.backend.softmax_cross_entropy(
            logits, targets.labels, targets.weights
        )
    term = LossTerm(NAME, loss, count_losses(model, batch)[NAME], model.head.loss_weight)
    return HeadOutput((term,), logits), ClassificationCache(cache, loss_cache, outputs, term)


def backward(
    run: BackwardPass, model: FineTuned, counts: Counts, cache: ClassificationCache
) -> Array:
    """Return dhidden (N, C); add to the gradients those of the head."""
    dloss = gradient_scale(cache.term, counts)
    if cache.outputs is None:
        dlogits = run.backend.softmax_cross_entropy_backward(dloss, cache.loss)
    else:
        dlogits = run.backend.binary_cross_entropy_backward(dloss, cache.loss)
        dlogits = dlogits.reshape(-1, cache.outputs)
    return row_logits_backward(run, model, dlogits, cache.logits)


def answer(run: ForwardPass, model: FineTuned, hidden: Array, batch: LabelledBatch) -> Array:
    """Return the logits (B, K)."""
    return row_logits(run, model, hidden, batch, model.head.dropout)[0]


def _pooled(
    run: ForwardPass, model: FineTuned, hidden: Array, is_token: Array
) -> tuple[Array, Cache]:
    """Return what the head reads of each row (B, C)."""
    if model.head.form == LAYERS:
        return token_mean(is_token, hidden)
    first = get_xp(hidden).zeros((len(is_token), 1), "int32")
    return run.backend.gather_positions(hidden, first)


def _dropped(
    run: ForwardPass, model: FineTuned, h: Array, number: int, rate: float
) -> tuple[Array, Cache]:
    """Return dropout of ``h`` (B, C) at the site ``number`` of the head."""
    bits = run.dropout_bits(model.encoder, head_site(model, number), h.shape[0], h.shape[1], rate)
    return run.backend.dropout(h, bits, rate)
