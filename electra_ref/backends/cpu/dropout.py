"""Dropout whose random bits are drawn where they are used, and its gradient.

The formula is that of ``backends.reference.dropout``:

    y = x * keep / (1 - p),   keep = bits >= 65536 p

The integers are those of ``rng.dropout_bits``. Instead of an array of them, an operation passes
on where they are to be found, and a kernel draws what it needs for a row just before it uses it,
in the first-level cache; the backward pass draws the same ones again. That costs 0.3 ns an
element and saves writing 2 bytes and reading them twice.

Memory traffic: x is read once and y written once, forward and backward.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Float32
from electra_ref.backends.reference.dropout import BIT_RANGE
from electra_ref.compilation import jit
from electra_ref.rng import RandomStream, fill_blocks, key_words

ELEMENTS_PER_BLOCK = 8  # a Philox block is four words of 32 bits: eight of 16


class DropoutBits(NamedTuple):
    """The bits of one dropout site, not yet drawn."""

    stream: RandomStream
    examples: int
    bits_per_example: int


class Drop(NamedTuple):
    """What a kernel needs to drop: the place of the bits, and which of them keep an element."""

    key_low: np.uint64  # plain numbers only: parallel loops take no tuple in a tuple
    key_high: np.uint64
    purpose: np.uint64
    step: np.uint64
    first_example: np.uint64
    threshold: int  # bits below it drop; 0 drops nothing
    scale: np.float32  # 1 / (1 - p)


_ZERO = np.uint64(0)
NOTHING = Drop(_ZERO, _ZERO, _ZERO, _ZERO, _ZERO, 0, np.float32(1.0))


class DropoutCache(NamedTuple):
    """Kept for the backward pass: nothing the size of x."""

    drop: Drop
    examples: int


def plan(bits: DropoutBits | None, rate: float, size: int) -> Drop:
    """Return how to drop a share ``rate`` of ``size`` elements; None in evaluation drops none.

    Raises ValueError if ``rate`` is not in [0, 1) or if there are not ``size`` bits.
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"the dropout rate must be in [0, 1), got {rate}")
    threshold = min(round(rate * BIT_RANGE), BIT_RANGE - 1)
    if bits is None or threshold == 0:
        return NOTHING
    if bits.examples * bits.bits_per_example != size:
        raise ValueError(
            f"{bits.examples} x {bits.bits_per_example} bits do not fit {size} elements"
        )
    stream = bits.stream
    return Drop(
        *key_words(stream.seed),
        np.uint64(stream.purpose),
        np.uint64(stream.step),
        np.uint64(stream.first_example),
        threshold,
        np.float32(BIT_RANGE / (BIT_RANGE - threshold)),
    )


def dropout(x: Float32, bits: DropoutBits | None, rate: float) -> tuple[Float32, DropoutCache]:
    """Zero a share ``rate`` of ``x`` (any shape) and scale up the rest; ``bits`` has x's size."""
    cache = DropoutCache(plan(bits, rate, x.size), 1 if bits is None else bits.examples)
    return dropout_backward(x, cache), cache


def dropout_backward(dy: Float32, cache: DropoutCache) -> Float32:
    """Return dx for ``dy``: dropout is linear, so its gradient is the same map again."""
    if cache.drop.threshold == 0:
        return dy
    dx = np.empty_like(dy)
    _scale(
        np.ascontiguousarray(dy).reshape(cache.examples, -1),
        cache.drop,
        dx.reshape(cache.examples, -1),
    )
    return dx


PIECE = 4096  # elements a thread drops at a time, a multiple of ELEMENTS_PER_BLOCK


@jit(parallel=True)
def _scale(x: Float32, drop: Drop, y: Float32) -> None:
    examples, count = x.shape
    pieces = -(-count // PIECE)
    for task in numba.prange(examples * pieces):
        row, start = task // pieces, task % pieces * PIECE
        end = min(start + PIECE, count)
        scales = np.empty(end - start, np.float32)
        draw_scales(drop, row, start, scales)
        for i in range(scales.size):
            y[row, start + i] = x[row, start + i] * scales[i]


@jit()
def draw_scales(drop: Drop, example: int, start: int, scales: Float32) -> None:
    """Fill ``scales`` (n,) with the factors 0 or 1 / (1 - p) of elements ``start`` ... of a row.

    ``example`` is counted in the micro-batch, ``start`` in the bits of the example.
    """
    if drop.threshold == 0:
        scales[:] = drop.scale
        return
    first_block = start // ELEMENTS_PER_BLOCK
    skipped = start - first_block * ELEMENTS_PER_BLOCK
    words = np.empty(-(-(skipped + scales.size) // ELEMENTS_PER_BLOCK) * 4, np.uint32)
    place = drop.first_example + np.uint64(example), drop.step, drop.purpose
    fill_blocks(words, np.uint64(first_block), place, (drop.key_low, drop.key_high))
    halves = words.view(np.uint16)[skipped:]  # low half first, as in ``rng.dropout_bits``
    _choose(halves, drop.threshold, drop.scale, scales)


@jit()
def _choose(
    bits: npt.NDArray[np.uint16], threshold: int, scale: np.float32, scales: Float32
) -> None:
    """Fill ``scales``; a function of its own, because only then its loop becomes vectors."""
    for i in range(scales.size):
        scales[i] = scale if bits[i] >= threshold else np.float32(0.0)
