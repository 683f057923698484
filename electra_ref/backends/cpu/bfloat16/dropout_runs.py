"""The random bits of dropout, drawn row by row by the kernel that drops: no array of them is made.

The integers are those of ``rng.dropout_bits``: bit i of an example is the same wherever its run
begins.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref import rng
from electra_ref.backends.cpu.bfloat16.packing import Index
from electra_ref.backends.cpu.dropout import Bits16, Dropout
from electra_ref.backends.reference.dropout import BIT_RANGE
from electra_ref.compilation import jit

BITS_PER_BLOCK = 8  # of Philox: four words, two numbers each


class DropSite(NamedTuple):
    """What a kernel needs to draw the bits itself, row by row, and to drop."""

    stream: rng.StreamWords
    threshold: int  # 0 drops nothing
    scale: np.float32  # 1 / (1 - p)


def locate(dropout: Dropout, shape: tuple[int, ...]) -> DropSite:
    """Say where the bits of an array of ``shape`` are found, its rows in the order of the examples.

    Raises ValueError if the rate is not in [0, 1) or if the number of bits is not that of shape.
    """
    bits, rate = dropout
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"the dropout rate must be in [0, 1), got {rate}")
    threshold = min(round(rate * BIT_RANGE), BIT_RANGE - 1)
    if bits is None or threshold == 0:
        return DropSite(rng.stream_words(rng.RandomStream(0, 0, 0), 0, 0), 0, np.float32(1.0))
    if bits.examples * bits.bits_per_example != math.prod(shape):
        raise ValueError(
            f"{bits.examples} x {bits.bits_per_example} bits are not those of the shape {shape}"
        )
    stream = rng.stream_words(bits.stream, bits.examples, bits.bits_per_example)
    return DropSite(stream, threshold, np.float32(BIT_RANGE / (BIT_RANGE - threshold)))


@jit()
def draw_run(
    stream: rng.StreamWords,
    example: Index,
    first: Index,
    count: Index,
    words: npt.NDArray[np.uint32],
) -> Bits16:
    """Draw bits ``first`` to ``first + count`` of an example into ``words``, and return them.

    ``words`` has room for ``words_of_run(count)``.
    """
    block = first // BITS_PER_BLOCK
    skipped = first - block * BITS_PER_BLOCK
    piece = words[: words_of_run(count)]
    rng.fill_words(piece, np.uint64(block), stream, np.uint64(example))
    return words.view(np.uint16)[skipped : skipped + count]


@jit()
def words_of_run(count: Index) -> Index:
    """Return how many words hold ``count`` bits that begin anywhere: whole blocks of Philox."""
    return (count // BITS_PER_BLOCK + 2) * (BITS_PER_BLOCK // 2)
