"""Inverted dropout with its random bits as an argument, and its gradient.

    y = x * keep / (1 - p),   keep = bits >= 65536 p
    dx = dy * keep / (1 - p)

``bits`` are uniform 16-bit integers, so p is the multiple of 1/65536 nearest to the rate. The scale
uses this p, so the mean of y is exactly x. Without bits (None: evaluation) x is unchanged.
Source: Srivastava et al. 2014, JMLR 15, section 10 (the scaling at training time).
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.arrays import Array

BIT_RANGE = 1 << 16


class DropoutCache(NamedTuple):
    """Kept for the backward pass: one byte an element."""

    keep: Array | None  # the shape of x, bool; None where nothing was dropped
    scale: float  # 1 / (1 - p)


def bits_of_rows(bits: Array, rows: Array, count: int) -> Array:
    """Return the bits of ``rows`` (n,) out of ``count`` rows, into which ``bits`` are divided."""
    chosen: Array = bits.reshape(count, -1)[rows]
    return chosen


def dropout(x: Array, bits: Array | None, rate: float) -> tuple[Array, DropoutCache]:
    """Zero a share ``rate`` of ``x`` (any shape) and scale up the rest; ``bits`` has x's size.

    Raises ValueError if ``rate`` is not in [0, 1).
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"the dropout rate must be in [0, 1), got {rate}")
    threshold = min(round(rate * BIT_RANGE), BIT_RANGE - 1)
    if bits is None or threshold == 0:
        return x, DropoutCache(None, 1.0)
    cache = DropoutCache(bits.reshape(x.shape) >= threshold, BIT_RANGE / (BIT_RANGE - threshold))
    return dropout_backward(x, cache), cache


def dropout_backward(dy: Array, cache: DropoutCache) -> Array:
    """Return dx for ``dy``: dropout is linear, so its gradient is the same map again."""
    if cache.keep is None:
        return dy
    dx = dy * cache.scale
    dx *= cache.keep
    return dx
