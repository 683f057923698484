"""What functions share that write LLVM's instructions themselves.

numba compiles no vector types. A loop that has to keep vectors in registers is therefore built from
LLVM's instructions, with llvmlite's builder, by a function that numba calls for each use: an
intrinsic. An address is an integer here, in bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic

cgutils: Any = _cgutils  # numba types it in part only

FLOAT, INT16, INT32, INT64 = ir.FloatType(), *(ir.IntType(bits) for bits in (16, 32, 64))
WORD = 4  # bytes of a float32


def emitted(build: Callable[..., Any]) -> Any:
    """Decorate a function that emits LLVM's instructions; numba's decorator has no types."""
    return intrinsic(build)


def unpack(builder: ir.IRBuilder, values: ir.Value) -> list[ir.Value]:
    """Return the members of a tuple."""
    return cgutils.unpack_tuple(builder, values)  # type: ignore[no-any-return]


def offset(builder: ir.IRBuilder, base: ir.Value, index: ir.Value, size: ir.Value) -> ir.Value:
    """Return the address ``base + index * size``."""
    return builder.add(base, builder.mul(index, size))


def load(
    builder: ir.IRBuilder, kind: ir.Type, address: ir.Value, alignment: int = WORD
) -> ir.Value:
    """Read a value of the type ``kind`` from ``address``, a multiple of ``alignment`` bytes."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=alignment)


def store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, alignment: int = WORD) -> None:
    """Write ``value`` to ``address``, a multiple of ``alignment`` bytes."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=alignment)


def broadcast(builder: ir.IRBuilder, scalar: ir.Value, lanes: int) -> ir.Value:
    """Return a vector of ``lanes`` times ``scalar``."""
    undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, scalar, INT32(0))
    everywhere = ir.Constant(ir.VectorType(INT32, lanes), [0] * lanes)
    return builder.shuffle_vector(first, undefined, everywhere)


def call_llvm(
    builder: ir.IRBuilder, name: str, result: ir.Type, arguments: Sequence[ir.Value]
) -> ir.Value:
    """Call a function that LLVM itself has, such as ``llvm.fmuladd.v8f32``."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def call_apart(
    builder: ir.IRBuilder,
    name: str,
    arguments: Sequence[ir.Value],
    build: Callable[[ir.IRBuilder, list[ir.Value]], None],
) -> None:
    """Call the function ``name``, whose body ``build`` writes from a builder and the arguments.

    The body is emitted with the first call in a module and never inlined: it is compiled once,
    however many loops call it, loops around it are compiled faster, and LLVM finds registers for
    all that its own inner loop needs.
    """
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, f"electra_ref_{name}")
    if function.is_declaration:
        function.linkage = "linkonce_odr"
        function.attributes.add("noinline")
        body = ir.IRBuilder(function.append_basic_block())
        build(body, list(function.args))
        body.ret_void()
    builder.call(function, arguments)
