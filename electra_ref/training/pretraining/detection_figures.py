"""How well the discriminator tells replaced tokens from original ones.

``rtd_accuracy``, ``rtd_precision`` and ``rtd_recall`` are those at a logit of 0. ``rtd_auc`` is the
area under the ROC curve; ``rtd_masked_auc`` is that over the masked positions alone, where it does
not help to know which tokens are seldom masked. ``replaced_share`` is the error of answering
"original" everywhere. ``rtd_probability_original`` and ``rtd_probability_replaced`` are the mean
predicted probability of "replaced" on the tokens of each kind.

``rtd_calibration_error`` is the expected calibration error. The probabilities p_i of "replaced" are
put into BINS bins of equal width; in each bin b of n_b tokens, their mean is compared with the
share of the tokens that were replaced (y_i = 1):

    ECE = sum_b (n_b / n) |mean of p_i in b - mean of y_i in b|

Source: Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning"; Guo
et al. 2017, arXiv:1706.04599. Difference: the latter bins the probability of the predicted class;
with two classes and a rare one, that of "replaced" says more.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

BINS = 10
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating]


def detection_figures(
    is_replaced: Flags, is_masked: Flags, logits: Floats
) -> dict[str, float | None]:
    """Return the figures of n > 0 tokens; all arrays are (n,).

    Precision is None where nothing was flagged, recall and the probability of a kind of token
    where there is none of it, an AUC where all tokens have one label. The AUCs, the probabilities
    and the calibration error are None if a logit is not finite.
    """
    flagged = logits > 0
    hits = int((flagged & is_replaced).sum())
    probabilities = 0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))
    finite = math.isfinite(float(logits.sum()))
    return {
        "rtd_accuracy": float((flagged == is_replaced).mean()),
        "rtd_precision": hits / int(flagged.sum()) if flagged.any() else None,
        "rtd_recall": hits / int(is_replaced.sum()) if is_replaced.any() else None,
        "rtd_auc": _auc(is_replaced, logits) if finite else None,
        "rtd_masked_auc": _auc(is_replaced[is_masked], logits[is_masked]) if finite else None,
        "rtd_probability_original": _mean(probabilities[~is_replaced]) if finite else None,
        "rtd_probability_replaced": _mean(probabilities[is_replaced]) if finite else None,
        "rtd_calibration_error": calibration_error(is_replaced, probabilities) if finite else None,
        "replaced_share": float(is_replaced.mean()),
    }


def calibration_error(is_replaced: Flags, probabilities: Floats) -> float:
    """Return the expected calibration error of n > 0 ``probabilities``; a 1 is in the last bin."""
    bins = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, probabilities - is_replaced, minlength=BINS)  # n_b times the gap
    return float(np.abs(gaps).sum() / probabilities.size)


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if values.size else None


def _auc(is_replaced: Flags, logits: Floats) -> float | None:
    if is_replaced.all() or not is_replaced.any():
        return None
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415  (a second that --help need not pay)

    return float(roc_auc_score(is_replaced, logits))
