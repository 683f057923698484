"""Matrix products of bfloat16 with float32 sums, for processors with AVX512_BF16.

    out = start + A B      A (N, K), B (K, M) rounded to bfloat16; start, out (N, M) float32

An operand may be given as its transpose, which is never materialised: the three products of a
linear layer y = x W + b are

    y = matmul(x, W, bias=b)
    dx = matmul(dy, W, transpose_b=True)
    dW = matmul(x, dy, transpose_a=True)

B is packed into panels of 32 columns (bfloat16_packing.py), and so is A if its transpose is
given; else two neighbours in a row of A make a pair where they lie. The loops around the register
tile (bfloat16_tile.py) keep each operand in the cache it is read from most often:

    for each block of columns x block of rows of out        a task; tasks run on all threads
        for each panel of 32 columns
            for each block of 128 pairs of the panel        16 KB of B, which stay in L1
                for each 8 rows                             256 KB of A in all, which stay in L2
                    tile (8, 32) of out = (start, or out after the first block) + A B

Memory traffic: A and B are read and written once where they are rounded or packed; then A is read
from memory once a block of columns, B once a block of rows, and out is written once.

Each number of out is summed along K in order, by one thread, in float32: the bits depend neither on
the blocks nor on the number of threads. Products are exact, so the error is that of K additions,
at most about K 2**-24 sum |a b|. Denormal operands and sums count as zero, NaN and inf go through.

Where the kernels cannot run (``is_compiled``), NumPy multiplies the rounded operands in float64.

Source: Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication".
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from electra_ref.backends.cpu.bfloat16_packing import (
    Bits,
    Float32,
    Operand,
    Panels,
    Words,
    aligned_empty,
    is_compiled,
    pack,
    round_to_bfloat16,
    unpack,
    widen,
)
from electra_ref.backends.cpu.bfloat16_tile import (
    PANEL_COLUMNS,
    TILE_ROWS,
    WORD,
    address_of,
    multiply_tile,
)
from electra_ref.compilation import jit

PAIRS_PER_BLOCK = 128
WORDS_PER_ROW_BLOCK = 65_536  # of A: 256 KB, a quarter of L2
MOST_ROWS_PER_BLOCK = 128
LEAST_TASKS = 16  # where out is large enough, so that threads end at about the same time


class Left(NamedTuple):
    """Where the word of row i and pair k of A lies: at the sum of an address and three offsets."""

    address: int
    panel_stride: int  # bytes, times i // 32
    row_stride: int  # bytes, times i % 32
    pair_stride: int  # bytes, times k


class Blocks(NamedTuple):
    """The part of ``out`` that is one task."""

    rows: int  # a multiple of 8
    panels: int


def matmul(
    a: Operand | Panels,
    b: Operand | Panels,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    bias: Float32 | None = None,
    accumulate: bool = False,
    out: Float32 | None = None,
) -> Float32:
    """Return A B (N, M), rounded to bfloat16 before: plus ``bias`` (M,), or added to ``out``.

    a is A (N, K) or, with ``transpose_a``, its transpose (K, N), packed or not. b is B (K, M),
    packed or not, or its transpose (M, K) with ``transpose_b``. float32 is rounded, uint16 holds
    the bits of bfloat16. ``out``, whose rows are contiguous, is written in place if it is given,
    and with ``accumulate`` added to. Raises ValueError if shapes, types or options do not fit.
    """
    if isinstance(b, Panels) and transpose_b:
        raise ValueError("panels know whether they were packed from a transpose")
    right = b if isinstance(b, Panels) else pack(b, transpose=transpose_b)
    left = _prepare_left(a, transpose=transpose_a)
    rows, length = a.shape[::-1] if transpose_a else a.shape
    shape = rows, right.shape[1]
    if out is None:
        if accumulate:
            raise ValueError("accumulate needs an out to add to")
        out = np.empty(shape, np.float32)
    if bias is None:
        bias = np.zeros(shape[1], np.float32)
    elif accumulate:
        raise ValueError("a product is added to out or to a bias, not to both")
    if length != right.shape[0] or out.shape != shape or bias.shape != shape[1:]:
        raise ValueError(
            f"A {rows, length}, B {right.shape}, bias {bias.shape} and out {out.shape} do not fit"
        )
    if out.dtype != np.float32 or bias.dtype != np.float32 or out.strides[1] != WORD:
        raise ValueError("bias and out are float32, and the rows of out are contiguous")
    if is_compiled():
        blocks = _choose_blocks(rows, right.words)
        _multiply(_locate(left), right.words, np.ascontiguousarray(bias), accumulate, out, blocks)
    else:
        start = out if accumulate else bias
        out[...] = start + _left_reference(left)[:, :length] @ unpack(right).astype(np.float64)
    return out


def _prepare_left(a: Operand | Panels, *, transpose: bool) -> Bits | Panels:
    """Return A as rows of whole pairs, which need not be contiguous with each other, or packed."""
    if transpose:
        return a if isinstance(a, Panels) else pack(a)
    if isinstance(a, Panels):
        raise ValueError("only the transpose of A can be packed")
    if a.ndim != 2 or a.dtype not in (np.float32, np.uint16):
        raise ValueError(f"A is a matrix of float32 or uint16, not {a.dtype} {a.shape}")
    bits = round_to_bfloat16(a)
    if a.shape[1] > 0 and a.shape[1] % 2 == 0 and bits.strides[1] == bits.itemsize:
        return bits
    padded = aligned_empty((a.shape[0], max(2, a.shape[1] + a.shape[1] % 2)), np.uint16)
    padded[:, : a.shape[1]] = bits
    padded[:, a.shape[1] :] = 0
    return padded


def _left_reference(left: Bits | Panels) -> npt.NDArray[np.float64]:
    matrix = unpack(left).T if isinstance(left, Panels) else widen(left)
    return matrix.astype(np.float64)


def _locate(left: Bits | Panels) -> Left:
    if isinstance(left, Panels):
        words = left.words
        return Left(words.ctypes.data, words.strides[0], WORD, words.strides[1])
    return Left(left.ctypes.data, PANEL_COLUMNS * left.strides[0], left.strides[0], WORD)


def _choose_blocks(rows: int, words: Words) -> Blocks:
    """Cut ``out`` so that a block of A stays in L2 and there is work for all threads."""
    panels, pairs, _ = words.shape
    block = min(WORDS_PER_ROW_BLOCK // pairs, MOST_ROWS_PER_BLOCK) // TILE_ROWS * TILE_ROWS
    block = max(block, TILE_ROWS)
    row_blocks = max(1, -(-rows // block))
    column_blocks = min(max(1, panels), -(-LEAST_TASKS // row_blocks))
    return Blocks(block, -(-panels // column_blocks))


@jit(parallel=True)
def _multiply(
    left: Left, right: Words, bias: Float32, accumulate: bool, out: Float32, blocks: Blocks
) -> None:
    """Write all of ``out`` (N, M), block by block."""
    rows = out.shape[0]
    row_blocks = -(-rows // blocks.rows)
    column_blocks = -(-right.shape[0] // blocks.panels)
    for task in numba.prange(row_blocks * column_blocks):
        # numba counts in uint64, whose minimum with an int64 would be a float64.
        column_block, row_block = divmod(np.intp(task), row_blocks)
        first_row = row_block * blocks.rows
        last_row = min(first_row + blocks.rows, rows)
        first_panel = column_block * blocks.panels
        for panel in range(first_panel, min(first_panel + blocks.panels, right.shape[0])):
            _multiply_panel(left, right[panel], panel, bias, accumulate, out, first_row, last_row)


@jit()
def _multiply_panel(
    left: Left,
    right: Words,
    panel: int,
    bias: Float32,
    accumulate: bool,
    out: Float32,
    first_row: int,
    last_row: int,
) -> None:
    """Write rows ``first_row`` to ``last_row`` of the columns that ``right`` (pairs, 32) gives."""
    pairs = right.shape[0]
    column = panel * PANEL_COLUMNS
    width = min(PANEL_COLUMNS, out.shape[1] - column)
    edge = np.zeros((TILE_ROWS, PANEL_COLUMNS), np.float32)  # a tile that out has no room for
    for first_pair in range(0, pairs, PAIRS_PER_BLOCK):
        count = min(PAIRS_PER_BLOCK, pairs - first_pair)
        right_address = address_of(right) + first_pair * PANEL_COLUMNS * WORD
        from_out = accumulate or first_pair > 0
        for row in range(first_row, last_row, TILE_ROWS):
            height = min(TILE_ROWS, last_row - row)
            whole = height == TILE_ROWS and width == PANEL_COLUMNS
            target = address_of(out) + row * out.strides[0] + column * WORD
            stride = out.strides[0]
            start, start_stride = target, stride
            if not whole:
                target, stride = address_of(edge), PANEL_COLUMNS * WORD
                start, start_stride = target, stride
                part = out[row : row + height, column : column + width]
                if from_out:
                    edge[:height, :width] = part
                else:
                    edge[:height, :width] = bias[column : column + width]
            elif not from_out:
                start, start_stride = address_of(bias) + column * WORD, 0
            left_address = (
                left.address
                + row // PANEL_COLUMNS * left.panel_stride
                + row % PANEL_COLUMNS * left.row_stride
                + first_pair * left.pair_stride
            )
            multiply_tile(
                (left_address, left.row_stride, left.pair_stride, height),
                (right_address, count),
                (start, start_stride),
                (target, stride),
            )
            if not whole:
                out[row : row + height, column : column + width] = edge[:height, :width]
