"""Matrix products of bfloat16 with float32 sums, for processors with AVX512_BF16.

    out = start + A B      A (N, K), B (K, M) rounded to bfloat16; start, out (N, M) float32

Operands may be transposed views, which are never copied: the gradients of a linear layer
y = x W + b are

    multiply(dy, W.T, dx)
    multiply(x.T, dy, dW, column_sums=db)

B is packed into panels of 32 columns (packing.py), and so is A if it is a transposed
view; else two neighbours in a row of A make a pair where they lie. The loops around the register
tile (tile.py) keep each operand in the cache it is read from most often:

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

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.bfloat16.packing import (
    Bits,
    Operand,
    Panels,
    Words,
    aligned_empty,
    is_compiled,
    is_transpose,
    pack,
    round_numbers,
    round_to_bfloat16,
    unpack,
    widen,
)
from electra_ref.backends.cpu.bfloat16.tile import (
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


class Strides(NamedTuple):
    """Where, in bytes after the first, the pair k of row i of A lies: the sum of three products."""

    panel: int  # times i // 32
    row: int  # times i % 32
    pair: int  # times k


class Blocks(NamedTuple):
    """The part of ``out`` that is one task."""

    rows: int  # a multiple of 8
    panels: int


def multiply(
    a: Operand | Panels,
    b: Operand | Panels,
    out: Float32,
    *,
    start: Float32 | None = None,
    column_sums: Float32 | None = None,
) -> None:
    """Write ``start`` + A B to ``out`` (N, M), whose rows are contiguous.

    ``a`` (N, K) and ``b`` (K, M) are float32, or uint16 that holds the bits of bfloat16. Either
    may be packed: b as it is, of a the transpose. ``start`` is a row (M,), or ``out`` itself, which
    is then added to; None is zero. Where ``column_sums`` (M,) is given, the sum of the rows of b,
    which is not packed then, is written to it; it is not rounded to bfloat16.

    Raises ValueError if shapes or types do not fit.
    """
    if isinstance(b, Panels) and column_sums is not None:
        raise ValueError("the column sums of b are not to be had once it is packed")
    right = b if isinstance(b, Panels) else pack(b, column_sums=column_sums)
    if len(a.shape) != 2:
        raise ValueError(f"expected matrices, got {a.shape}")
    rows, length = a.shape[::-1] if isinstance(a, Panels) else a.shape
    shape = rows, right.shape[1]
    row = np.zeros(shape[1], np.float32) if start is None or start is out else start
    if length != right.shape[0] or out.shape != shape or row.shape != shape[1:]:
        raise ValueError(
            f"A {rows, length}, B {right.shape}, start {row.shape} and out {out.shape} do not fit"
        )
    if out.dtype != np.float32 or row.dtype != np.float32 or out.strides[1] != WORD:
        raise ValueError("start and out are float32, and the rows of out are contiguous")
    if is_compiled():
        blocks = _choose_blocks(rows, right.words)
        unrounded, left, strides = _prepare_left(a, in_tasks=blocks.panels >= right.words.shape[0])
        row = np.ascontiguousarray(row)
        _multiply(unrounded, left, strides, right.words, row, start is out, out, blocks)
    else:
        exact = unpack(a).T if isinstance(a, Panels) else widen(round_to_bfloat16(a))
        with np.errstate(invalid="ignore", over="ignore"):  # the kernels do not warn either
            product = exact.astype(np.float64) @ unpack(right)
            out[...] = product + (out if start is out else row)


def _prepare_left(a: Operand | Panels, *, in_tasks: bool) -> tuple[Float32, Bits, Strides]:
    """Return A (N, K) as it is or (0, 0), room for its bits or these, and where they lie.

    With ``in_tasks`` each row belongs to one task, which rounds it while it is in the cache.
    """
    nothing = np.empty((0, 0), np.float32)
    if isinstance(a, Panels) or is_transpose(a):
        words = (a if isinstance(a, Panels) else pack(a.T)).words
        bits = words.reshape(-1, PANEL_COLUMNS).view(np.uint16)
        return nothing, bits, Strides(words.strides[0], WORD, words.strides[1])
    rows, length = a.shape
    whole_pairs = length > 0 and length % 2 == 0
    if in_tasks and whole_pairs and a.dtype == np.float32 and a.flags.c_contiguous:
        unrounded, bits = a.view(np.float32), aligned_empty(a.shape, np.uint16)
    else:
        unrounded, bits = nothing, round_to_bfloat16(a)
        if not whole_pairs or bits.strides[1] != bits.itemsize:
            bits = aligned_empty((rows, max(2, length + length % 2)), np.uint16)
            bits[:, :length] = round_to_bfloat16(a)
            bits[:, length:] = 0
    return unrounded, bits, Strides(PANEL_COLUMNS * bits.strides[0], bits.strides[0], WORD)


def _choose_blocks(rows: int, words: Words) -> Blocks:
    """Cut ``out`` so that a block of A stays in L2 and there is work for all threads."""
    panels, pairs, _ = words.shape
    block = min(WORDS_PER_ROW_BLOCK // pairs, MOST_ROWS_PER_BLOCK) // TILE_ROWS * TILE_ROWS
    block = max(block, TILE_ROWS)
    row_blocks = max(1, -(-rows // block))
    column_blocks = min(max(1, panels), -(-LEAST_TASKS // row_blocks))
    return Blocks(block, max(1, -(-panels // column_blocks)))


@jit(parallel=True)
def _multiply(
    unrounded: Float32,
    left: Bits,
    strides: Strides,
    right: Words,
    row: Float32,
    accumulate: bool,
    out: Float32,
    blocks: Blocks,
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
        if unrounded.size > 0:
            for i in range(first_row, last_row):
                round_numbers(unrounded[i], left[i])
        first_panel = column_block * blocks.panels
        for panel in range(first_panel, min(first_panel + blocks.panels, right.shape[0])):
            _multiply_panel(
                left, strides, right[panel], panel, row, accumulate, out, first_row, last_row
            )


@jit()
def _multiply_panel(
    left: Bits,
    strides: Strides,
    right: Words,
    panel: int,
    row: Float32,
    accumulate: bool,
    out: Float32,
    first_row: int,
    last_row: int,
) -> None:
    """Write rows ``first_row`` to ``last_row`` of the columns that ``right`` (pairs, 32) gives."""
    pairs = right.shape[0]
    column = panel * PANEL_COLUMNS
    width = min(PANEL_COLUMNS, out.shape[1] - column)
    edge = np.zeros((TILE_ROWS, PANEL_COLUMNS), np.float32)  # stands in where out ends in a tile
    for first_pair in range(0, pairs, PAIRS_PER_BLOCK):
        from_out = accumulate or first_pair > 0
        right_block = (
            address_of(right) + first_pair * PANEL_COLUMNS * WORD,
            min(PAIRS_PER_BLOCK, pairs - first_pair),
        )
        for i in range(first_row, last_row, TILE_ROWS):
            height = min(TILE_ROWS, last_row - i)
            left_address = (
                address_of(left)
                + i // PANEL_COLUMNS * strides.panel
                + i % PANEL_COLUMNS * strides.row
                + first_pair * strides.pair
            )
            left_block = left_address, strides.row, strides.pair, height
            if height == TILE_ROWS and width == PANEL_COLUMNS:
                target = address_of(out) + i * out.strides[0] + column * WORD, out.strides[0]
                start = target if from_out else (address_of(row) + column * WORD, 0)
                multiply_tile(left_block, right_block, start, target)
            else:
                target = address_of(edge), edge.strides[0]
                for r in range(height):
                    for c in range(width):
                        old = out[i + r, column + c] if from_out else row[column + c]
                        edge[r, c] = old
                multiply_tile(left_block, right_block, target, target)
                for r in range(height):
                    for c in range(width):
                        out[i + r, column + c] = edge[r, c]
