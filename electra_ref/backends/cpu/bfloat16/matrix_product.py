"""Matrix products of bfloat16 with float32 sums, for processors with AVX512_BF16.

    out = start + A B      A (N, K), B (K, M) rounded to bfloat16; start, out (N, M) float32

B is packed into panels of 32 columns (packing.py). A is read by strips of 8 rows that are rounded
just before they are multiplied; if A is a transposed view, it is packed too and read from there.
The loops around the register tile (tile.py) keep each operand in the cache that is fast enough:

    for each block of columns x block of rows of out       a task; tasks run on all threads
        for each block of 512 pairs of neighbours along K  512 KB of B, which stay in L2
            for each 8 rows                                16 KB of A, which stay in L1
                for each panel of 32 columns
                    tile (8, 32) of out = (start, or out after the first block) + A B

The strips may be kept, packed into panels of A along N (``multiply_and_pack``). They are what a
product takes that has Aᵀ on its left or A on its right. So a linear layer y = x W + b and its
gradients round every activation once, and read it in float32 once:

    packed_x = multiply_and_pack(x, W, y, start=b)
    packed_dy = multiply_and_pack(dy, W.T, dx, start=dx', column_sums=db)
    multiply(packed_x, packed_dy, dW, start=dW)

Memory traffic: A is read once a block of columns, packed B once a block of rows, out is written
once for 512 pairs; packing reads its matrix and writes half as much.

Each number of out is summed along K in order, by one thread, in float32: the bits depend neither on
the tasks nor on the number of threads. Products are exact, so the error is that of K additions,
at most about K 2**-24 sum |a b|. Denormal operands and sums count as zero, NaN and inf go through.

Source: Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication".
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.arguments import expect_matrix, is_transpose, starting_sums
from electra_ref.backends.cpu.bfloat16.packing import (
    STRIP_ROWS,
    Index,
    Panels,
    Words,
    empty_panels,
    in_panels,
    pack,
    round_strip,
)
from electra_ref.backends.cpu.bfloat16.tile import (
    PANEL_COLUMNS,
    TILE_ROWS,
    address_of,
    multiply_tile,
)
from electra_ref.backends.cpu.emitters import WORD
from electra_ref.compilation import jit

PAIRS_PER_BLOCK = 512
WORDS_PER_COLUMN_BLOCK = 131_072  # of B: 512 KB, half of L2
MOST_ROWS_PER_BLOCK = 128
LEAST_TASKS = 16  # where out is large enough, so that threads end at about the same time


class Left(NamedTuple):
    """A (N, K): its rows, which may be packed on the way, or what they were packed into before."""

    rows: Float32  # (N, K), or (0, 0)
    words: (
        Words  # (ceil(K / 32), ceil(N / 2), 32) to be written, or (ceil(N / 32), ceil(K / 2), 32)
    )
    sums: Float32  # (row blocks, K or more) of the rows of each, to be written; or (row blocks, 0)


class Blocks(NamedTuple):
    """The part of ``out`` that is one task."""

    rows: int  # a multiple of 8
    panels: int


NO_ROWS, NO_WORDS = np.empty((0, 0), np.float32), np.empty((0, 1, PANEL_COLUMNS), np.uint32)


def multiply(
    a: Float32 | Panels, b: Float32 | Panels, out: Float32, *, start: Float32 | None = None
) -> None:
    """Write ``start`` + A B to ``out`` (N, M), stored by rows.

    ``a`` (N, K) and ``b`` (K, M) may be packed: b as it is, of a the transpose. ``start`` is a row
    (M,) or a matrix (N, M), such as ``out`` itself, which is then added to; None is zero.

    Raises ValueError if shapes or types do not fit.
    """
    if not isinstance(a, Panels) and is_transpose(a):
        a = pack(a.T)
    _multiply_any(a, None, b, out, start, None)


def multiply_and_pack(
    a: Float32,
    b: Float32 | Panels,
    out: Float32,
    *,
    start: Float32 | None = None,
    column_sums: Float32 | None = None,
) -> Panels:
    """Do what ``multiply`` does and return ``a`` (N, K) packed.

    The sum of its rows, not rounded to bfloat16, is written to ``column_sums`` (K,) if given.
    """
    packed = empty_panels(*a.shape)
    _multiply_any(a, packed, b, out, start, column_sums)
    return packed


def _multiply_any(
    a: Float32 | Panels,
    packed: Panels | None,
    b: Float32 | Panels,
    out: Float32,
    start: Float32 | None,
    column_sums: Float32 | None,
) -> None:
    right = b if isinstance(b, Panels) else pack(b)
    if len(a.shape) != 2 or (not isinstance(a, Panels) and a.dtype != np.float32):
        raise ValueError(f"expected float32 matrices, got A {a.shape}")
    rows, length = a.shape[::-1] if isinstance(a, Panels) else a.shape
    expect_matrix(out)
    if length != right.shape[0] or out.shape != (rows, right.shape[1]):
        raise ValueError(f"A {(rows, length)}, B {right.shape} and out {out.shape} do not fit")
    first_sums = starting_sums(start, out.shape)
    if length == 0 or out.size == 0:  # nothing to multiply, and numba would compile a kernel for it
        out[...] = first_sums[0]
        _pack_only(a, packed, column_sums)
        return
    blocks = _choose_blocks(rows, right.words)
    width = 0 if column_sums is None else in_panels(length)
    sums = np.zeros((-(-rows // blocks.rows), width), np.float32)
    if isinstance(a, Panels):
        left = Left(NO_ROWS, a.words, sums)
    else:
        left = Left(np.ascontiguousarray(a), NO_WORDS if packed is None else packed.words, sums)
    _multiply(left, right.words, first_sums, out, blocks)
    if column_sums is not None:
        np.sum(sums[:, :length], axis=0, out=column_sums)


def _choose_blocks(rows: int, words: Words) -> Blocks:
    """Cut ``out`` so that a block of B stays in L2 and there is work for all threads."""
    panels, pairs, _ = words.shape
    most_panels = WORDS_PER_COLUMN_BLOCK // (min(pairs, PAIRS_PER_BLOCK) * PANEL_COLUMNS)
    column_blocks = -(-panels // most_panels)
    row_blocks = max(-(-rows // MOST_ROWS_PER_BLOCK), -(-LEAST_TASKS // column_blocks))
    strips = -(-rows // TILE_ROWS)
    return Blocks(-(-strips // row_blocks) * TILE_ROWS, -(-panels // column_blocks))


def _pack_only(a: Float32 | Panels, packed: Panels | None, column_sums: Float32 | None) -> None:
    """Do what a product does to ``a`` on its way."""
    if packed is not None and not isinstance(a, Panels):
        packed.words[...] = pack(a).words
    if column_sums is not None and not isinstance(a, Panels):
        np.sum(a, axis=0, out=column_sums)


@jit(parallel=True)
def _multiply(left: Left, right: Words, start: Float32, out: Float32, blocks: Blocks) -> None:
    """Write all of ``out`` (N, M), block by block."""
    first_sums = start[0]
    row_blocks = -(-out.shape[0] // blocks.rows)
    column_blocks = -(-right.shape[0] // blocks.panels)
    for task in numba.prange(row_blocks * column_blocks):
        # numba counts in uint64, whose minimum with an int64 would be a float64.
        column_block, row_block = divmod(np.intp(task), row_blocks)
        _multiply_block(
            left, right, first_sums, out, blocks, row_block, column_block * blocks.panels
        )


@jit()
def _multiply_block(
    left: Left,
    right: Words,
    start: Float32,
    out: Float32,
    blocks: Blocks,
    row_block: Index,
    first_panel: Index,
) -> None:
    """Write one block of ``out``."""
    pairs = right.shape[1]
    first_row = row_block * blocks.rows
    last_row = min(first_row + blocks.rows, out.shape[0])
    last_panel = min(first_panel + blocks.panels, right.shape[0])
    keeps = first_panel == 0
    kept = left.words if keeps else left.words[:0]
    sums = left.sums[row_block if keeps else 0, : left.sums.shape[1] if keeps else 0]
    strip = np.empty((STRIP_ROWS, in_panels(2 * min(pairs, PAIRS_PER_BLOCK))), np.uint16)
    edge = np.zeros((TILE_ROWS, PANEL_COLUMNS), np.float32)  # for tiles that out does not fill
    for first_pair in range(0, pairs, PAIRS_PER_BLOCK):
        count = min(PAIRS_PER_BLOCK, pairs - first_pair)
        begin = start if first_pair == 0 else out
        for i in range(first_row, last_row, TILE_ROWS):
            if left.rows.shape[0] > 0:
                round_strip(left.rows, (i, 2 * first_pair), in_panels(2 * count), strip, kept, sums)
                left_tile = address_of(strip), strip.strides[0], WORD
            else:
                word = (i // PANEL_COLUMNS * pairs + first_pair) * PANEL_COLUMNS + i % PANEL_COLUMNS
                left_tile = address_of(left.words) + word * WORD, WORD, PANEL_COLUMNS * WORD
            height = min(TILE_ROWS, last_row - i)
            for panel in range(first_panel, last_panel):
                column = panel * PANEL_COLUMNS
                width = min(PANEL_COLUMNS, out.shape[1] - column)
                right_address = (
                    address_of(right) + (panel * pairs + first_pair) * PANEL_COLUMNS * WORD
                )
                if height == TILE_ROWS and width == PANEL_COLUMNS:
                    target = address_of(out) + i * out.strides[0] + column * WORD, out.strides[0]
                    origin = (
                        address_of(begin) + i * begin.strides[0] + column * WORD,
                        begin.strides[0],
                    )
                    multiply_tile(left_tile, (right_address, count), origin, target)
                else:
                    target = address_of(edge), edge.strides[0]
                    for r in range(height):
                        for c in range(width):
                            edge[r, c] = begin[i + r, column + c]
                    multiply_tile(left_tile, (right_address, count), target, target)
                    for r in range(height):
                        for c in range(width):
                            out[i + r, column + c] = edge[r, c]
