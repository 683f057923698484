"""What is measured on held-out rows: both losses, and how well each network does its task.

MLM: ``mlm_accuracy`` is the share of masked positions where the generator's best word is the
original one, ``sampled_accuracy`` the share where its sample is; ``mlm_baseline_accuracy`` is
what always answering the most frequent original word would reach. RTD, over all tokens but
padding (the original lets padding into its AUC, which inflates it): ``rtd_accuracy``,
``rtd_precision`` and ``rtd_recall`` at a logit of 0, ``rtd_auc``, and ``replaced_share``, which
is what answering "original" everywhere would miss.
Source: google-research/electra pretrain/run_pretraining.py (``metric_fn``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from electra_ref.backends import Backend
from electra_ref.config import Config
from electra_ref.model.electra import ElectraOutput

Metrics = dict[str, float | None]


def evaluate(config: Config, backend: Backend, outputs: Iterable[ElectraOutput]) -> Metrics:
    """Return the metrics of all ``outputs`` taken together; None where one is undefined.

    Precision is undefined where nothing was flagged, recall where nothing was replaced, AUC
    where all tokens have one label. Raises ValueError if there is no output.
    """
    sums: dict[str, float] = dict.fromkeys(("mlm_loss", "rtd_loss", "best", "sampled"), 0.0)
    originals, replaced, logits = [], [], []
    for output in outputs:
        masked = output.corrupted.masked
        used, labels = masked.weights, masked.labels
        best = backend.to_host(output.generator_logits.argmax(axis=-1)).reshape(labels.shape)
        sums["mlm_loss"] += float(output.mlm_loss)
        sums["rtd_loss"] += float(output.rtd_loss)
        sums["best"] += int(((best == labels) & used).sum())
        sums["sampled"] += int(((output.corrupted.sampled_ids == labels) & used).sum())
        is_token = masked.batch.attention_mask
        originals.append(labels[used])
        replaced.append(output.corrupted.replaced[is_token])
        logits.append(
            backend.to_host(output.discriminator_logits).reshape(is_token.shape)[is_token]
        )
    if not originals:
        raise ValueError("there is nothing to evaluate")
    words = np.concatenate(originals)
    masked_count = max(words.size, 1)
    is_replaced, all_logits = np.concatenate(replaced), np.concatenate(logits)
    mlm, rtd = sums["mlm_loss"] / masked_count, sums["rtd_loss"] / max(is_replaced.size, 1)
    return {
        "loss": config.generator_weight * mlm + config.discriminator_weight * rtd,
        "mlm_loss": mlm,
        "rtd_loss": rtd,
        "mlm_accuracy": sums["best"] / masked_count,
        "mlm_baseline_accuracy": np.bincount(words).max(initial=0) / masked_count,
        "sampled_accuracy": sums["sampled"] / masked_count,
        **_detection_metrics(is_replaced, all_logits),
    }


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
