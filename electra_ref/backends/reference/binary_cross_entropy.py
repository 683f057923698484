"""Binary cross entropy of one logit a token, summed over the tokens, and its gradient.

    loss = sum over n of w_n (softplus(z_n) - y_n z_n),   softplus(z) = log(1 + exp z)
    dz_n = dloss w_n (sigmoid(z_n) - y_n)

computed as softplus(z) = max(z, 0) + log1p(exp(-|z|)), which neither overflows nor cancels.
Source: Clark et al. 2020, arXiv:2003.10555, section 2 (the loss of the discriminator);
google-research/electra pretrain/run_pretraining.py (``_get_discriminator_output``).
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.arrays import Array, get_xp


class BinaryCrossEntropyCache(NamedTuple):
    """Kept for the backward pass: three numbers a token."""

    probabilities: Array  # (N,)  sigmoid of the logits
    labels: Array  # (N,)
    weights: Array  # (N,)


def binary_cross_entropy(
    logits: Array, labels: Array, weights: Array
) -> tuple[Array, BinaryCrossEntropyCache]:
    """Return the sum () of the losses of ``logits`` (N,) against ``labels`` (N,) in [0, 1].

    A label between 0 and 1 is a probability (a soft target). ``weights`` (N,) are 1 for tokens and
    0 for padding; the caller divides by their sum.
    """
    xp = get_xp(logits)
    dtype = logits.real.dtype
    labels, weights = labels.astype(dtype), weights.astype(dtype)
    positive = logits.real > 0  # .real: the complex step perturbs a path
    small = xp.exp(xp.where(positive, -logits, logits))  # exp(-|z|), at most 1
    softplus = xp.where(positive, logits, 0.0) + xp.log1p(small)
    probabilities = xp.where(positive, 1.0, small) / (1.0 + small)
    loss = (weights * (softplus - labels * logits)).sum()
    return loss, BinaryCrossEntropyCache(probabilities, labels, weights)


def binary_cross_entropy_backward(dloss: float, cache: BinaryCrossEntropyCache) -> Array:
    """Return dlogits (N,) for the number ``dloss``."""
    probabilities, labels, weights = cache
    dlogits: Array = dloss * weights * (probabilities - labels)
    return dlogits
