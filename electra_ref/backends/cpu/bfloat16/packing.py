"""Operands of the bfloat16 product: float32 rounded to bfloat16, laid out as the tile reads them.

A bfloat16 is the upper half of a float32: 8 bits of mantissa with the hidden one. Its bits are
held as uint16. Two neighbours along K, the lower one in the lower half, make one 32-bit word.

A matrix (K, M) is cut into panels of 32 columns, each contiguous, its columns side by side:

    column   0                31      32               63
    pair 0  [k0 k1] ... [k0 k1]      [k0 k1] ... [k0 k1]
    pair 1  [k2 k3] ... [k2 k3]      [k2 k3] ... [k2 k3]
      :           panel 0                  panel 1               zeros beyond K and M

Packing rounds float32 to nearest, ties to even; NaN stays NaN, inf stays inf, what lies above the
largest bfloat16 by half a unit or more becomes inf, and denormals become zero, which is what the
products take them for.

Both ways of packing go strip by strip. A strip is a piece of the matrix; it is rounded along its
rows into memory that stays in L1, and copied from there to the panels. Memory traffic: the matrix
is read once, the panels (half the size of float32) are written once.

Source: the layout follows Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix
Multiplication"; rounding IEEE 754-2019, section 4.3.1.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.arguments import is_transpose
from electra_ref.backends.cpu.bfloat16.rounding import round_two_rows
from electra_ref.backends.cpu.bfloat16.tile import (
    LANES,
    PANEL_COLUMNS,
    address_of,
    transpose_square,
)
from electra_ref.backends.cpu.emitters import WORD
from electra_ref.compilation import jit

Bits = npt.NDArray[np.uint16]  # of bfloat16
Index = int | np.intp
Words = npt.NDArray[np.uint32]  # pairs of bfloat16

STRIP_ROWS = 8
PAIRS_AT_A_TIME = 64  # of a transposed panel: 8 KB that stay in L1 while its columns are written
CACHE_LINE = 64
HALF = 2  # bytes of a bfloat16
PANEL_BYTES = PANEL_COLUMNS * WORD  # of one pair of rows


class Panels(NamedTuple):
    """A packed matrix (K, M)."""

    words: Words  # (ceil(M / 32), ceil(K / 2), 32)
    shape: tuple[int, int]  # (K, M)


def pack(matrix: Float32) -> Panels:
    """Pack ``matrix`` (K, M), which may be a transposed view.

    Raises ValueError unless the matrix is one of float32.
    """
    if matrix.ndim != 2 or matrix.dtype != np.float32:
        raise ValueError(f"expected a float32 matrix, got {matrix.dtype} {matrix.shape}")
    panels = empty_panels(*matrix.shape)
    if is_transpose(matrix):
        _pack_columns(matrix.T, panels.words)
    else:
        _pack_rows(np.ascontiguousarray(matrix), panels.words)
    return panels


def empty_panels(length: int, columns: int) -> Panels:
    """Return room for a matrix (K, M)."""
    shape = -(-columns // PANEL_COLUMNS), -(-length // 2), PANEL_COLUMNS
    return Panels(aligned_empty(shape, np.uint32), (length, columns))


def aligned_empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an uninitialised array that starts at a cache line, so that no vector spans two."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    return raw[start : start + size].view(dtype).reshape(shape)


@jit()
def in_panels(columns: Index) -> Index:
    """Return ``columns`` rounded up to whole panels."""
    return -(-columns // PANEL_COLUMNS) * PANEL_COLUMNS


@jit()
def round_strip(
    matrix: Float32,
    place: tuple[Index, Index],
    width: Index,
    strip: Bits,
    panels: Words,
    sums: Float32,
) -> None:
    """Round ``matrix`` (K, M) to ``strip`` (R, ``width`` or more): what begins at ``place``.

    ``place`` (row, column) is a multiple of 2 and 32, ``width`` of 32, R of 2; zeros stand where
    the matrix has ended. If there are ``panels``, those of the whole matrix, their part of it is
    written too. If there are ``sums`` (M or more,), the rows are added to their part.
    """
    rows, columns = matrix.shape
    row, column = place
    pairs = panels.shape[1]
    for i in range(row, row + strip.shape[0], 2):
        packs = panels.shape[0] > 0 and i // 2 < pairs
        first = columns if i < rows else 0
        second = columns if i + 1 < rows else 0
        source = address_of(matrix) + i * matrix.strides[0]
        target = address_of(strip) + (i - row) * strip.strides[0]
        words = address_of(panels) + i // 2 * PANEL_BYTES
        for j in range(column, column + width, PANEL_COLUMNS):
            round_two_rows(
                (source + j * WORD, matrix.strides[0], first - j, second - j),
                (target + (j - column) * HALF, strip.strides[0]),
                words + j // PANEL_COLUMNS * pairs * PANEL_BYTES if packs else 0,
                address_of(sums) + j * WORD if sums.size > 0 else 0,
            )


@jit(parallel=True)
def _pack_rows(matrix: Float32, words: Words) -> None:
    panels, pairs, _ = words.shape
    width = panels * PANEL_COLUMNS
    for task in numba.prange(-(-2 * pairs // STRIP_ROWS)):
        strip = np.empty((STRIP_ROWS, width), np.uint16)
        no_sums = np.empty(0, np.float32)
        round_strip(matrix, (np.intp(task) * STRIP_ROWS, 0), width, strip, words, no_sums)


@jit(parallel=True)
def _pack_columns(matrix: Float32, words: Words) -> None:
    """Pack the transpose of ``matrix`` (M, K): 32 of its rows become the columns of a panel.

    Some pairs of all rows at a time are rounded along the rows, then transposed in registers.
    """
    for task in numba.prange(words.shape[0]):
        panel = np.intp(task)
        strip = np.empty((PANEL_COLUMNS, 2 * PAIRS_AT_A_TIME), np.uint16)
        pairs = strip.view(np.uint32)
        no_panels, no_sums = words[:0], np.empty(0, np.float32)
        for first in range(0, words.shape[1], PAIRS_AT_A_TIME):
            count = min(PAIRS_AT_A_TIME, words.shape[1] - first)
            place, width = (panel * PANEL_COLUMNS, 2 * first), in_panels(2 * count)
            round_strip(matrix, place, width, strip, no_panels, no_sums)
            whole = count // LANES * LANES
            for k in range(0, whole, LANES):
                for j in range(0, PANEL_COLUMNS, LANES):
                    transpose_square(pairs, (j, k), words[panel], (first + k, j))
            for k in range(whole, count):
                for j in range(PANEL_COLUMNS):
                    words[panel, first + k, j] = pairs[j, k]
