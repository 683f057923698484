"""Means of the hidden states of each row, and their gradients.

Weighted by a softmax:

    p      = softmax(logits)                                   (B, T)
    pooled = sum over t of p[t] h[t]                           (B, C)
    dh[t]  = p[t] dpooled
    dlogits[t] = p[t] (h[t] . dpooled - pooled . dpooled)

Source: google-research/electra finetune/qa/qa_tasks.py (``get_prediction_module``), where the
logits are those of the start of an answer; the derivative by the chain rule.

Over the n tokens of a row, [CLS] and [SEP] included and padding left out:

    pooled = 1/n sum over t of h[t]                            (B, C)
    dh[t]  = dpooled / n

Source: Reimers and Gurevych 2019, arXiv:1908.10084, section 3 (mean pooling).
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.arrays import Array, get_xp


def token_mean(is_token: Array, hidden: Array) -> tuple[Array, Array]:
    """Return the means (B, C) of ``hidden`` (N, C) over the tokens of each row, and the weights.

    ``is_token`` (B, T) is False for padding; N = B T. The weights (B, T) are kept for the backward
    pass.
    """
    weights = is_token / is_token.sum(axis=1, keepdims=True)
    weights = weights.astype(hidden.real.dtype)
    pooled: Array = (weights[:, :, None] * hidden.reshape(*weights.shape, -1)).sum(axis=1)
    return pooled, weights


def token_mean_backward(dpooled: Array, weights: Array) -> Array:
    """Return dhidden (N, C) for ``dpooled`` (B, C)."""
    dhidden: Array = weights[:, :, None] * dpooled[:, None, :]
    return dhidden.reshape(-1, dpooled.shape[1])


class PoolingCache(NamedTuple):
    """Kept for the backward pass."""

    probabilities: Array  # (B, T)
    hidden: Array  # (B, T, C)
    pooled: Array  # (B, C)


def softmax_pooling(logits: Array, hidden: Array) -> tuple[Array, PoolingCache]:
    """Return the weighted means (B, C) of ``hidden`` (N, C) by ``logits`` (B, T); N = B T."""
    hidden = hidden.reshape(*logits.shape, hidden.shape[1])
    probabilities = softmax(logits)
    pooled: Array = (probabilities[:, :, None] * hidden).sum(axis=1)
    return pooled, PoolingCache(probabilities, hidden, pooled)


def softmax_pooling_backward(dpooled: Array, cache: PoolingCache) -> tuple[Array, Array]:
    """Return dlogits (B, T) and dhidden (N, C) for ``dpooled`` (B, C)."""
    probabilities, hidden, pooled = cache
    dprobabilities = (hidden * dpooled[:, None, :]).sum(axis=2)
    mean = (pooled * dpooled).sum(axis=1, keepdims=True)
    dlogits = probabilities * (dprobabilities - mean)
    dhidden = probabilities[:, :, None] * dpooled[:, None, :]
    return dlogits, dhidden.reshape(-1, dhidden.shape[2])


def softmax(logits: Array) -> Array:
    """Return the probabilities (..., T) of ``logits`` (..., T), real or complex."""
    exponentials = get_xp(logits).exp(logits - logits.real.max(axis=-1, keepdims=True))
    probabilities: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities
