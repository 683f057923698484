"""The innermost step of every float32 matrix product: tiles of the result, held in registers.

    out (m, L) = start (m, L) + a (m, K) b (K, L)

L columns fill V vector registers, so a tile of R rows is V R accumulators that stay in registers
while the loop over K runs. Each turn of the loop loads one row of b and R numbers of a, each of
them broadcast over a register, and makes V R fused multiply-adds. With AVX-512 these are 24 for ten
loads: the adders never wait for memory. NumPy's BLAS does the same in assembly; here LLVM's vector
types do it on any processor. One tile after another reads the same b, which stays in the cache. The
last tile may have fewer rows, down to one: there is code for each number of them.

numba compiles no vector types, so tiles are built from LLVM's instructions: see ``emitters``. The
Python body of ``multiply_tiles`` says what they compute, and runs where compilation is switched
off.
Source: Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication", section 5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import overload

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.emitters import (
    FLOAT,
    INT64,
    WORD,
    broadcast,
    call_apart,
    call_llvm,
    cgutils,
    emitted,
    load,
    offset,
    store,
    unpack,
)
from electra_ref.backends.cpu.processor import has_feature
from electra_ref.compilation import jit

# With AVX-512 there are 32 registers of 16 floats, without it 16 of at most 8.
LANES, ROWS, VECTORS = (16, 6, 4) if has_feature("avx512f") else (8, 6, 2)
COLUMNS = LANES * VECTORS
CACHE_LINE = 16  # float32
VECTOR = ir.VectorType(FLOAT, LANES)


@jit()
def aligned_empty(count: int, depth: int, width: int) -> Float32:
    """Return room for (``count``, ``depth``, ``width``) that begins at a cache line."""
    size = count * depth * width
    room = np.empty(size + CACHE_LINE, np.float32)
    first = -(room.ctypes.data // WORD) % CACHE_LINE
    return room[first : first + size].reshape((count, depth, width))


def multiply_tiles(a: Float32, b: Float32, start: Float32, out: Float32) -> None:
    """Write ``start`` (m, L) + ``a`` (m, K) ``b`` (K, L) to ``out`` (m, L); K is at least 1.

    Rows of ``b``, ``start`` and ``out`` are contiguous; ``start`` may be ``out``. It is fast if
    ``b`` begins at a cache line: see ``aligned_empty``.
    """
    out[...] = start + a @ b


@overload(multiply_tiles)
def _compiled_multiply_tiles(_a: Any, _b: Any, _start: Any, _out: Any) -> Any:
    def call(_a: Any, _b: Any, _start: Any, _out: Any) -> None:
        _multiply_tiles(_a, _b, _start, _out)

    return call


@emitted
def _multiply_tiles(_typing: Any, a: Any, b: Any, start: Any, out: Any) -> Any:
    return numba.types.void(a, b, start, out), caller("multiply_tiles", _build_multiply_tiles)


class Matrix:
    """A two-dimensional array as LLVM sees it: address, strides in bytes, shape."""

    def __init__(self, builder: ir.IRBuilder, numbers: list[ir.Value]) -> None:
        self._builder = builder
        self._data, self._row, self._column, self.rows, self.columns = numbers

    def load(self, row: ir.Value, column: ir.Value) -> ir.Value:
        """Return the number at a place."""
        place = offset(self._builder, self._address(row), column, self._column)
        return load(self._builder, FLOAT, place)

    def load_vectors(self, row: ir.Value) -> list[ir.Value]:
        """Return the first ``COLUMNS`` numbers of a row."""
        return [load(self._builder, VECTOR, place) for place in self._vectors(row)]

    def store_vectors(self, row: ir.Value, values: list[ir.Value]) -> None:
        """Write the first ``COLUMNS`` numbers of a row."""
        for value, place in zip(values, self._vectors(row), strict=True):
            store(self._builder, value, place)

    def place(self, row: ir.Value, column: ir.Value) -> ir.Value:
        """Return the address of a number of a row that is contiguous."""
        return offset(self._builder, self._address(row), column, INT64(WORD))

    def _vectors(self, row: ir.Value) -> list[ir.Value]:
        first, size = self._address(row), INT64(LANES * WORD)
        return [offset(self._builder, first, INT64(j), size) for j in range(VECTORS)]

    def _address(self, row: ir.Value) -> ir.Value:
        return offset(self._builder, self._data, row, self._row)


def caller(name: str, build: Callable[[ir.IRBuilder, list[Matrix]], None]) -> Any:
    """Return what emits a call of the function ``name``, whose body ``build`` writes."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        numbers: list[ir.Value] = []
        for kind, value in zip(signature.args, arguments, strict=True):
            array = context.make_array(kind)(context, builder, value)
            numbers.append(builder.ptrtoint(array.data, INT64))
            numbers += [*unpack(builder, array.strides), *unpack(builder, array.shape)]

        def body(builder: ir.IRBuilder, numbers: list[ir.Value]) -> None:
            starts = range(0, len(numbers), 5)
            build(builder, [Matrix(builder, numbers[n : n + 5]) for n in starts])

        call_apart(builder, name, numbers, body)
        return context.get_dummy_value()

    return codegen


def _build_multiply_tiles(builder: ir.IRBuilder, arrays: list[Matrix]) -> None:
    """Multiply tile after tile, then the rows that are left."""
    rows = arrays[3].rows
    left = builder.srem(rows, INT64(ROWS))
    whole = builder.sub(rows, left)
    with cgutils.for_range_slice(builder, INT64(0), whole, INT64(ROWS)) as (first, _):
        _multiply_tile(builder, arrays, first, ROWS)
    for count in range(1, ROWS):
        with builder.if_then(builder.icmp_signed("==", left, INT64(count))):
            _multiply_tile(builder, arrays, whole, count)


def _multiply_tile(
    builder: ir.IRBuilder, arrays: list[Matrix], first: ir.Value, count: int
) -> None:
    """For ``count`` rows from ``first`` on, load ``start``, loop over K, store to ``out``."""
    a, b, start, out = arrays
    rows = [builder.add(first, INT64(i)) for i in range(count)]
    accumulators = [variables(builder, start.load_vectors(row)) for row in rows]
    with cgutils.for_range(builder, a.columns) as loop:
        factors = b.load_vectors(loop.index)
        for row, slots in zip(rows, accumulators, strict=True):
            number = broadcast(builder, a.load(row, loop.index), LANES)
            for slot, factor in zip(slots, factors, strict=True):
                total = _multiply_add(builder, number, factor, builder.load(slot))
                builder.store(total, slot)
    for row, slots in zip(rows, accumulators, strict=True):
        out.store_vectors(row, [builder.load(slot) for slot in slots])


def variables(builder: ir.IRBuilder, values: list[ir.Value]) -> list[ir.Value]:
    """Return stack slots that hold ``values``; LLVM turns them into registers."""
    return [cgutils.alloca_once_value(builder, value) for value in values]


def _multiply_add(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """Emit x y + z, rounded once where the processor can."""
    return call_llvm(builder, f"llvm.fmuladd.v{LANES}f32", VECTOR, [x, y, z])
