"""The instructions of AVX512_BF16 in LLVM's plain ones, for processors that do not have them.

These three functions stand in for those of ``electra_ref.backends.cpu.bfloat16.instructions``, and
emit what those mean: bfloat16 is the upper half of a float32, rounded with integers; two products
are added in float32 one after the other, the upper one first; denormal numbers are zero before and
after. All else of the kernels is as it is on processors that have the instructions, so that the
same tests run everywhere: LLVM splits a vector of 16 numbers where registers hold fewer.

Source: Intel, "Instruction Set Extensions Programming Reference", VDPBF16PS, VCVTNE2PS2BF16.
"""

from __future__ import annotations

from llvmlite import ir

FLOAT, INT16, INT32 = ir.FloatType(), ir.IntType(16), ir.IntType(32)
LANES = 16
WORDS = ir.VectorType(INT32, LANES)
SIGN, EXPONENT, MAGNITUDE = 0x8000_0000, 0x7F80_0000, 0x7FFF_FFFF
QUIET = 0x40  # the bit of a bfloat16 that a NaN keeps when the others are cut off


def add_products(
    builder: ir.IRBuilder, sums: ir.Value, left: ir.Value, right: ir.Value
) -> ir.Value:
    """Return 16 float32 ``sums``, plus the two products of each of 16 pairs of bfloat16."""
    total = _flush(builder, sums)
    halves = zip(_widen(builder, left), _widen(builder, right), strict=True)
    for first, second in halves:
        total = _flush(builder, builder.fadd(total, builder.fmul(first, second)))
    return total


def round_vectors(builder: ir.IRBuilder, lower: ir.Value, upper: ir.Value) -> ir.Value:
    """Return the bits of two vectors of 16 float32, rounded to bfloat16: 32 16-bit integers."""
    rounded = [_round(builder, builder.bitcast(half, WORDS)) for half in (lower, upper)]
    halves = [builder.trunc(half, ir.VectorType(INT16, LANES)) for half in rounded]
    order = ir.Constant(ir.VectorType(INT32, 2 * LANES), list(range(2 * LANES)))
    return builder.shuffle_vector(*halves, order)


def round_number(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
    """Return the bits of one float32, rounded to bfloat16."""
    return builder.trunc(_round(builder, builder.bitcast(number, INT32)), INT16)


def _round(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """Return the bits of float32 numbers rounded to bfloat16, in the lower halves."""
    like = bits.type
    upper = builder.lshr(bits, _all(like, 16))
    is_odd = builder.and_(upper, _all(like, 1))
    half = builder.add(is_odd, _all(like, 0x7FFF))  # half a unit, and ties go to even
    nearest = builder.lshr(builder.add(bits, half), _all(like, 16))
    magnitude = builder.and_(bits, _all(like, MAGNITUDE))
    is_nan = builder.icmp_unsigned(">", magnitude, _all(like, EXPONENT))
    nan = builder.or_(upper, _all(like, QUIET))
    zero = builder.and_(upper, _all(like, SIGN >> 16))
    number = builder.select(_is_small(builder, bits), zero, nearest)
    return builder.select(is_nan, nan, number)


def _widen(builder: ir.IRBuilder, pairs: ir.Value) -> list[ir.Value]:
    """Return the upper and the lower bfloat16 of each pair as float32."""
    upper = builder.and_(pairs, _all(WORDS, 0xFFFF_0000))
    lower = builder.shl(pairs, _all(WORDS, 16))
    numbers = ir.VectorType(FLOAT, LANES)
    return [_flush(builder, builder.bitcast(half, numbers)) for half in (upper, lower)]


def _flush(builder: ir.IRBuilder, numbers: ir.Value) -> ir.Value:
    """Return 16 float32, zero in place of those that are denormal."""
    bits = builder.bitcast(numbers, WORDS)
    zero = builder.and_(bits, _all(WORDS, SIGN))
    flushed = builder.select(_is_small(builder, bits), zero, bits)
    return builder.bitcast(flushed, numbers.type)


def _is_small(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """Return whether float32 numbers are denormal or zero."""
    exponent = builder.and_(bits, _all(bits.type, EXPONENT))
    return builder.icmp_signed("==", exponent, _all(bits.type, 0))


def _all(kind: ir.Type, number: int) -> ir.Value:
    """Return ``number`` as a constant of ``kind``, an integer or a vector of them."""
    is_vector = isinstance(kind, ir.VectorType)
    return ir.Constant(kind, [number] * kind.count if is_vector else number)
