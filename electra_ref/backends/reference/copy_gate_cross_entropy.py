"""Cross entropy of tokens that are copied from the input or drawn from a softmax, and its gradient.

A gate z says how likely the token at a position was replaced. q is the softmax's probability of
the original token. It is the original either by copying the input, if the two are equal, or by
drawing it:

    s = sigmoid(-z),   p = s [original = input] + (1 - s) q
    loss = - sum over n of w_n log p_n

In logarithms, with softplus(z) = log(1 + exp z), log s = -softplus(z), log(1 - s) = -softplus(-z):

    log p = log(exp(log s) + exp(log(1 - s) + log q))    where the original is the input
    log p = log(1 - s) + log q                           elsewhere

The two exponents differ by z + log q. So r, the probability that a token was copied if it could
be, is sigmoid(-(z + log q)), and 0 elsewhere:

    dz_n = dloss w_n (r sigmoid(z) - (1 - r) sigmoid(-z)),   dlog_q_n = - dloss w_n (1 - r)

Every sigmoid, and 1 - r too, is computed from an exponential of a negative number. So nothing
overflows, and small numbers keep their digits.

Source: Clark et al. 2020, arXiv:2003.10555, section 3.5 ("All-Tokens MLM"). Difference: a positive
gate means "replaced", as in the detection head.
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.arrays import Array, get_xp


class CopyGateCrossEntropyCache(NamedTuple):
    """Kept for the backward pass: five numbers a token."""

    replaced: Array  # (N,)  sigmoid(z)
    kept: Array  # (N,)  sigmoid(-z)
    drawn: Array  # (N,)  1 - r: 1 where the token cannot be copied
    copied: Array  # (N,)  r
    weights: Array  # (N,)


def copy_gate_cross_entropy(
    gate_logits: Array, log_likelihoods: Array, is_copy: Array, weights: Array
) -> tuple[Array, CopyGateCrossEntropyCache]:
    """Return the sum () of the losses of ``gate_logits`` z (N,) and ``log_likelihoods`` log q (N,).

    ``is_copy`` (N,) is True where the original token is the input. ``weights`` (N,) are any real
    numbers; the caller divides by their sum. What stands where a weight is 0 has no effect, not
    even if it is NaN. Raises ValueError if the shapes do not fit.
    """
    shapes = {array.shape for array in (gate_logits, log_likelihoods, is_copy, weights)}
    if len(shapes) > 1 or gate_logits.ndim != 1:
        raise ValueError(f"four arrays of one shape (N,) expected, got {sorted(shapes)}")
    xp = get_xp(gate_logits)
    used = weights != 0
    gate, log_q = xp.where(used, gate_logits, 0.0), xp.where(used, log_likelihoods, 0.0)
    weights = weights.astype(gate_logits.real.dtype)
    replaced, kept, tail = _sigmoids(gate)
    drawn, copied, copy_tail = _sigmoids(gate + log_q)
    is_likely = gate.real > 0  # .real: the complex step perturbs a path
    log_kept = -(xp.where(is_likely, gate, 0.0) + tail)
    log_drawn = log_q - (xp.where(is_likely, 0.0, -gate) + tail)
    larger = xp.where((gate + log_q).real > 0, log_drawn, log_kept)
    log_p = xp.where(is_copy, larger + copy_tail, log_drawn)
    drawn, copied = xp.where(is_copy, drawn, 1.0), xp.where(is_copy, copied, 0.0)
    loss = -(weights * log_p).sum()
    return loss, CopyGateCrossEntropyCache(replaced, kept, drawn, copied, weights)


def copy_gate_cross_entropy_backward(
    dloss: float, cache: CopyGateCrossEntropyCache
) -> tuple[Array, Array]:
    """Return dgate_logits (N,) and dlog_likelihoods (N,) for the number ``dloss``."""
    replaced, kept, drawn, copied, weights = cache
    factors = dloss * weights
    return factors * (copied * replaced - drawn * kept), -factors * drawn


def _sigmoids(z: Array) -> tuple[Array, Array, Array]:
    """Return sigmoid(z), sigmoid(-z) and log(1 + exp(-|z|)), each (N,) as ``z``."""
    xp = get_xp(z)
    positive = z.real > 0
    small = xp.exp(xp.where(positive, -z, z))  # at most 1
    total = 1.0 + small
    near_one, near_zero = 1.0 / total, small / total
    return (
        xp.where(positive, near_one, near_zero),
        xp.where(positive, near_zero, near_one),
        xp.log1p(small),
    )
