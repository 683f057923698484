"""Sample a token for each masked slot from the generator's softmax, and corrupt the row with it.

For logits l over V tokens and temperature tau, token v is drawn with a probability proportional to

    w_v = floor(2**62 exp((l_v - max l) / tau))

by inverting the cumulative sum. With 64 random bits U, the token is the first v for which

    w_0 + ... + w_v  >  floor(U W / 2**64),      W = w_0 + ... + w_{V-1}.

Sums of integers are exact in any order, so threads, block sizes and devices cannot change a draw. A
token 30 nats below the maximum has a weight of about 2**18.7, right to one part in 2**17. From 43
nats on the weight is zero. A slot needs one random number; with Gumbel noise it would need V.

The exponential is 2**k P(r) with x = k ln 2 + r. P is the Taylor polynomial of degree 13; its
remainder is below 5e-18 for |r| <= ln(2) / 2. Each addition and multiplication is rounded alone, so
the bits are the same wherever arithmetic is IEEE 754.

Source: google-research/electra, pretrain/pretrain_helpers.py, ``sample_from_softmax`` and
``unmask``; run_pretraining.py, ``_get_fake_data``. Difference: the original's Gumbel noise
-log(-log(u + 1e-9) + 1e-9) is float32 from 23 random bits and lies between -3.03 and 15.93. A token
16 nats below the maximum is drawn 0.56 times as often as it should be, one 19 nats below never.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Array, get_xp
from electra_ref.compilation import jit
from electra_ref.masking import MaskedBatch
from electra_ref.rng import LOW_WORD, WORD_BITS, Purpose, RandomStream, random_words

FRACTION_BITS = 2.0**62
LOWEST = -44.0  # exp(-44) 2**62 < 1, so the weight is zero from here down
LOG2_E = 1.0 / math.log(2.0)
LN2_HIGH = float.fromhex("0x1.62e42feep-1")  # exact products with integers below 2**21
LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")  # ln 2 = LN2_HIGH + LN2_LOW to 2**-86
ROUNDER = 1.5 * 2.0**52  # adding and subtracting it rounds to an integer
TAYLOR = tuple(1.0 / math.factorial(degree) for degree in range(13, -1, -1))
BLOCK = 128  # tokens between two cumulative sums that are kept


class CorruptedBatch(NamedTuple):
    """What the discriminator reads, and the right answers."""

    masked: MaskedBatch
    sampled_ids: npt.NDArray[np.int32]  # (B, M)
    corrupted_ids: npt.NDArray[np.int32]  # (B, T)
    replaced: npt.NDArray[np.bool_]  # (B, T)  True where corrupted_ids differs from the original


def corrupt(masked: MaskedBatch, sampled_ids: npt.NDArray[np.int32]) -> CorruptedBatch:
    """Write ``sampled_ids``, (B, M) or (B * M,), at the positions of all used slots of ``masked``.

    This includes the 15 % of them where the generator saw the original. A sample that equals the
    original counts as original. Raises ValueError for a wrong number of samples.
    """
    sampled_ids = sampled_ids.astype(np.int32).reshape(masked.positions.shape)
    original_ids = masked.batch.input_ids
    rows, slots = np.nonzero(masked.weights)
    corrupted_ids = original_ids.copy()
    corrupted_ids[rows, masked.positions[rows, slots]] = sampled_ids[rows, slots]
    return CorruptedBatch(masked, sampled_ids, corrupted_ids, corrupted_ids != original_ids)


def sample_tokens(
    logits: Array, temperature: float, stream: RandomStream, slots: int
) -> npt.NDArray[np.int32]:
    """Draw a token from softmax(logits / temperature) for each row of ``logits`` (B * M, V).

    With M = ``slots``, row i is slot i % M of example ``stream.first_example`` + i // M. Its bits
    are two words of the stream's SAMPLE purpose. Returns ids (B * M,) on the host, also if
    ``logits`` are on a GPU.

    Raises FloatingPointError if a row holds NaN or +inf, or -inf only, and ValueError for a
    temperature that is not positive or logits that are not B * M rows of float32 or float64.
    """
    check_logits(logits, temperature)
    bits = slot_bits(stream.of(Purpose.SAMPLE), len(logits), slots)
    return draw_tokens(logits, temperature, bits)


def sample_tokens_reference(
    logits: Array, temperature: float, stream: RandomStream, slots: int
) -> npt.NDArray[np.int32]:
    """Return what ``sample_tokens`` returns, computed from all cumulative sums."""
    check_logits(logits, temperature)
    bits = slot_bits(stream.of(Purpose.SAMPLE), len(logits), slots)
    return draw_tokens_reference(logits, temperature, bits)


def forbid(logits: Array, ids: Array) -> Array:
    """Return a copy of ``logits`` (R, V) where the logit of ``ids[i]`` in row i is -inf.

    Its probability is then zero at any temperature. ``ids`` (R,) may be on the host where
    ``logits`` are on a GPU. Raises ValueError if they are not R ids of the vocabulary.

    Source: google-research/electra, pretrain/pretrain_helpers.py, ``sample_from_softmax``, with
    ``disallow_correct``. Difference: the original subtracts 1000.
    """
    xp = get_xp(logits)
    ids = xp.asarray(ids)
    if ids.shape != logits.shape[:1] or not ((ids >= 0) & (ids < logits.shape[1])).all():
        raise ValueError(f"ids must be {len(logits)} numbers in [0, {logits.shape[1]})")
    allowed = logits.copy()
    allowed[xp.arange(len(ids)), ids] = -math.inf
    return allowed


def draw_tokens(
    logits: Array, temperature: float, bits: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int32]:
    """Return the token that ``bits`` (R,) select in each row of ``logits`` (R, V).

    A larger value of ``bits`` never selects a smaller token. On a GPU the reference form runs.
    """
    if get_xp(logits) is not np:
        return draw_tokens_reference(logits, temperature, bits)
    maxima = finite_maxima(logits)
    tokens = np.empty(len(logits), np.int32)
    _draw_rows(np.ascontiguousarray(logits), maxima, float(temperature), bits, tokens)
    return tokens


def draw_tokens_reference(
    logits: Array, temperature: float, bits: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int32]:
    """Return what ``draw_tokens`` returns: how many cumulative sums are at most the target."""
    xp = get_xp(logits)
    weights = integer_weights(distances(logits, finite_maxima(logits), temperature))
    high, low = _carry((weights >> WORD_BITS).cumsum(axis=1), (weights & LOW_WORD).cumsum(axis=1))
    target_high, target_low = scale(xp.asarray(bits)[:, None], high[:, -1:], low[:, -1:])
    tokens = _reached(high, low, target_high, target_low).sum(axis=1, dtype=np.int32)
    return tokens if xp is np else xp.asnumpy(tokens)  # type: ignore[no-any-return]


def distances(logits: Array, maxima: Array, temperature: float) -> Array:
    """Return (logits - maxima) / temperature, (R, V) float64, all at most zero.

    ``maxima`` (R,) are those of the rows of ``logits`` (R, V). What overflows becomes -inf.
    """
    with np.errstate(over="ignore"):
        below: Array = (logits.astype(np.float64) - maxima[:, None]) / temperature
    return below


def integer_weights(distances: Array) -> Array:
    """Return 2**62 exp(distances), rounded down, for float64 ``distances`` <= 0 (any shape).

    The error is below 1 + 2**-51 times the exact value.
    """
    xp = get_xp(distances)
    mantissa, exponent = _exponential(xp.maximum(distances, LOWEST))
    weights: Array = (mantissa * FRACTION_BITS).astype(np.uint64) >> (-exponent).astype(np.uint64)
    return weights


def _exponential(x: Any) -> Any:
    """Split exp(x) into (mantissa, exponent): mantissa * 2**exponent; mantissa in (0.7, 1.42)."""
    exponent = (x * LOG2_E + ROUNDER) - ROUNDER
    r = (x - exponent * LN2_HIGH) - exponent * LN2_LOW
    mantissa = r * TAYLOR[0] + TAYLOR[1]
    for coefficient in TAYLOR[2:]:
        mantissa = mantissa * r + coefficient
    return mantissa, exponent


def _carry(high: Any, low: Any) -> Any:
    """Normalize the sum high 2**32 + low, so that low < 2**32."""
    return high + (low >> WORD_BITS), low & LOW_WORD


def scale(bits: Any, high: Any, low: Any) -> Any:
    """Return floor(bits (high 2**32 + low) / 2**64), as (high, low): digits to the base 2**32.

    As on paper, a column has the products of digits that count one power of the base. With 10 for
    2**32: bits = 47, high = 35 and low = 8 give 47 * 358 = 16826. Without columns 0 and 1 it is
    168, as (16, 8).
    """
    u0, u1 = bits & LOW_WORD, bits >> WORD_BITS
    t0, t1, t2 = low, high & LOW_WORD, high >> WORD_BITS
    column_0 = u0 * t0
    column_1 = u0 * t1 + (column_0 >> WORD_BITS)
    column_2 = u0 * t2 + (column_1 >> WORD_BITS)
    column_3 = column_2 >> WORD_BITS
    column_1 = u1 * t0 + (column_1 & LOW_WORD)
    column_2 = u1 * t1 + (column_2 & LOW_WORD) + (column_1 >> WORD_BITS)
    column_3 = u1 * t2 + column_3 + (column_2 >> WORD_BITS)
    return column_3, column_2 & LOW_WORD


def _reached(high: Any, low: Any, target_high: Any, target_low: Any) -> Any:
    """Return whether the target is at least high 2**32 + low."""
    return (high < target_high) | ((high == target_high) & (low <= target_low))


def finite_maxima(logits: Array) -> Array:
    """Return the maximum of each row, (R,) float64; it is NaN if the row holds NaN.

    Raises FloatingPointError if a maximum is not finite.
    """
    xp = get_xp(logits)
    with np.errstate(invalid="ignore"):
        maxima = logits.max(axis=1).astype(np.float64)
    bad = ~xp.isfinite(maxima)
    if bad.any():
        row = int(bad.argmax())
        raise FloatingPointError(
            f"the maximum of the logits of row {row} is {float(maxima[row])}: no token can be drawn"
        )
    return maxima  # type: ignore[no-any-return]


def slot_bits(stream: RandomStream, rows: int, slots: int) -> npt.NDArray[np.uint64]:
    """Return 64 bits for each row, (R,); row i is slot i % M of its example, M = ``slots``.

    They are words 2 m (high) and 2 m + 1 (low) of the example, m being the slot. Raises ValueError
    like ``count_examples``.
    """
    words = random_words(stream, count_examples(rows, slots), 2 * slots)
    high, low = words.reshape(rows, 2).T.astype(np.uint64)
    return (high << WORD_BITS) | low


def count_examples(rows: int, slots: int) -> int:
    """Return how many examples of ``slots`` slots the rows are.

    Raises ValueError if ``slots`` is not positive or if the last example is not complete.
    """
    if slots < 1 or rows % slots:
        raise ValueError(f"rows must be B * {slots}, got {rows}")
    return rows // slots


def check_logits(logits: Array, temperature: float) -> None:
    """Raise ValueError if ``logits`` are not (R, V) floats or ``temperature`` is not positive."""
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if logits.dtype not in (np.float32, np.float64):
        raise ValueError(f"logits must be float32 or float64, got {logits.dtype}")
    if logits.ndim != 2 or logits.shape[1] < 1:
        raise ValueError(f"logits must be (B * M, V), got {logits.shape}")


_exponential_compiled = jit()(_exponential)
_carry_compiled = jit()(_carry)
_scale_compiled = jit()(scale)
_reached_compiled = jit()(_reached)


@jit()
def _weigh_block(
    weights: npt.NDArray[np.uint64],
    logits: npt.NDArray[Any],
    maximum: np.float64,
    temperature: float,
) -> None:
    """Write ``integer_weights`` of ``logits`` to the start of ``weights``."""
    for i in range(logits.size):
        distance = (np.float64(logits[i]) - maximum) / temperature
        mantissa, exponent = _exponential_compiled(max(distance, LOWEST))
        weights[i] = np.uint64(mantissa * FRACTION_BITS) >> np.uint64(-exponent)


@jit()
def _draw_row(
    logits: npt.NDArray[Any], maximum: np.float64, temperature: float, bits: np.uint64
) -> int:
    """Find the block where the cumulative sum passes the target, then the token in the block."""
    blocks = -(-logits.size // BLOCK)
    highs, lows = np.zeros(blocks + 1, np.uint64), np.zeros(blocks + 1, np.uint64)
    weights = np.zeros(BLOCK, np.uint64)
    for block in range(blocks):
        piece = logits[block * BLOCK : (block + 1) * BLOCK]
        _weigh_block(weights, piece, maximum, temperature)
        high, low = highs[block], lows[block]
        for i in range(piece.size):
            high += weights[i] >> WORD_BITS
            low += weights[i] & LOW_WORD
        highs[block + 1], lows[block + 1] = _carry_compiled(high, low)
    target_high, target_low = _scale_compiled(bits, highs[blocks], lows[blocks])

    block = 0
    while _reached_compiled(highs[block + 1], lows[block + 1], target_high, target_low):
        block += 1
    piece = logits[block * BLOCK : (block + 1) * BLOCK]
    _weigh_block(weights, piece, maximum, temperature)
    high, low, i = highs[block], lows[block], -1
    while _reached_compiled(high, low, target_high, target_low):
        i += 1
        high, low = _carry_compiled(high + (weights[i] >> WORD_BITS), low + (weights[i] & LOW_WORD))
    return block * BLOCK + i


@jit(parallel=True)
def _draw_rows(
    logits: npt.NDArray[Any],
    maxima: npt.NDArray[np.float64],
    temperature: float,
    bits: npt.NDArray[np.uint64],
    tokens: npt.NDArray[np.int32],
) -> None:
    for row in numba.prange(len(logits)):
        tokens[row] = _draw_row(logits[row], maxima[row], temperature, bits[row])
