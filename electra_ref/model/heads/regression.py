"""The head that gives a row a number, by what the encoder says of it.

    y    = the logit of a classification head with one output       (B,)   no activation
    loss = sum over the rows of (y - target)²                       target in [0, 1]
    dy   = dloss w 2 (y - target)

Source: google-research/electra finetune/classification/classification_tasks.py
(``RegressionTask``), which divides a score by its maximum; transformers
models/electra/modeling_electra.py (``ElectraClassificationHead`` with one label, ``MSELoss``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from electra_ref.arrays import Array
from electra_ref.model.heads import classification
from electra_ref.model.heads.classification import LogitsCache, row_logits, row_logits_backward
from electra_ref.model.labelled import FineTuned, HeadOutput, LabelledBatch
from electra_ref.model.losses import Counts, LossTerm, gradient_scale
from electra_ref.model.parameters import ParameterSpec
from electra_ref.model.passes import BackwardPass, ForwardPass

NAME = "regression"  # of the loss


class ScoreTargets(NamedTuple):
    """One number a row."""

    scores: Array  # (B,)  from 0 to 1
    weights: Array  # (B,)  0 where there is no score


def head_specs(model: FineTuned) -> Iterator[ParameterSpec]:
    """Yield the specs of the head."""
    return classification.head_specs(model)


def count_losses(model: FineTuned, batch: LabelledBatch) -> Counts:
    """Return how many rows have a score."""
    del model
    return {NAME: int(batch.targets.weights.sum())}


class SquaredErrorCache(NamedTuple):
    """Kept for the backward pass: two numbers a row."""

    errors: Array  # (B,)
    weights: Array  # (B,)


def squared_error(
    predicted: Array, targets: Array, weights: Array
) -> tuple[Array, SquaredErrorCache]:
    """Return the sum () of the squared errors of ``predicted`` (B,) against ``targets`` (B,)."""
    dtype = predicted.real.dtype
    errors, weights = predicted - targets.astype(dtype), weights.astype(dtype)
    return (weights * errors * errors).sum(), SquaredErrorCache(errors, weights)


def squared_error_backward(dloss: float, cache: SquaredErrorCache) -> Array:
    """Return dpredicted (B,) for the number ``dloss``."""
    dpredicted: Array = 2.0 * dloss * cache.weights * cache.errors
    return dpredicted


class RegressionCache(NamedTuple):
    """The caches of the prediction and of the loss, and the term."""

    logits: LogitsCache
    loss: SquaredErrorCache
    term: LossTerm


def forward(
    run: ForwardPass, model: FineTuned, hidden: Array, batch: LabelledBatch
) -> tuple[HeadOutput, RegressionCache]:
    """Return the predictions (B,) and their loss."""
    logits, cache = row_logits(run, model, hidden, batch, model.head.dropout)
    loss, loss_cache = squared_error(logits[:, 0], *batch.targets)
    term = LossTerm(NAME, loss, count_losses(model, batch)[NAME], model.head.loss_weight)
    return HeadOutput((term,), logits[:, 0]), RegressionCache(cache, loss_cache, term)


def backward(run: BackwardPass, model: FineTuned, counts: Counts, cache: RegressionCache) -> Array:
    """Return dhidden (N, C); add to the gradients those of the head."""
    dpredicted = squared_error_backward(gradient_scale(cache.term, counts), cache.loss)
    return row_logits_backward(run, model, dpredicted[:, None], cache.logits)


def answer(run: ForwardPass, model: FineTuned, hidden: Array, batch: LabelledBatch) -> Array:
    """Return the predictions (B,)."""
    return classification.answer(run, model, hidden, batch)[:, 0]
