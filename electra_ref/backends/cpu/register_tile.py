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
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic, overload

from electra_ref.arrays import Float32

cgutils: Any = _cgutils  # numba types it in part only
FLOAT, INDEX, BYTES = ir.FloatType(), ir.IntType(64), ir.IntType(8).as_pointer()
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


def copy_panel(b: Float32, panel: Float32, sums: Float32) -> None:
    """Copy ``b`` (K, L) to ``panel`` and add its rows to ``sums`` (1, L); rows are contiguous."""
    panel[...] = b
    sums += b.sum(axis=0)


@overload(multiply_tile)
def _compiled_multiply_tile(_a: Any, _b: Any, _start: Any, _out: Any) -> Any:
    def call(_a: Any, _b: Any, _start: Any, _out: Any) -> None:
        _multiply_tile(_a, _b, _start, _out)  # type: ignore[call-arg]

    return call


@overload(copy_panel)
def _compiled_copy_panel(_b: Any, _panel: Any, _sums: Any) -> Any:
    def call(_b: Any, _panel: Any, _sums: Any) -> None:
        _copy_panel(_b, _panel, _sums)  # type: ignore[call-arg]

    return call


@intrinsic
def _multiply_tile(_typing: Any, a: Any, b: Any, start: Any, out: Any) -> Any:
    return numba.types.void(a, b, start, out), _caller("multiply_tile", _build_multiply_tile)


@intrinsic
def _copy_panel(_typing: Any, b: Any, panel: Any, sums: Any) -> Any:
    return numba.types.void(b, panel, sums), _caller("copy_panel", _build_copy_panel)


def _caller(name: str, build: Callable[[Any, list[_Matrix]], None]) -> Any:
    """Return what emits a call of the function ``name``.

    The function is emitted with it, if it is not there yet, and never inlined: it is compiled
    once, however many loops call it. ``build`` writes its body.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        passed = []
        for kind, value in zip(signature.args, arguments, strict=True):
            array = context.make_array(kind)(context, builder, value)
            passed += [builder.bitcast(array.data, BYTES), *_unpack(builder, array.strides)]
            passed += _unpack(builder, array.shape)
        kinds = [argument.type for argument in passed]
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), kinds), f"electra_ref_{name}"
        )
        if function.is_declaration:
            function.linkage = "linkonce_odr"
            function.attributes.add("noinline")
            body = ir.IRBuilder(function.append_basic_block())
            build(body, [_Matrix(body, *function.args[n : n + 5]) for n in range(0, len(kinds), 5)])
            body.ret_void()
        builder.call(function, passed)
        return context.get_dummy_value()

    return codegen


class _Matrix:
    """A two-dimensional array as LLVM sees it: address, strides in bytes, shape."""

    def __init__(
        self, builder: Any, data: Any, row: Any, column: Any, rows: Any, columns: Any
    ) -> None:
        self._builder, self._data, self._row, self._column = builder, data, row, column
        self.rows, self.columns = rows, columns

    def load(self, row: Any, column: Any) -> Any:
        """Return the number at a place."""
        return self._builder.load(self._address(row, column, FLOAT))

    def load_vectors(self, row: Any) -> list[Any]:
        """Return the first ``COLUMNS`` numbers of a row."""
        return [self._builder.load(place, align=4) for place in self._vectors(row)]

    def store_vectors(self, row: Any, values: list[Any]) -> None:
        """Write the first ``COLUMNS`` numbers of a row."""
        for value, place in zip(values, self._vectors(row), strict=True):
            self._builder.store(value, place, align=4)

    def _vectors(self, row: Any) -> list[Any]:
        first = self._address(row, INDEX(0), VECTOR)
        return [self._builder.gep(first, [INDEX(j)]) for j in range(VECTORS)]

    def _address(self, row: Any, column: Any, kind: Any) -> Any:
        build = self._builder
        offset = build.add(build.mul(row, self._row), build.mul(column, self._column))
        return build.bitcast(build.gep(self._data, [offset]), kind.as_pointer())


def _build_multiply_tile(builder: Any, arrays: list[_Matrix]) -> None:
    """Load ``start``, loop over K, store to ``out``."""
    a, b, start, out = arrays
    accumulators = [_variables(builder, start.load_vectors(INDEX(i))) for i in range(ROWS)]
    with cgutils.for_range(builder, a.columns) as loop:
        factors = b.load_vectors(loop.index)
        for i in range(ROWS):
            number = _broadcast(builder, a.load(INDEX(i), loop.index))
            for slot, factor in zip(accumulators[i], factors, strict=True):
                total = _multiply_add(builder, number, factor, builder.load(slot))
                builder.store(total, slot)
    for i in range(ROWS):
        out.store_vectors(INDEX(i), [builder.load(slot) for slot in accumulators[i]])


def _build_copy_panel(builder: Any, arrays: list[_Matrix]) -> None:
    """Copy row by row, and add each row to the sums, which stay in registers."""
    b, panel, sums = arrays
    totals = _variables(builder, sums.load_vectors(INDEX(0)))
    with cgutils.for_range(builder, b.rows) as loop:
        vectors = b.load_vectors(loop.index)
        panel.store_vectors(loop.index, vectors)
        for slot, vector in zip(totals, vectors, strict=True):
            builder.store(builder.fadd(builder.load(slot), vector), slot)
    sums.store_vectors(INDEX(0), [builder.load(slot) for slot in totals])


def _variables(builder: Any, values: list[Any]) -> list[Any]:
    """Return stack slots that hold ``values``; LLVM turns them into registers."""
    return [cgutils.alloca_once_value(builder, value) for value in values]


def _unpack(builder: Any, values: Any) -> list[Any]:
    return [builder.extract_value(values, i) for i in range(len(values.type))]


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
