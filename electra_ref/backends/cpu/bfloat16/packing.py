"""Operands of the bfloat16 product: float32 rounded to bfloat16, laid out as the tile reads them.

A bfloat16 is the upper half of a float32: 8 bits of mantissa with the hidden one. Its bits are
held as uint16. Two neighbours along K, the lower one in the lower half, make one 32-bit word.

A matrix (K, M) is cut into panels of 32 columns, each contiguous, its columns side by side:

    column   0                31      32               63
    pair 0  [k0 k1] ... [k0 k1]      [k0 k1] ... [k0 k1]
    pair 1  [k2 k3] ... [k2 k3]      [k2 k3] ... [k2 k3]
      :           panel 0                  panel 1               zeros beyond K and M

Packing rounds float32 to nearest, ties to even; NaN stays NaN, inf stays inf, and what lies above
the largest bfloat16 by half a unit or more becomes inf. uint16 is taken as bits already rounded.
Memory traffic: the matrix is read once, the panels (half the size of float32) are written once.

Source: the layout follows Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix
Multiplication"; rounding IEEE 754-2019, section 4.3.1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.bfloat16.tile import (
    LANES,
    PANEL_COLUMNS,
    has_avx512_bf16,
    pack_lanes,
    round_number,
    transpose_square,
    widen_number,
)
from electra_ref.compilation import jit

Bits = npt.NDArray[np.uint16]  # of bfloat16
Operand = npt.NDArray[np.float32] | npt.NDArray[np.uint16]
Index = int | np.intp
Words = npt.NDArray[np.uint32]  # pairs of bfloat16

PAIRS_AT_A_TIME = 64  # of a transposed panel: 8 KB that stay in L1 while its columns are written
NUMBERS_PER_TASK = 16_384
NUMBERS_OF_ONE_THREAD = 262_144  # up to this, waking the others takes longer than the work
CACHE_LINE = 64


class Panels(NamedTuple):
    """A packed matrix (K, M)."""

    words: Words  # (ceil(M / 32), ceil(K / 2), 32)
    shape: tuple[int, int]  # (K, M)


def is_compiled() -> bool:
    """Tell whether the kernels run here; if not, their NumPy twins do."""
    interpreted = getattr(numba.config, "DISABLE_JIT")  # noqa: B009  (numba's types lack it)
    return has_avx512_bf16() and not interpreted


def round_to_bfloat16(x: Operand) -> Bits:
    """Return the bits of the bfloat16 nearest to each number of ``x``, any shape.

    uint16 is taken as such bits already and returned as it is. Raises ValueError for other types.
    """
    if x.dtype == np.uint16:
        return x.view(np.uint16)
    if x.dtype != np.float32:
        raise ValueError(f"expected float32 or uint16, got {x.dtype}")
    if not is_compiled():
        return round_reference(x.view(np.float32))
    bits = aligned_empty((x.size,), np.uint16)
    run: Any = round_numbers if x.size <= NUMBERS_OF_ONE_THREAD else _round_on_threads
    run(np.ascontiguousarray(x).reshape(-1), bits)
    return bits.reshape(x.shape)


def round_reference(x: Float32) -> Bits:
    """Do what ``round_to_bfloat16`` does, in NumPy."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    upper = bits >> 16
    # In 64 bits: the carry out of a NaN's mantissa and sign would be lost, with a warning.
    nearest = (bits.astype(np.uint64) + 0x7FFF + (upper & 1)) >> 16
    return np.where(np.isnan(x), upper | 0x40, nearest).astype(np.uint16).reshape(x.shape)


def widen(bits: Bits) -> Float32:
    """Return the float32 equal to the bfloat16 ``bits``, any shape."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def is_transpose(matrix: Operand) -> bool:
    """Tell whether ``matrix`` is a transposed view of a contiguous array."""
    return matrix.flags.f_contiguous and not matrix.flags.c_contiguous


def pack(matrix: Operand, *, column_sums: Float32 | None = None) -> Panels:
    """Pack ``matrix`` (K, M), which may be a transposed view.

    Its column sums (M,) in float32, of numbers not yet rounded, are written to ``column_sums`` if
    that is given. Raises ValueError unless the matrix is one of float32 or uint16.
    """
    if matrix.ndim != 2 or matrix.dtype not in (np.float32, np.uint16):
        raise ValueError(f"expected a float32 or uint16 matrix, got {matrix.dtype} {matrix.shape}")
    length, columns = matrix.shape
    # At least one pair, so that the tile need not know products of length 0.
    pairs = max(1, -(-length // 2))
    words = aligned_empty((-(-columns // PANEL_COLUMNS), pairs, PANEL_COLUMNS), np.uint32)
    alone = matrix.size <= NUMBERS_OF_ONE_THREAD
    tasks = 1 if alone else -(-pairs // PAIRS_AT_A_TIME)
    partial_sums = np.zeros((tasks, 0 if column_sums is None else columns), np.float32)
    if not is_compiled():
        pack_reference(matrix, words, partial_sums)
    elif is_transpose(matrix) and column_sums is None:
        run: Any = _pack_columns if alone else _pack_columns_on_threads
        run(matrix.T, words)
    else:
        run = _pack_rows if alone else _pack_rows_on_threads
        run(np.ascontiguousarray(matrix), words, partial_sums)
    if column_sums is not None:
        np.sum(partial_sums, axis=0, out=column_sums)
    return Panels(words, (length, columns))


def pack_reference(matrix: Operand, words: Words, sums: Float32) -> None:
    """Write ``matrix`` (K, M) to ``words``, panel by panel, and its sums if asked for, in NumPy."""
    bits = round_to_bfloat16(matrix)
    panels, pairs, _ = words.shape
    padded = np.zeros((2 * pairs, panels * PANEL_COLUMNS), np.uint32)
    padded[: matrix.shape[0], : matrix.shape[1]] = bits
    in_panels = padded.reshape(pairs, 2, panels, PANEL_COLUMNS)
    words[...] = (in_panels[:, 0] | in_panels[:, 1] << 16).swapaxes(0, 1)
    if sums.shape[1] > 0:
        numbers = widen(bits) if matrix.dtype == np.uint16 else matrix
        sums[0] = numbers.sum(axis=0, dtype=np.float64)


def unpack(panels: Panels) -> Float32:
    """Return the rounded matrix (K, M) that ``panels`` hold."""
    count, pairs, _ = panels.words.shape
    halves = np.stack([panels.words & 0xFFFF, panels.words >> 16], axis=2).astype(np.uint16)
    matrix = halves.transpose(1, 2, 0, 3).reshape(2 * pairs, count * PANEL_COLUMNS)
    return widen(matrix[: panels.shape[0], : panels.shape[1]])


def aligned_empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an uninitialised array that starts at a cache line, so that no vector spans two."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    return raw[start : start + size].view(dtype).reshape(shape)


@jit()
def round_numbers(numbers: Operand, bits: Bits) -> None:
    """Write the bits of ``numbers`` (n,), rounded to bfloat16, to ``bits`` (n or more,)."""
    for i in range(numbers.size):
        bits[i] = round_number(numbers[i])


@jit(parallel=True)
def _round_on_threads(numbers: Operand, bits: Bits) -> None:
    for task in numba.prange(-(-numbers.size // NUMBERS_PER_TASK)):
        start = np.intp(task) * NUMBERS_PER_TASK
        part = slice(start, start + NUMBERS_PER_TASK)
        round_numbers(numbers[part], bits[part])


@jit()
def _pack_rows(matrix: Operand, words: Words, sums: Float32) -> None:
    _pack_pairs_of_rows(matrix, words, 0, words.shape[1], sums[0])


@jit(parallel=True)
def _pack_rows_on_threads(matrix: Operand, words: Words, sums: Float32) -> None:
    for task in numba.prange(sums.shape[0]):
        first = np.intp(task) * PAIRS_AT_A_TIME
        last = min(first + PAIRS_AT_A_TIME, words.shape[1])
        _pack_pairs_of_rows(matrix, words, first, last, sums[task])


@jit()
def _pack_pairs_of_rows(
    matrix: Operand, words: Words, first: Index, last: Index, sums: Float32
) -> None:
    """Pack pairs ``first`` to ``last`` of ``matrix`` (K, M), two rows after another.

    The rows are added to ``sums``, (M,) or, if nobody wants them, (0,).
    """
    length, columns = matrix.shape
    panels, pairs, _ = words.shape
    flat = words.reshape(-1)
    nothing = np.zeros(columns, matrix.dtype)
    edge = np.zeros((2, PANEL_COLUMNS), matrix.dtype)  # the last columns, if they fill no panel
    for pair in range(first, last):
        upper = matrix[2 * pair] if 2 * pair < length else nothing
        lower = matrix[2 * pair + 1] if 2 * pair + 1 < length else nothing
        for panel in range(panels):
            column = panel * PANEL_COLUMNS
            index = (panel * pairs + pair) * PANEL_COLUMNS
            if column + PANEL_COLUMNS <= columns:
                for lane in range(0, PANEL_COLUMNS, LANES):
                    pack_lanes(upper, lower, column + lane, flat, index + lane)
            else:
                edge[0, : columns - column] = upper[column:]
                edge[1, : columns - column] = lower[column:]
                for lane in range(0, PANEL_COLUMNS, LANES):
                    pack_lanes(edge[0], edge[1], lane, flat, index + lane)
        for column in range(sums.size):
            sums[column] += widen_number(upper[column]) + widen_number(lower[column])


@jit()
def _pack_columns(matrix: Operand, words: Words) -> None:
    for panel in range(words.shape[0]):
        _pack_panel_of_columns(matrix, words, panel)


@jit(parallel=True)
def _pack_columns_on_threads(matrix: Operand, words: Words) -> None:
    for panel in numba.prange(words.shape[0]):
        _pack_panel_of_columns(matrix, words, np.intp(panel))


@jit()
def _pack_panel_of_columns(matrix: Operand, words: Words, panel: Index) -> None:
    """Pack one panel of the transpose of ``matrix`` (M, K): 32 of its rows become the columns.

    Some pairs of all rows at a time are rounded along the rows, then transposed in registers.
    """
    columns, length = matrix.shape
    first_row = panel * PANEL_COLUMNS
    bits = np.zeros((PANEL_COLUMNS, 2 * PAIRS_AT_A_TIME), np.uint16)
    pairs = bits.view(np.uint32)
    for first in range(0, words.shape[1], PAIRS_AT_A_TIME):
        count = min(PAIRS_AT_A_TIME, words.shape[1] - first)
        numbers = min(2 * count, length - 2 * first)
        bits[:, numbers : 2 * count] = 0
        for j in range(min(PANEL_COLUMNS, columns - first_row)):
            round_numbers(matrix[first_row + j, 2 * first : 2 * first + numbers], bits[j])
        whole = count // LANES * LANES
        for k in range(0, whole, LANES):
            for j in range(0, PANEL_COLUMNS, LANES):
                transpose_square(pairs, (j, k), words[panel], (first + k, j))
        for k in range(whole, count):
            for j in range(PANEL_COLUMNS):
                words[panel, first + k, j] = pairs[j, k]
