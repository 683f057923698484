"""Cross entropy over the vocabulary, summed over the masked positions, and its gradient.

    loss = sum over m of w_m (log sum over v of exp(logits[m, v]) - logits[m, label_m])
    dlogits[m, v] = dloss w_m (softmax(logits[m])_v - [v = label_m])

Softmax and logarithm are one operation: apart, a probability that rounds to 0 would make the
loss infinite. Source: Clark et al. 2020, arXiv:2003.10555, section 2 (the MLM loss);
google-research/electra pretrain/run_pretraining.py (``_get_masked_lm_output``).
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.arrays import Array, get_xp


class SoftmaxCrossEntropyCache(NamedTuple):
    """Kept for the backward pass: the probabilities, the size of the logits."""

    probabilities: Array  # (M, V)
    labels: Array  # (M,)
    weights: Array  # (M,)


def softmax_cross_entropy(
    logits: Array, labels: Array, weights: Array
) -> tuple[Array, SoftmaxCrossEntropyCache]:
    """Return the sum () of the losses of ``logits`` (M, V) against ``labels`` (M,).

    ``weights`` (M,) are any real numbers: 1 for used slots and 0 for unused ones, whose sum the
    caller divides by, once; or what each slot is worth, which may be negative (policy gradients).
    """
    xp = get_xp(logits)
    rows = xp.arange(logits.shape[0])
    shifted = logits - logits.real.max(axis=-1, keepdims=True)  # .real: for the complex step
    label_logits = shifted[rows, labels]
    probabilities = xp.exp(shifted, out=shifted)
    sums = probabilities.sum(axis=-1, keepdims=True)
    probabilities /= sums
    weights = weights.astype(logits.real.dtype)
    loss = (weights * (xp.log(sums[:, 0]) - label_logits)).sum()
    return loss, SoftmaxCrossEntropyCache(probabilities, labels, weights)


def softmax_cross_entropy_backward(dloss: float, cache: SoftmaxCrossEntropyCache) -> Array:
    """Return dlogits (M, V) for the number ``dloss``."""
    probabilities, labels, weights = cache
    rows = get_xp(probabilities).arange(probabilities.shape[0])
    dlogits = probabilities * (dloss * weights)[:, None]
    dlogits[rows, labels] -= dloss * weights
    return dlogits
