"""What is measured on held-out rows: both losses, and how well each network does its task.

MLM: ``mlm_accuracy`` is the share of masked positions where the generator's best word is the
original one; ``sampled_accuracy`` is the share where its sample is. ``mlm_baseline_accuracy`` is
the accuracy of always answering the most frequent original word. ``generator_figures`` defines
``generator_entropy``, ``distinct_samples`` and ``distinct_originals``.

RTD, over all tokens but padding (the original counts padding in its AUC, which makes it too high):
``detection_figures`` defines its figures, ``hidden_figures`` the ``hidden_cosine`` of the
discriminator's last hidden states.
Source: google-research/electra pretrain/run_pretraining.py (``metric_fn``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from electra_ref.arrays import Array
from electra_ref.backends import Backend
from electra_ref.model.losses import add_terms, mean_losses, total_loss
from electra_ref.model.objectives.electra import ElectraOutput
from electra_ref.training.pretraining.detection_figures import detection_figures
from electra_ref.training.pretraining.generator_figures import entropy_sum, generator_figures
from electra_ref.training.pretraining.hidden_figures import mean_cosine, unit_sum

Metrics = dict[str, float | None]


def metrics_of(backend: Backend, outputs: Iterable[ElectraOutput]) -> Metrics:
    """Return the metrics of all ``outputs`` taken together; None where one is undefined.

    Raises ValueError if there is no output.
    """
    terms, entropies, units, answers = [], [], [], []
    for output in outputs:
        masked = output.corrupted.masked
        used, is_token = masked.weights.reshape(-1), masked.batch.attention_mask.reshape(-1)
        terms.append(output.terms)
        entropies.append(entropy_sum(output.generator_logits[backend.to_device(used)]))
        units.append(unit_sum(backend.to_host(output.discriminator_hidden)[is_token]))
        answers.append(_answers_of(backend, output))
    if not terms:
        raise ValueError("there is nothing to evaluate")
    total = add_terms(terms)
    labels, best, samples, *tokens = map(np.concatenate, zip(*answers, strict=True))
    masked_count = max(labels.size, 1)
    return {
        "loss": float(total_loss(total)),
        **mean_losses(total),
        "mlm_accuracy": int((best == labels).sum()) / masked_count,
        "mlm_baseline_accuracy": np.bincount(labels).max(initial=0) / masked_count,
        "sampled_accuracy": int((samples == labels).sum()) / masked_count,
        **generator_figures(sum(entropies), samples, labels),
        **detection_figures(*tokens),
        "hidden_cosine": mean_cosine(units),
    }


class _Answers(NamedTuple):
    """What both networks said in one micro-batch, and what was right: arrays on the host."""

    labels: Array  # (used slots,)
    best: Array  # (used slots,)
    samples: Array  # (used slots,)
    is_replaced: Array  # (tokens,)
    is_masked: Array  # (tokens,)
    logits: Array  # (tokens,)


def _answers_of(backend: Backend, output: ElectraOutput) -> _Answers:
    corrupted, masked = output.corrupted, output.corrupted.masked
    used, is_token = masked.weights, masked.batch.attention_mask
    best = backend.to_host(output.generator_logits.argmax(axis=-1)).reshape(used.shape)
    is_masked = np.zeros_like(is_token)
    rows, slots = np.nonzero(used)
    is_masked[rows, masked.positions[rows, slots]] = True
    logits = backend.to_host(output.discriminator_logits).reshape(is_token.shape)
    of_slots = (array[used] for array in (masked.labels, best, corrupted.sampled_ids))
    of_tokens = (array[is_token] for array in (corrupted.replaced, is_masked, logits))
    return _Answers(*of_slots, *of_tokens)


def summary(metrics: Metrics) -> str:
    """Return the figures of an evaluation as one line for people."""
    figures = {name: math.nan if value is None else value for name, value in metrics.items()}
    return (
        "held-out loss {loss:.2f} (MLM {mlm_loss:.3f}, RTD {rtd_loss:.4f}), "
        "MLM accuracy {mlm_accuracy:.3f} (most frequent token {mlm_baseline_accuracy:.3f}), "
        "RTD AUC {rtd_auc:.3f}, accuracy {rtd_accuracy:.3f} (all original {all_original:.3f})"
    ).format(**figures, all_original=1.0 - figures["replaced_share"])
