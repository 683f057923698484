"""Rounding to bfloat16 by the register: two rows of a matrix, 32 columns at a time.

    one row      rounded to 32 bfloat16, as the left operand of a product reads them
    both rows    interleaved to 32 pairs, as panels hold them (packing.py)
    their sum    added to 32 float32, still unrounded

Memory traffic: each float32 is read once, whichever of the three are wanted.

Columns beyond the matrix are masked out: they are never read and count as zero. See
``instructions`` for how numbers are rounded.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from electra_ref.backends.cpu.bfloat16 import instructions
from electra_ref.backends.cpu.bfloat16.tile import (
    LANES,
    PAIRS,
    PANEL_COLUMNS,
    SUMS,
    VECTOR_BYTES,
    VECTORS,
)
from electra_ref.backends.cpu.emitters import (
    INT32,
    INT64,
    WORD,
    broadcast,
    call_llvm,
    emitted,
    load,
    offset,
    store,
    unpack,
)

LANE_NUMBERS = ir.Constant(PAIRS, list(range(LANES)))
EVEN = 2  # where bfloat16 may begin


@emitted
def round_two_rows(_typing: Any, source: Any, rows: Any, pairs: Any, sums: Any) -> Any:
    """Round 32 columns of two rows of float32.

    ``source`` (address, row stride, columns of the first row, columns of the second): as many
    columns are read, from none to 32; the others are zero.
    ``rows`` (address, row stride): where the 32 bfloat16 of each row are written.
    ``pairs`` address where the 32 pairs are written, 0 for nowhere.
    ``sums`` address of the 32 float32 that both rows are added to, 0 for none.
    """

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> ir.Value:
        (address, stride, *columns), (row, row_stride) = (unpack(builder, arg) for arg in args[:2])
        pairs, sums = args[2:]
        numbers = [
            load_columns(builder, address, columns[0]),
            load_columns(builder, builder.add(address, stride), columns[1]),
        ]
        rounded = [instructions.round_vectors(builder, *vectors) for vectors in numbers]
        store(builder, rounded[0], row, EVEN)
        store(builder, rounded[1], builder.add(row, row_stride), EVEN)
        with builder.if_then(is_not_zero(builder, pairs)):
            for vector, words in enumerate(interleave(builder, *rounded)):
                store(builder, words, vector_address(builder, pairs, vector), EVEN)
        with builder.if_then(is_not_zero(builder, sums)):
            for vector, (first, second) in enumerate(zip(*numbers, strict=True)):
                place = vector_address(builder, sums, vector)
                total = builder.fadd(load(builder, SUMS, place), builder.fadd(first, second))
                store(builder, total, place, EVEN)
        return context.get_dummy_value()

    return types.void(source, rows, pairs, sums), generate


def load_columns(builder: ir.IRBuilder, address: ir.Value, columns: ir.Value) -> list[ir.Value]:
    """Return 32 float32 as two vectors: those of the first ``columns``, then zeros."""
    count = broadcast(builder, builder.trunc(columns, INT32), LANES)
    vectors = []
    for vector in range(VECTORS):
        lanes = builder.add(LANE_NUMBERS, ir.Constant(PAIRS, [vector * LANES] * LANES))
        pointer = builder.inttoptr(vector_address(builder, address, vector), SUMS.as_pointer())
        arguments = [
            pointer,
            INT32(WORD),
            builder.icmp_signed("<", lanes, count),
            ir.Constant(SUMS, [0.0] * LANES),
        ]
        vectors.append(call_llvm(builder, "llvm.masked.load.v16f32.p0", SUMS, arguments))
    return vectors


def interleave(builder: ir.IRBuilder, first: ir.Value, second: ir.Value) -> list[ir.Value]:
    """Return the pairs of two rows of 32 bfloat16, as two vectors of 16 pairs."""
    mask = [row + column for column in range(PANEL_COLUMNS) for row in (0, PANEL_COLUMNS)]
    masks = mask[:PANEL_COLUMNS], mask[PANEL_COLUMNS:]
    kind = ir.VectorType(INT32, PANEL_COLUMNS)
    return [builder.shuffle_vector(first, second, ir.Constant(kind, half)) for half in masks]


def vector_address(builder: ir.IRBuilder, address: ir.Value, vector: int) -> ir.Value:
    """Return the address of one of the vectors from ``address`` on."""
    return offset(builder, address, INT64(vector), VECTOR_BYTES)


def is_not_zero(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Return whether there is an address."""
    return builder.icmp_signed("!=", address, INT64(0))
