"""Sample tokens with Gumbel noise, as the original does: one random number for each slot and token.

    g = -log(-log u),      u = (w + 1/2) / 2**32,      token = argmax(l / tau + g)

with a random 32-bit word w of its own for each slot and token. For noise of that distribution, the
token is a draw from softmax(l / tau). The same noise makes draws of different logits comparable.

Range: u is an odd multiple of 2**-33, so g is from -3.130 to 22.874. Of two tokens, the one d nats
below the other is drawn too rarely by the factor (a / 2) / sinh(a / 2), a = e**d / 2**32: by one
part in 1,900 at 20 nats and by 19 % at 23. From 26.01 nats on it is never drawn.

Error: the logarithms are computed in float64 with a relative error below 2**-51 each, so that of g
is below 2**-51 (1 + |g|) before it is rounded to the dtype. Two tokens with equal logits have equal
float32 noise about once in ten million pairs; the smaller id then wins.

The logarithm is log x = k log 2 + 2 artanh s, with x = 2**k m, m in [sqrt(1/2), sqrt(2)) and
s = (m - 1) / (m + 1). The series of artanh ends with s**21; the remainder is below 2**-60 of it.
Each operation is rounded alone, so the bits are the same wherever arithmetic is IEEE 754.

Source: google-research/electra, pretrain/pretrain_helpers.py, ``sample_from_softmax``. Difference:
the original adds 1e-9 to u and to -log u, in float32; see ``sampling`` for what that does. Here
each entry of the vocabulary needs a random number; in ``sampling``, a slot needs a single one.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Array, get_xp
from electra_ref.compilation import jit
from electra_ref.rng import (
    Purpose,
    RandomStream,
    StreamWords,
    fill_words,
    random_words_reference,
    stream_words,
)
from electra_ref.sampling import (
    LN2_HIGH,
    LN2_LOW,
    check_logits,
    count_examples,
    distances,
    finite_maxima,
)

HALF_BITS = np.int64(0x3FE6_A09E_667F_3BCD)  # of sqrt(1/2) as float64
MANTISSA_BITS = np.int64(52)
ARTANH = tuple(2.0 / degree for degree in range(21, 1, -2))  # of 2 artanh, without its first term
UNIT = 2.0**-32
TOKENS_AT_A_TIME = 4096  # words that a row draws at a time; a multiple of 4
ROWS_AT_A_TIME = 8  # rows whose sums with the noise are in memory


def gumbel_noise(
    stream: RandomStream, rows: int, slots: int, vocab_size: int, dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Return Gumbel noise, (R, V) float32 or float64, for sampling from V = ``vocab_size`` tokens.

    With M = ``slots``, row i is slot m = i % M of example ``stream.first_example`` + i // M. Token
    v takes word 4 m ceil(V / 4) + v of the example, of the stream's GUMBEL purpose.

    Raises ValueError for another dtype, no token, ``rows`` that are not B * M, or more than 2**34
    words an example.
    """
    examples, stride = count_examples(rows, slots), _word_stride(vocab_size, dtype)
    words = stream_words(stream.of(Purpose.GUMBEL), examples, slots * stride)
    noise = np.empty((rows, vocab_size), dtype)
    _fill_rows(noise, words, slots)
    return noise


def gumbel_noise_reference(
    stream: RandomStream, rows: int, slots: int, vocab_size: int, dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Return what ``gumbel_noise`` returns, but for the last bits: NumPy's logarithms are used."""
    examples, stride = count_examples(rows, slots), _word_stride(vocab_size, dtype)
    words = random_words_reference(stream.of(Purpose.GUMBEL), examples, slots * stride)
    u = (words.reshape(rows, stride)[:, :vocab_size] + 0.5) * UNIT
    noise: npt.NDArray[Any] = (-np.log(-np.log(u))).astype(dtype)
    return noise


def sample_with_noise(logits: Array, temperature: float, noise: Array) -> npt.NDArray[np.int32]:
    """Return the token with the largest logits / temperature + noise of each row, (R,) on the host.

    ``logits`` and ``noise`` are (R, V), both on the host or both on the same GPU; the sum is
    computed in float64. Of equal sums the smallest id wins. The noise must be finite: a logit of
    -inf then never wins.

    Raises FloatingPointError if a row of logits holds NaN or +inf, or -inf only. Raises ValueError
    for a temperature that is not positive, logits that are not rows of float32 or float64, or noise
    of another shape, and TypeError for arrays in different memories.
    """
    check_logits(logits, temperature)
    xp = get_xp(logits, noise)
    if noise.shape != logits.shape:
        raise ValueError(f"noise must be {logits.shape}, got {noise.shape}")
    maxima = finite_maxima(logits)
    tokens = xp.empty(len(logits), np.int32)
    for start in range(0, len(logits), ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        scores = distances(logits[rows], maxima[rows], temperature) + noise[rows]
        tokens[rows] = scores.argmax(axis=1)
    return tokens if xp is np else xp.asnumpy(tokens)  # type: ignore[no-any-return]


def _word_stride(vocab_size: int, dtype: npt.DTypeLike) -> int:
    """Return how many words a slot takes, a multiple of 4. Raises ValueError."""
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise ValueError(f"noise must be float32 or float64, got {dtype}")
    if vocab_size < 1:
        raise ValueError(f"vocab_size must be positive, got {vocab_size}")
    return -(-vocab_size // 4) * 4


def _logarithm(x: Any) -> Any:
    """Return log x for positive, normal float64 numbers."""
    bits = np.float64(x).view(np.int64)
    exponent = (bits - HALF_BITS) >> MANTISSA_BITS
    mantissa = np.int64(bits - (exponent << MANTISSA_BITS)).view(np.float64)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = square * ARTANH[0] + ARTANH[1]
    for coefficient in ARTANH[2:]:
        series = series * square + coefficient
    return exponent * LN2_HIGH + ((s + s) + (s * (series * square) + exponent * LN2_LOW))


_logarithm_compiled = jit(inline=True)(_logarithm)


@jit()
def _transform(words: npt.NDArray[np.uint32], noise: npt.NDArray[Any]) -> None:
    """Write the noise of each word."""
    for i in range(noise.size):
        u = (np.float64(words[i]) + 0.5) * UNIT
        noise[i] = -_logarithm_compiled(-_logarithm_compiled(u))


@jit(parallel=True)
def _fill_rows(noise: npt.NDArray[Any], stream: StreamWords, slots: int) -> None:
    """Fill ``noise`` (R, V); the words of a slot begin with a block of their own."""
    rows, tokens = noise.shape
    blocks = -(-tokens // 4)
    for row in numba.prange(rows):
        words = np.empty(TOKENS_AT_A_TIME, np.uint32)
        for start in range(0, tokens, TOKENS_AT_A_TIME):
            piece = noise[row, start : start + TOKENS_AT_A_TIME]
            block = np.uint64(row % slots * blocks + start // 4)
            fill_words(words[: -(-piece.size // 4) * 4], block, stream, np.uint64(row // slots))
            _transform(words, piece)
