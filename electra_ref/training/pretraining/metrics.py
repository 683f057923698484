"""What is measured on held-out rows: both losses, and how well each network does its task.

MLM: ``mlm_accuracy`` is the share of masked positions where the generator's best word is the
original one; ``sampled_accuracy`` is the share where its sample is. ``mlm_baseline_accuracy`` is
the accuracy of always answering the most frequent original word. RTD, over all tokens but padding
(the original counts padding in its AUC, which makes it too high): ``rtd_accuracy``,
``rtd_precision`` and ``rtd_recall`` at a logit of 0, ``rtd_auc``, and ``replaced_share``, the error
of answering "original" everywhere.
Source: google-research/electra pretrain/run_pretraining.py (``metric_fn``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from electra_ref.backends import Backend
from electra_ref.model.losses import add_terms, mean_losses, total_loss
from electra_ref.model.objectives.electra import ElectraOutput

Metrics = dict[str, float | None]


def metrics_of(backend: Backend, outputs: Iterable[ElectraOutput]) -> Metrics:
    """Return the metrics of all ``outputs`` taken together; None where one is undefined.

    Precision is undefined where nothing was flagged, recall where nothing was replaced, AUC
    where all tokens have one label. Raises ValueError if there is no output.
    """
    terms, originals, replaced, logits = [], [], [], []
    best_hits = sampled_hits = 0
    for output in outputs:
        masked = output.corrupted.masked
        used, labels = masked.weights, masked.labels
        best = backend.to_host(output.generator_logits.argmax(axis=-1)).reshape(labels.shape)
        best_hits += int(((best == labels) & used).sum())
        sampled_hits += int(((output.corrupted.sampled_ids == labels) & used).sum())
        terms.append(output.terms)
        originals.append(labels[used])
        is_token = masked.batch.attention_mask
        replaced.append(output.corrupted.replaced[is_token])
        logits.append(
            backend.to_host(output.discriminator_logits).reshape(is_token.shape)[is_token]
        )
    if not terms:
        raise ValueError("there is nothing to evaluate")
    total = add_terms(terms)
    words = np.concatenate(originals)
    masked_count = max(words.size, 1)
    return {
        "loss": float(total_loss(total)),
        **mean_losses(total),
        "mlm_accuracy": best_hits / masked_count,
        "mlm_baseline_accuracy": np.bincount(words).max(initial=0) / masked_count,
        "sampled_accuracy": sampled_hits / masked_count,
        **_detection_metrics(np.concatenate(replaced), np.concatenate(logits)),
    }


def summary(metrics: Metrics) -> str:
    """Return the figures of an evaluation as one line for people."""
    figures = {name: math.nan if value is None else value for name, value in metrics.items()}
    return (
        "held-out loss {loss:.2f} (MLM {mlm_loss:.3f}, RTD {rtd_loss:.4f}), "
        "MLM accuracy {mlm_accuracy:.3f} (most frequent token {mlm_baseline_accuracy:.3f}), "
        "RTD AUC {rtd_auc:.3f}, accuracy {rtd_accuracy:.3f} (all original {all_original:.3f})"
    ).format(**figures, all_original=1.0 - figures["replaced_share"])


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
