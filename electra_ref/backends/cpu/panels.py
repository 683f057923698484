"""Copies of a matrix into panels as wide as a register tile, a vector register at a time.

    copy_panel         panel (K, L) = b, and the sums of its rows
    copy_columns       panel (K, N) = b (K, n), then columns of 0
    transpose_panel    panel (K, N) = bT, b (n, K), then columns of 0

A matrix is turned in registers, ``LANES`` rows by ``LANES`` columns: number by number, a copy would
take as long as the tiles that read it. The Python bodies say what is computed, and run where
compilation is switched off; the rest is LLVM's instructions, as in ``register_tile``.
"""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.extending import overload

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.emitters import (
    INT32,
    INT64,
    WORD,
    broadcast,
    call_llvm,
    cgutils,
    emitted,
    load,
    store,
)
from electra_ref.backends.cpu.register_tile import LANES, VECTOR, Matrix, caller, variables

LANE_NUMBERS = ir.VectorType(INT32, LANES)
ZEROS = ir.Constant(VECTOR, [0.0] * LANES)


def copy_panel(b: Float32, panel: Float32, sums: Float32) -> None:
    """Copy ``b`` (K, L) to ``panel`` and add its rows to ``sums`` (1, L); rows are contiguous."""
    panel[...] = b
    sums += b.sum(axis=0)


def copy_columns(source: Float32, panel: Float32) -> None:
    """Copy ``source`` (K, n) to the first n columns of ``panel`` (K, N); the others become 0.

    Rows of both are contiguous, N is a multiple of ``LANES``.
    """
    panel[:, : source.shape[1]] = source
    panel[:, source.shape[1] :] = 0.0


def transpose_panel(source: Float32, panel: Float32) -> None:
    """Copy the rows of ``source`` (n, K) to the columns of ``panel`` (K, N), the others become 0.

    Rows of both are contiguous, N is a multiple of ``LANES``.
    """
    panel[:, : source.shape[0]] = source.T
    panel[:, source.shape[0] :] = 0.0


@overload(copy_panel)
def _compiled_copy_panel(_b: Any, _panel: Any, _sums: Any) -> Any:
    def call(_b: Any, _panel: Any, _sums: Any) -> None:
        _copy_panel(_b, _panel, _sums)

    return call


@overload(copy_columns)
def _compiled_copy_columns(_source: Any, _panel: Any) -> Any:
    def call(_source: Any, _panel: Any) -> None:
        _copy_columns(_source, _panel)

    return call


@overload(transpose_panel)
def _compiled_transpose_panel(_source: Any, _panel: Any) -> Any:
    def call(_source: Any, _panel: Any) -> None:
        _transpose_panel(_source, _panel)

    return call


@emitted
def _copy_panel(_typing: Any, b: Any, panel: Any, sums: Any) -> Any:
    return numba.types.void(b, panel, sums), caller("copy_panel", _build_copy_panel)


@emitted
def _copy_columns(_typing: Any, source: Any, panel: Any) -> Any:
    return numba.types.void(source, panel), caller("copy_columns", _build_copy_columns)


@emitted
def _transpose_panel(_typing: Any, source: Any, panel: Any) -> Any:
    return numba.types.void(source, panel), caller("transpose_panel", _build_transpose_panel)


def _build_copy_panel(builder: ir.IRBuilder, arrays: list[Matrix]) -> None:
    """Copy row by row, and add each row to the sums, which stay in registers."""
    b, panel, sums = arrays
    totals = variables(builder, sums.load_vectors(INT64(0)))
    with cgutils.for_range(builder, b.rows) as loop:
        vectors = b.load_vectors(loop.index)
        panel.store_vectors(loop.index, vectors)
        for slot, vector in zip(totals, vectors, strict=True):
            builder.store(builder.fadd(builder.load(slot), vector), slot)
    sums.store_vectors(INT64(0), [builder.load(slot) for slot in totals])


def _build_copy_columns(builder: ir.IRBuilder, arrays: list[Matrix]) -> None:
    """Copy ``LANES`` columns at a time; those beyond the last one are never read."""
    source, panel = arrays
    with cgutils.for_range_slice(builder, INT64(0), panel.columns, INT64(LANES)) as (first, _):
        left = builder.sub(source.columns, first)
        with cgutils.for_range(builder, source.rows) as loop:
            vector = _load_some(builder, source.place(loop.index, first), left)
            store(builder, vector, panel.place(loop.index, first))


def _build_transpose_panel(builder: ir.IRBuilder, arrays: list[Matrix]) -> None:
    """Turn ``LANES`` rows by ``LANES`` columns; what is beyond the last row is never read."""
    source, panel = arrays
    size = INT64(LANES)
    left = builder.srem(source.columns, size)
    whole = builder.sub(source.columns, left)
    with cgutils.for_range_slice(builder, INT64(0), panel.columns, size) as (first, _):
        numbers = [builder.add(first, INT64(i)) for i in range(LANES)]
        has_rows = builder.icmp_signed("<", first, source.rows)
        with builder.if_else(has_rows) as (then, otherwise):
            with then:
                with cgutils.for_range_slice(builder, INT64(0), whole, size) as (column, _):
                    rows = [_load_row(builder, source, row, column) for row in numbers]
                    for i, vector in enumerate(_transposed(builder, rows)):
                        place = panel.place(builder.add(column, INT64(i)), first)
                        store(builder, vector, place)
                with builder.if_then(builder.icmp_signed(">", left, INT64(0))):
                    rows = [_load_row(builder, source, row, whole, left) for row in numbers]
                    for i, vector in enumerate(_transposed(builder, rows)):
                        with builder.if_then(builder.icmp_signed(">", left, INT64(i))):
                            place = panel.place(builder.add(whole, INT64(i)), first)
                            store(builder, vector, place)
            with otherwise, cgutils.for_range(builder, panel.rows) as loop:
                store(builder, ZEROS, panel.place(loop.index, first))


def _load_row(
    builder: ir.IRBuilder,
    source: Matrix,
    row: ir.Value,
    column: ir.Value,
    count: ir.Value | None = None,
) -> ir.Value:
    """Return a vector of a row, or of ``count`` numbers of it; zeros beyond the last row."""
    last = builder.sub(source.rows, INT64(1))
    is_there = builder.icmp_signed("<=", row, last)
    place = source.place(builder.select(is_there, row, last), column)
    vector = load(builder, VECTOR, place) if count is None else _load_some(builder, place, count)
    return builder.select(is_there, vector, ZEROS)


def _load_some(builder: ir.IRBuilder, address: ir.Value, count: ir.Value) -> ir.Value:
    """Return a vector of the ``count`` numbers at ``address``, then zeros; no more are read."""
    lanes = ir.Constant(LANE_NUMBERS, list(range(LANES)))
    counts = broadcast(builder, builder.trunc(count, INT32), LANES)
    is_there = builder.icmp_signed("<", lanes, counts)
    arguments = [builder.inttoptr(address, VECTOR.as_pointer()), INT32(WORD), is_there, ZEROS]
    return call_llvm(builder, f"llvm.masked.load.v{LANES}f32.p0", VECTOR, arguments)


def _transposed(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """Return the columns of a square matrix in registers.

    Rows whose numbers differ in one bit exchange the numbers whose places differ in that bit.
    """
    distance = LANES // 2
    while distance:
        low = [j + LANES - distance if j & distance else j for j in range(LANES)]
        high = [j + LANES if j & distance else j + distance for j in range(LANES)]
        for i in range(LANES):
            if not i & distance:
                pair = rows[i], rows[i + distance]
                rows[i], rows[i + distance] = (
                    builder.shuffle_vector(*pair, ir.Constant(LANE_NUMBERS, chosen))
                    for chosen in (low, high)
                )
        distance //= 2
    return rows
