"""The innermost piece of the bfloat16 product: a tile of 8 x 32 results that stays in registers.

Two neighbours along K of one operand form a pair: two bfloat16 in one 32-bit word. One
``vdpbf16ps`` multiplies 16 pairs with 16 pairs and adds both products of each to 16 float32:

                        right: 32 columns of pair k, as two vectors of 16 pairs
                        +----------------------+----------------------+
                        |          r0          |          r1          |   2 loads
                        +----------------------+----------------------+
    left: pair k of  0  |  sum[0][0] += l0 . r0|  sum[0][1] += l0 . r1|   8 broadcasts
    8 rows, each     :  |          ...         |          ...         |   16 products
    broadcast        7  |  sum[7][0] += l7 . r0|  sum[7][1] += l7 . r1|   512 multiply-adds
                        +----------------------+----------------------+

Memory traffic: 10 loads for every 16 products, nothing is written before the last pair. The 16
sums, 2 right vectors and the broadcasts fit the 32 registers, and 16 independent sums hide the
instruction's latency. Any strides do for the left operand, so a row-major matrix needs no packing
and a transposed one is a matter of two numbers.

Source: ``instructions`` for the instruction; the loop around the tile follows Goto and van de Geijn
2008, "Anatomy of High-Performance Matrix Multiplication".
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from electra_ref.backends.cpu.bfloat16 import instructions
from electra_ref.backends.cpu.bfloat16.instructions import LANES
from electra_ref.backends.cpu.emitters import (
    FLOAT,
    INT32,
    INT64,
    WORD,
    broadcast,
    call_apart,
    emitted,
    load,
    offset,
    store,
    unpack,
)

TILE_ROWS = 8
VECTORS = 2
PANEL_COLUMNS = VECTORS * LANES
VECTOR_BYTES = INT64(LANES * WORD)  # a word is a float32, or a pair

SUMS, PAIRS = ir.VectorType(FLOAT, LANES), ir.VectorType(INT32, LANES)


@emitted
def round_number(_typing: Any, number: Any) -> Any:
    """Return the bits of the bfloat16 nearest to a float32, ties to even, as uint16.

    NaN stays NaN, inf stays inf, denormals become zero. In a loop, LLVM makes vectors of it.
    """

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> ir.Value:
        return instructions.round_number(builder, args[0])

    return types.uint16(number), generate


@emitted
def widen_number(_typing: Any, number: Any) -> Any:
    """Return the float32 whose bfloat16 bits ``number`` (uint16) holds; a float32 as it is."""

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> ir.Value:
        if args[0].type == FLOAT:
            return args[0]
        bits = builder.shl(builder.zext(args[0], INT32), INT32(16))
        return builder.bitcast(bits, FLOAT)

    return types.float32(number), generate


@emitted
def transpose_square(_typing: Any, source: Any, place: Any, target: Any, target_place: Any) -> Any:
    """Write the transpose of 16 x 16 words of one matrix to 16 x 16 words of another.

    The squares begin at the places (row, column); both matrices are contiguous along rows.
    Blocks of 1, 2, 4 and 8 words across the diagonal change places, in registers.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        def row_addresses(matrix: int) -> list[ir.Value]:
            array = context.make_array(signature.args[matrix])(context, builder, args[matrix])
            row, column = unpack(builder, args[matrix + 1])
            stride, _ = unpack(builder, array.strides)
            start = offset(builder, builder.ptrtoint(array.data, INT64), row, stride)
            start = offset(builder, start, column, INT64(WORD))
            return [offset(builder, start, INT64(i), stride) for i in range(LANES)]

        rows = [load(builder, PAIRS, address) for address in row_addresses(0)]
        for size in (1, 2, 4, 8):
            rows = swap_blocks(builder, rows, size)
        for address, row in zip(row_addresses(2), rows, strict=True):
            store(builder, row, address)
        return context.get_dummy_value()

    return types.void(source, place, target, target_place), generate


def swap_blocks(builder: ir.IRBuilder, rows: list[ir.Value], size: int) -> list[ir.Value]:
    """Exchange the off-diagonal blocks, of ``size`` words, of every square of twice that size."""
    lanes = range(LANES)
    first = [lane if lane & size == 0 else LANES + lane - size for lane in lanes]
    second = [lane + size if lane & size == 0 else LANES + lane for lane in lanes]
    result = list(rows)
    for i in (i for i in lanes if i & size == 0):
        for target, mask in ((i, first), (i + size, second)):
            result[target] = builder.shuffle_vector(
                rows[i], rows[i + size], ir.Constant(PAIRS, mask)
            )
    return result


@emitted
def address_of(_typing: Any, array: Any) -> Any:
    """Return the address of the first number of ``array``, signed as addresses are added up."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, INT64)

    return types.intp(array), generate


@emitted
def multiply_tile(_typing: Any, left: Any, right: Any, start: Any, out: Any) -> Any:
    """Write the 8 x 32 float32 at ``out``: those at ``start`` plus left times right.

    Each argument is a tuple of integers; addresses and strides are in bytes:
    ``left`` (address, row stride, pair stride): 8 rows are read. A fourth integer is the number of
    rows there are; the last one is then read in place of those that are not.
    ``right`` (address, pairs): 32 words a pair, contiguous, beginning at a multiple of 64;
    ``pairs`` is at least 1.
    ``start`` (address, row stride) and ``out`` (address, row stride) may be the same.
    """

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> ir.Value:
        integers = [integer for arg in args for integer in unpack(builder, arg)]
        call_apart(builder, f"multiply_bfloat16_{len(integers)}", integers, build_tile)
        return context.get_dummy_value()

    return types.void(left, right, start, out), generate


def build_tile(builder: ir.IRBuilder, integers: list[ir.Value]) -> None:
    """Write the body of ``multiply_tile``: load ``start``, loop over pairs, store to ``out``."""
    left, row_stride, pair_stride, *rows = integers[:-6]
    right, pairs, start, start_stride, out, out_stride = integers[-6:]
    cells = [(row, vector) for row in range(TILE_ROWS) for vector in range(VECTORS)]
    before = [
        load(builder, SUMS, cell_address(builder, start, start_stride, cell)) for cell in cells
    ]
    offsets = row_offsets(builder, row_stride, *rows)

    entry = builder.block
    loop = builder.append_basic_block("pairs")
    done = builder.append_basic_block("store")
    builder.branch(loop)
    builder.position_at_end(loop)
    # Two addresses that move on, so that the rows of the left operand need none of their own.
    left_pair, right_pair, pairs_left = (builder.phi(INT64) for _ in range(3))
    sums = [builder.phi(SUMS) for _ in cells]
    left_rows = [builder.add(left_pair, row) for row in offsets]
    after = add_products(builder, sums, left_rows, right_pair)
    following = [
        builder.add(left_pair, pair_stride),
        builder.add(right_pair, INT64(PANEL_COLUMNS * WORD)),
        builder.sub(pairs_left, INT64(1)),
    ]
    for variable, first, then in zip(
        [left_pair, right_pair, pairs_left, *sums],
        [left, right, pairs, *before],
        [*following, *after],
        strict=True,
    ):
        variable.add_incoming(first, entry)
        variable.add_incoming(then, loop)
    builder.cbranch(builder.icmp_signed(">", following[-1], INT64(0)), loop, done)

    builder.position_at_end(done)
    for cell, total in zip(cells, after, strict=True):
        store(builder, total, cell_address(builder, out, out_stride, cell))


def add_products(
    builder: ir.IRBuilder, sums: list[ir.Value], left_rows: list[ir.Value], right: ir.Value
) -> list[ir.Value]:
    """Return the 16 ``sums`` plus the products of one pair; arguments are addresses."""
    columns = [
        load(builder, PAIRS, offset(builder, right, INT64(vector), VECTOR_BYTES), 64)
        for vector in range(VECTORS)
    ]
    result = []
    for row, address in enumerate(left_rows):
        word = load(builder, INT32, address, 2)  # rows of bfloat16 may start at any even address
        everywhere = broadcast(builder, word, LANES)
        for vector in range(VECTORS):
            total = sums[row * VECTORS + vector]
            result.append(instructions.add_products(builder, total, everywhere, columns[vector]))
    return result


def row_offsets(
    builder: ir.IRBuilder, row_stride: ir.Value, rows: ir.Value | None = None
) -> list[ir.Value]:
    """Return where the tile's 8 rows begin, those from ``rows`` on where the last one does."""
    numbers: list[ir.Value] = [INT64(row) for row in range(TILE_ROWS)]
    if rows is not None:
        last = builder.sub(rows, INT64(1))
        numbers = [
            builder.select(builder.icmp_signed("<", number, last), number, last)
            for number in numbers
        ]
    return [builder.mul(number, row_stride) for number in numbers]


def cell_address(
    builder: ir.IRBuilder, base: ir.Value, stride: ir.Value, cell: tuple[int, int]
) -> ir.Value:
    """Return the address of vector ``cell[1]`` of row ``cell[0]`` of a tile of float32."""
    row, vector = cell
    start = offset(builder, base, INT64(row), stride)
    return offset(builder, start, INT64(vector), VECTOR_BYTES)
