"""The matrix products of one attention head in bfloat16: small enough for one thread and its cache.

    out = start + A B      A (n, K), B (K, m) rounded to bfloat16; start, out float32

The matrices of a head are parts of arrays that hold all heads: (T, D), with D often 64. That is too
little work for several threads, and each matrix is read several times. So each is rounded once,
into rows of bits that are padded with zeros to whole panels, and packed from there in the layout
that the product reads:

    rows             A stored by rows: nothing more to do
    pairs of rows    B, or the transpose of A: row 2k and row 2k + 1 interleaved
    transpose        B = matrixᵀ: pairs of neighbours in a row, squares of them turned in registers

Results are written to padded arrays as well, which stay in the cache, so no tile ends at an edge.
See ``packing`` for the layout of panels, ``tile`` for the product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.bfloat16.packing import CACHE_LINE, Bits, Index, Words, in_panels
from electra_ref.backends.cpu.bfloat16.tile import (
    LANES,
    PANEL_COLUMNS,
    TILE_ROWS,
    address_of,
    multiply_tile,
    round_number,
    transpose_square,
)
from electra_ref.backends.cpu.emitters import INT32, WORD, call_llvm, emitted
from electra_ref.compilation import jit

Place = tuple[Index, Index]  # row, column


@emitted
def prefetch(_typing: Any, address: Any) -> Any:
    """Ask for the cache line at ``address``: any will do, since the program reads nothing."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> ir.Value:
        place = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        read, into_second_level, data = (INT32(number) for number in (0, 2, 1))
        arguments = [place, read, into_second_level, data]
        call_llvm(builder, "llvm.prefetch.p0", ir.VoidType(), arguments)
        return context.get_dummy_value()

    return types.void(address), generate


@jit()
def in_tiles(count: Index) -> Index:
    """Return ``count`` rows rounded up to whole tiles."""
    return -(-count // TILE_ROWS) * TILE_ROWS


@jit()
def room_for_panels(length: Index, columns: Index) -> Words:
    """Return room for a packed matrix (K, M), beginning at a cache line: see ``packing.Panels``."""
    panels, pairs = in_panels(columns) // PANEL_COLUMNS, (length + 1) // 2
    count = panels * pairs * PANEL_COLUMNS
    raw = np.empty(count + CACHE_LINE // WORD, np.uint32)
    start = -address_of(raw) % CACHE_LINE // WORD
    return raw[start : start + count].reshape((panels, pairs, PANEL_COLUMNS))


@jit()
def round_rows(source: Float32, corner: Place, factors: Float32, width: int, bits: Bits) -> None:
    """Write rows of ``source`` (N, C), each times its factor and rounded, to ``bits``.

    They begin at ``corner``; there are as many as ``factors``, of ``width`` columns. The rest of
    ``bits`` becomes zero.
    """
    row, column = corner
    for t in range(factors.size):
        numbers, rounded = source[row + t, column : column + width], bits[t]
        for d in range(width):
            rounded[d] = round_number(numbers[d] * factors[t])
        rounded[width:] = 0
    bits[factors.size :] = 0


@jit()
def write_rows(sums: Float32, factors: Float32, width: int, target: Float32, corner: Place) -> None:
    """Write rows of ``sums``, each times its factor, to ``target`` (N, C) from ``corner`` on."""
    row, column = corner
    for t in range(factors.size):
        numbers, out = sums[t], target[row + t, column : column + width]
        for d in range(width):
            out[d] = numbers[d] * factors[t]


@jit()
def fetch_row(matrix: Float32, corner: Place, width: int) -> None:
    """Ask that ``width`` numbers of ``matrix`` (N, C), from ``corner`` on, come to the cache."""
    row, column = corner
    first = address_of(matrix) + row * matrix.strides[0] + column * WORD
    for line in range(first, first + width * WORD, CACHE_LINE):
        prefetch(line)


@jit()
def pack_pairs_of_rows(bits: Bits, panels: Words) -> None:
    """Pack the first rows of ``bits`` (K, M), as many as ``panels`` have pairs for."""
    for panel in range(panels.shape[0]):
        columns = slice(panel * PANEL_COLUMNS, (panel + 1) * PANEL_COLUMNS)
        for pair in range(panels.shape[1]):
            upper, lower = bits[2 * pair, columns], bits[2 * pair + 1, columns]
            words = panels[panel, pair]
            for lane in range(upper.size):
                words[lane] = np.uint32(upper[lane]) | np.uint32(lower[lane]) << 16


@jit()
def pack_transpose(bits: Bits, panels: Words) -> None:
    """Pack the transpose of ``bits`` (M, K), K a multiple of 32."""
    pairs = bits.view(np.uint32)
    for panel in range(panels.shape[0]):
        for pair in range(0, panels.shape[1], LANES):
            for lane in range(0, PANEL_COLUMNS, LANES):
                place = panel * PANEL_COLUMNS + lane, pair
                transpose_square(pairs, place, panels[panel], (pair, lane))


@jit()
def multiply_head(
    left: Words, is_transpose: bool, right: Words, row: Float32, accumulate: bool, out: Float32
) -> None:
    """Write ``row`` + A B to ``out``, or add A B to it: whole tiles, whole panels.

    ``left`` (n, K / 2) holds pairs of A along K; with ``is_transpose`` it is (K / 2, n and more).
    ``right`` holds B in panels, whose number of pairs is what is summed; ``row`` (M,). ``out`` has
    at least as many rows as the tiles of A; those beyond A's are undefined.
    """
    row_stride, pair_stride = left.strides
    rows, pairs = left.shape[0], right.shape[1]
    if is_transpose:
        row_stride, pair_stride, rows = pair_stride, row_stride, out.shape[0]
    for panel in range(right.shape[0]):
        packed = address_of(right) + panel * right.strides[0], pairs
        column = panel * PANEL_COLUMNS * WORD
        for i in range(0, rows, TILE_ROWS):
            block = address_of(left) + i * row_stride, row_stride, pair_stride, rows - i
            target = address_of(out) + i * out.strides[0] + column, out.strides[0]
            start = target if accumulate else (address_of(row) + column, 0)
            multiply_tile(block, packed, start, target)
