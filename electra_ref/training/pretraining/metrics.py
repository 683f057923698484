"""What is measured on held-out rows: the losses, and how well each network does its task.

MLM: ``mlm_accuracy`` is the share of masked positions where the best word of the network with the
MLM loss is the original one; ``sampled_accuracy`` is the share where its sample is. Where a
full-size encoder guesses words beside a generator, ``encoder_mlm_loss`` and
``encoder_mlm_accuracy`` are those of the encoder, reading [MASK] at the same positions.
``mlm_baseline_accuracy`` is the accuracy of always answering the most frequent original word.

RTD, over all tokens but padding (the original counts padding in its AUC, which makes it too high):
``rtd_accuracy``, ``rtd_precision`` and ``rtd_recall`` at a logit of 0, ``rtd_auc``, and
``replaced_share``, the error of answering "original" everywhere. An objective without one of the
two tasks has none of its figures.
Source: google-research/electra pretrain/run_pretraining.py (``metric_fn``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from electra_ref.backends import Backend
from electra_ref.masking import MaskedBatch
from electra_ref.model.generation import Guesses
from electra_ref.model.losses import add_terms, mean_losses, total_loss
from electra_ref.model.objectives.output import Output

Metrics = dict[str, float | None]


def metrics_of(backend: Backend, outputs: Iterable[Output]) -> Metrics:
    """Return the metrics of all ``outputs`` taken together; None where one is undefined.

    Precision is undefined where nothing was flagged, recall where nothing was replaced, AUC
    where all tokens have one label. Raises ValueError if there is no output.
    """
    terms, originals, replaced, logits = [], [], [], []
    hits: Counter[str] = Counter()
    sums: dict[str, float] = {}
    for output in outputs:
        masked = output.masked
        terms.append(output.terms)
        originals.append(masked.labels[masked.weights])
        for name, guesses in (("mlm", output.guesses), ("encoder_mlm", output.encoder_guesses)):
            if guesses is not None:
                hits[f"{name}_accuracy"] += _hits(backend, masked, guesses)
                sums[f"{name}_loss"] = sums.get(f"{name}_loss", 0.0) + float(guesses.loss)
        if output.corrupted is not None:
            samples = output.corrupted.sampled_ids
            hits["sampled_accuracy"] += int(((samples == masked.labels) & masked.weights).sum())
        if (detections := output.detections) is not None:
            is_token = detections.read.batch.attention_mask
            replaced.append(detections.read.replaced[is_token])
            logits.append(backend.to_host(detections.logits).reshape(is_token.shape)[is_token])
    if not terms:
        raise ValueError("there is nothing to evaluate")
    total = add_terms(terms)
    words = np.concatenate(originals)
    masked_count = max(words.size, 1)
    if sums:
        hits["mlm_baseline_accuracy"] = int(np.bincount(words).max(initial=0))
    metrics: Metrics = {"loss": float(total_loss(total)), **mean_losses(total)}
    metrics |= {name: total / masked_count for name, total in sums.items()}
    metrics |= {name: count / masked_count for name, count in hits.items()}
    if replaced:
        metrics |= _detection_metrics(np.concatenate(replaced), np.concatenate(logits))
    return metrics


def _hits(backend: Backend, masked: MaskedBatch, guesses: Guesses) -> int:
    """Return how often the best word at a masked position is the original one."""
    best = backend.to_host(guesses.logits.argmax(axis=-1)).reshape(masked.labels.shape)
    return int(((best == masked.labels) & masked.weights).sum())


def summary(metrics: Metrics) -> str:
    """Return the figures of an evaluation as one line for people."""
    figures = {name: math.nan if value is None else value for name, value in metrics.items()}
    names = ("mlm", "MLM"), ("rtd", "RTD"), ("encoder_mlm", "encoder MLM")
    losses = [f"{name} {figures[f'{key}_loss']:.{4 if key == 'rtd' else 3}f}"
              for key, name in names if f"{key}_loss" in figures]  # fmt: skip
    parts = [f"held-out loss {figures['loss']:.2f} ({', '.join(losses)})"]
    for key, name in names[::2]:
        if f"{key}_accuracy" in figures:
            baseline = f"most frequent token {figures['mlm_baseline_accuracy']:.3f}"
            parts.append(f"{name} accuracy {figures[f'{key}_accuracy']:.3f} ({baseline})")
    if "rtd_auc" in figures:
        all_original = 1.0 - figures["replaced_share"]
        parts.append(f"RTD AUC {figures['rtd_auc']:.3f}")
        parts.append(f"accuracy {figures['rtd_accuracy']:.3f} (all original {all_original:.3f})")
    return ", ".join(parts)


def _detection_metrics(
    is_replaced: npt.NDArray[np.bool_], logits: npt.NDArray[np.floating]
) -> Metrics:
    flagged = logits > 0
    hits = int((flagged & is_replaced).sum())
    return {
        "rtd_accuracy": float((flagged == is_replaced).mean()),
        "rtd_precision": hits / int(flagged.sum()) if flagged.any() else None,
        "rtd_recall": hits / int(is_replaced.sum()) if is_replaced.any() else None,
        "rtd_auc": _auc(is_replaced, logits),
        "replaced_share": float(is_replaced.mean()),
    }


def _auc(is_replaced: npt.NDArray[np.bool_], logits: npt.NDArray[np.floating]) -> float | None:
    if is_replaced.all() or not is_replaced.any() or not math.isfinite(float(logits.sum())):
        return None
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415  (a second that --help need not pay)

    return float(roc_auc_score(is_replaced, logits))
