"""The three instructions that need a processor with AVX512_BF16, each emitted by one function.

They round to nearest, ties to even, treat denormal inputs as zero and write zero for denormal
results, whatever the processor's mode; NaN stays NaN and inf stays inf. Processors have them from
Zen 4, Cooper Lake and Sapphire Rapids on.

Source: Intel, "Instruction Set Extensions Programming Reference", VDPBF16PS, VCVTNE2PS2BF16,
VCVTNEPS2BF16.
"""

from __future__ import annotations

from llvmlite import ir

from electra_ref.backends.cpu.emitters import INT16, call_llvm

LANES = 16  # float32 in a register, or pairs of bfloat16


class BFloatType(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat16, which llvmlite does not name."""

    def __str__(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloatType)

    def __hash__(self) -> int:
        return hash(BFloatType)


BFLOAT = BFloatType()


def add_products(
    builder: ir.IRBuilder, sums: ir.Value, left: ir.Value, right: ir.Value
) -> ir.Value:
    """Return 16 float32 ``sums``, plus the two products of each of 16 pairs of bfloat16.

    ``left`` and ``right`` are vectors of 16 32-bit words, each a pair.
    """
    return call_llvm(builder, "llvm.x86.avx512bf16.dpbf16ps.512", sums.type, [sums, left, right])


def round_vectors(builder: ir.IRBuilder, lower: ir.Value, upper: ir.Value) -> ir.Value:
    """Return the bits of two vectors of 16 float32, rounded to bfloat16: 32 16-bit integers."""
    kind, name = ir.VectorType(BFLOAT, 2 * LANES), "llvm.x86.avx512bf16.cvtne2ps2bf16.512"
    rounded = call_llvm(builder, name, kind, [upper, lower])
    return builder.bitcast(rounded, ir.VectorType(INT16, 2 * LANES))


def round_number(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
    """Return the bits of one float32, rounded to bfloat16. In a loop, LLVM makes vectors of it."""
    return builder.bitcast(builder.fptrunc(number, BFLOAT), INT16)
