"""The innermost step of every float32 matrix product: one tile of the result, held in registers.

    out (R, L) = start (R, L) + a (R, K) b (K, L)

L columns fill two vector registers, so a tile is 2 R accumulators that stay in registers while
the loop over K runs. Each turn of the loop loads one row of b and R numbers of a, each of them
broadcast over a register, and makes 2 R fused multiply-adds: the adders never wait for memory.
NumPy's BLAS does the same in assembly; here LLVM's vector types do it on any processor.

numba compiles no vector types, so the tile is built from LLVM instructions by an ``intrinsic``.
``multiply_tile`` itself is what they mean: its body runs where compilation is switched off.
Source: Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication", section 5.
"""

from __future__ import annotations

import os
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic, overload

from electra_ref.arrays import Float32

cgutils: Any = _cgutils  # numba types it in part only
FLOAT, INDEX = ir.FloatType(), ir.IntType(64)
VECTORS = 2  # registers a row of the tile fills


def _has_avx512() -> bool:
    """Return whether the processor that numba compiles for has 32 registers of 16 floats."""
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is not None:
        return "+avx512f" in features.split(",")
    return bool(llvmlite.binding.get_host_cpu_features().get("avx512f"))


LANES, ROWS = (16, 8) if _has_avx512() else (8, 6)  # AVX2 has 16 registers of 8 floats
COLUMNS = LANES * VECTORS
VECTOR = ir.VectorType(FLOAT, LANES)


def multiply_tile(a: Float32, b: Float32, start: Float32, out: Float32) -> None:
    """Write ``start`` (R, L) + ``a`` (R, K) ``b`` (K, L) to ``out`` (R, L); K is at least 1.

    Rows of ``b``, ``start`` and ``out`` are contiguous; ``start`` may be ``out``.
    """
    out[...] = start + a @ b


@overload(multiply_tile)
def _compiled_multiply_tile(_a: Any, _b: Any, _start: Any, _out: Any) -> Any:
    def call(_a: Any, _b: Any, _start: Any, _out: Any) -> None:
        _multiply_tile(_a, _b, _start, _out)  # type: ignore[call-arg]

    return call


@intrinsic
def _multiply_tile(_typing: Any, a: Any, b: Any, start: Any, out: Any) -> Any:
    return numba.types.void(a, b, start, out), _build_tile


class _Matrix:
    """A two-dimensional array of numba's, seen from LLVM: a pointer and two strides in bytes."""

    def __init__(self, context: Any, builder: Any, array_type: Any, value: Any) -> None:
        self._builder = builder
        array = context.make_array(array_type)(context, builder, value)
        self._data = builder.bitcast(array.data, ir.IntType(8).as_pointer())
        self._strides = _unpack(builder, array.strides)
        self.columns = _unpack(builder, array.shape)[1]

    def pointer(self, row: Any, column: Any, kind: Any) -> Any:
        """Return the address of an element, as a pointer to ``kind``."""
        build = self._builder
        offset = build.add(build.mul(row, self._strides[0]), build.mul(column, self._strides[1]))
        return build.bitcast(build.gep(self._data, [offset]), kind.as_pointer())

    def load_vectors(self, row: Any) -> list[Any]:
        """Return the first ``COLUMNS`` numbers of a row."""
        return [self._builder.load(p, align=4) for p in self._vector_pointers(row)]

    def store_vectors(self, row: Any, values: list[Any]) -> None:
        """Write the first ``COLUMNS`` numbers of a row."""
        for value, p in zip(values, self._vector_pointers(row), strict=True):
            self._builder.store(value, p, align=4)

    def _vector_pointers(self, row: Any) -> list[Any]:
        return [self.pointer(row, _index(j * LANES), VECTOR) for j in range(VECTORS)]


def _build_tile(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Emit the tile: load ``start``, loop over K, store to ``out``."""
    a, b, start, out = (
        _Matrix(context, builder, kind, value)
        for kind, value in zip(signature.args, arguments, strict=True)
    )
    accumulators = [
        [cgutils.alloca_once_value(builder, vector) for vector in start.load_vectors(_index(i))]
        for i in range(ROWS)
    ]  # stack slots, which LLVM turns into registers
    with cgutils.for_range(builder, a.columns) as loop:
        b_row = b.load_vectors(loop.index)
        for i in range(ROWS):
            factor = _broadcast(builder, builder.load(a.pointer(_index(i), loop.index, FLOAT)))
            for accumulator, vector in zip(accumulators[i], b_row, strict=True):
                value = _multiply_add(builder, factor, vector, builder.load(accumulator))
                builder.store(value, accumulator)
    for i in range(ROWS):
        out.store_vectors(_index(i), [builder.load(slot) for slot in accumulators[i]])
    return context.get_dummy_value()


def _unpack(builder: Any, values: Any) -> list[Any]:
    return [builder.extract_value(values, i) for i in range(len(values.type))]


def _index(value: int) -> Any:
    return ir.Constant(INDEX, value)


def _broadcast(builder: Any, scalar: Any) -> Any:
    nothing = ir.Constant(VECTOR, ir.Undefined)
    first = builder.insert_element(nothing, scalar, ir.Constant(ir.IntType(32), 0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, nothing, lanes)


def _multiply_add(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """Emit x y + z, rounded once where the processor can."""
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(VECTOR, [VECTOR] * 3), f"llvm.fmuladd.v{LANES}f32"
    )
    return builder.call(function, [x, y, z])
