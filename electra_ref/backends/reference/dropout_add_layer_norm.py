"""The end of every half layer: dropout, residual sum, layer norm; and its gradient.

    y = layer_norm(residual + dropout(x))

It is one operation because a fast backend reads and writes the row once for all three. The
gradient of the sum is that of both of its terms.
Source: Vaswani et al. 2017, arXiv:1706.03762, sections 3.1 and 5.4 (post-LN: the norm follows
the sum); google-research/electra model/modeling.py (``transformer_model``).
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.arrays import Array
from electra_ref.backends.reference.dropout import DropoutCache, dropout, dropout_backward
from electra_ref.backends.reference.layer_norm import (
    LayerNormCache,
    layer_norm,
    layer_norm_backward,
)
from electra_ref.gradient import GradientSum


class DropoutAddLayerNormCache(NamedTuple):
    """Kept for the backward pass: what the two parts keep."""

    dropout: DropoutCache  # keep: (N, C)
    layer_norm: LayerNormCache


def dropout_add_layer_norm(
    x: Array,
    residual: Array,
    gamma: Array,
    beta: Array,
    bits: Array | None,
    rate: float,
    eps: float,
    with_cache: bool = True,
) -> tuple[Array, DropoutAddLayerNormCache | None]:
    """Drop from ``x`` (N, C), add ``residual`` (N, C), normalize with ``gamma``, ``beta`` (C,).

    ``bits`` (B, N C / B) and ``rate`` are dropout's, ``eps`` is layer norm's. The cache is
    None unless ``with_cache``.
    """
    dropped, dropout_cache = dropout(x, bits, rate)
    y, layer_norm_cache = layer_norm(dropped + residual, gamma, beta, eps)
    cache = DropoutAddLayerNormCache(dropout_cache, layer_norm_cache)
    return y, cache if with_cache else None


def dropout_add_layer_norm_backward(
    dy: Array, cache: DropoutAddLayerNormCache, dgamma: GradientSum, dbeta: GradientSum
) -> tuple[Array, Array]:
    """Return (dx, dresidual), (N, C) each, for ``dy`` (N, C); add to ``dgamma``, ``dbeta`` (C,)."""
    dresidual = layer_norm_backward(dy, cache.layer_norm, dgamma, dbeta)
    return dropout_backward(dresidual, cache.dropout), dresidual
