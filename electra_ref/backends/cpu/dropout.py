"""Dropout whose random bits are drawn when they are used, and its gradient.

The formula is that of ``backends.reference.dropout``:

    y = x * keep / (1 - p),   keep = bits >= 65536 p

The integers are those of ``rng.dropout_bits``. What is passed on is not an array of them, but the
place where they are found. The operation that drops draws them, and its backward pass draws them
again: this costs 0.3 ns an element, and takes no memory between the two.

Memory traffic: x and the bits (2 bytes) are read and y is written, forward and backward.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from electra_ref import rng
from electra_ref.arrays import Float32
from electra_ref.backends.cpu.arguments import expect
from electra_ref.backends.reference.dropout import BIT_RANGE
from electra_ref.compilation import jit

Bits16 = npt.NDArray[np.uint16]


class DropoutBits(NamedTuple):
    """The bits of one dropout site, not yet drawn."""

    stream: rng.RandomStream
    examples: int
    bits_per_example: int
    rows: npt.NDArray[np.int64] | None = None  # (n,)  the chosen rows; None chooses all
    all_rows: int = 0  # how many they are chosen from


class Dropout(NamedTuple):
    """What was dropped, so that the backward pass can drop the same."""

    bits: DropoutBits | None  # None drops nothing
    rate: float


class Drop(NamedTuple):
    """What a kernel needs to drop: ``keep = bits >= threshold``, and what is kept is scaled."""

    bits: Bits16
    threshold: int
    scale: np.float32  # 1 / (1 - p)


def draw(dropout: Dropout, shape: tuple[int, ...]) -> Drop:
    """Draw the bits of an array of ``shape``, its rows in the order of the examples.

    Raises ValueError if the rate is not in [0, 1) or if the number of bits is not that of shape.
    """
    bits, rate = dropout
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"the dropout rate must be in [0, 1), got {rate}")
    threshold = min(round(rate * BIT_RANGE), BIT_RANGE - 1)
    if bits is None or threshold == 0:
        return Drop(np.zeros(shape, np.uint16), 0, np.float32(1.0))
    drawn = rng.dropout_bits(bits.stream, bits.examples, bits.bits_per_example)
    if bits.rows is not None:
        drawn = drawn.reshape(bits.all_rows, -1)[bits.rows]
    scale = np.float32(BIT_RANGE / (BIT_RANGE - threshold))
    return Drop(drawn.reshape(shape), threshold, scale)


def bits_of_rows(bits: DropoutBits, rows: npt.NDArray[np.int64], count: int) -> DropoutBits:
    """Name the bits of ``rows`` (n,) out of ``count`` rows, into which ``bits`` are divided."""
    return bits._replace(rows=rows, all_rows=count)


def dropout(x: Float32, bits: DropoutBits | None, rate: float) -> tuple[Float32, Dropout]:
    """Zero a share ``rate`` of ``x`` (any shape) and scale up the rest; ``bits`` has x's size.

    Raises ValueError if the rate is not in [0, 1), or if sizes or types do not fit.
    """
    cache = Dropout(bits, rate)
    return dropout_backward(x, cache), cache


def dropout_backward(dy: Float32, cache: Dropout) -> Float32:
    """Return dx for ``dy``: dropout is linear, so its gradient is the same map again.

    Raises ValueError if shapes or types do not fit.
    """
    expect(dy.shape, dy)
    drop = draw(cache, dy.shape)
    if drop.threshold == 0:
        return dy
    dx = np.empty(dy.shape, np.float32)
    _drop(np.ascontiguousarray(dy).reshape(-1), drop.bits.reshape(-1), *drop[1:], dx.reshape(-1))
    return dx


@jit(parallel=True)
def _drop(x: Float32, bits: Bits16, threshold: int, scale: np.float32, y: Float32) -> None:
    for i in numba.prange(x.size):
        y[i] = x[i] * (scale if bits[i] >= threshold else np.float32(0.0))
