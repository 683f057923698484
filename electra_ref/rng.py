"""Random numbers as a pure function of seed, purpose, step and row: Philox4x32-10.

A block of four 32-bit words is a bijection of a 128-bit counter, with a key of 64 bits. Each of ten
rounds multiplies two of the words and mixes the high and low halves of the products:

    high_0 low_0 = 0xD2511F53 * c0        high_1 low_1 = 0xCD9E8D57 * c2
    (c0, c1, c2, c3) <- (high_1 ^ c1 ^ k0,  low_1,  high_0 ^ c3 ^ k1,  low_0)
    (k0, k1)         <- (k0 + 0x9E3779B9,  k1 + 0xBB67AE85)                      modulo 2**32

Here the counter is (block, example, step, purpose) and the key is the seed. There is no state, so
masks, samples, dropout and data order depend on the step alone. They are the same for any number of
threads, micro-batches or processes.

Source: Salmon, Moraes, Dror and Shaw 2011, "Parallel Random Numbers: As Easy as 1, 2, 3", section
3.3, and their library Random123. The permutation in ``shuffled`` is a Feistel network on
mixed-radix halves with cycle walking: Black and Rogaway 2002, "Ciphers with Arbitrary Finite
Domains".
"""

from __future__ import annotations

import enum
import math
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from electra_ref.compilation import jit

EVALUATION = 0x8000_0000  # or-ed into a purpose, so that evaluation has numbers of its own

ROUNDS = 10
MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
KEY_STEP_0, KEY_STEP_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)  # golden ratio, sqrt(3) - 1
LOW_WORD, WORD_BITS = np.uint64(0xFFFF_FFFF), np.uint64(32)
WORDS_PER_TASK = 4096  # words that one thread fills at a time; a multiple of 4
SHUFFLE_ROUNDS = 8
SORTED_COUNT = 256  # longer permutations are enciphered, others sorted


class Purpose(enum.IntEnum):
    """What a stream of numbers is for: the last counter word, so no two uses share numbers."""

    MASK = 1
    REPLACE = 2
    SAMPLE = 3
    ORDER = 4
    PACK = 5
    INITIALIZE = 6
    VOCABULARY = 7
    UNIFORM = 8
    EXPLORE = 9
    GUMBEL = 10
    HOLD_OUT = 11
    DROPOUT = 0x100  # plus the number of the dropout site


ORDER = np.uint64(Purpose.ORDER)


class RandomStream(NamedTuple):
    """Names 2**34 words for each example of a step."""

    seed: int  # 64 bits, the Philox key
    purpose: int  # 32 bits
    step: int  # 32 bits
    first_example: int = 0  # number, within the step, of the first row of a micro-batch

    def of(self, purpose: int) -> RandomStream:
        """Return the stream for ``purpose``; a stream marked EVALUATION stays marked."""
        return self._replace(purpose=purpose | (self.purpose & EVALUATION))


class StreamWords(NamedTuple):
    """A stream in the form that compiled code takes: the key and three words of the counter."""

    key_low: np.uint64
    key_high: np.uint64
    purpose: np.uint64
    step: np.uint64
    first_example: np.uint64


def philox4x32(
    counter: npt.NDArray[np.uint32], key: npt.NDArray[np.uint32]
) -> npt.NDArray[np.uint32]:
    """Map each ``counter`` (..., 4) under its ``key`` (..., 2) to four random words (..., 4)."""
    c0, c1, c2, c3 = np.moveaxis(counter.astype(np.uint64), -1, 0)
    k0, k1 = np.moveaxis(key.astype(np.uint64), -1, 0)
    for _ in range(ROUNDS):
        product_0, product_1 = MULTIPLIER_0 * c0, MULTIPLIER_1 * c2
        c0, c1, c2, c3 = (
            (product_1 >> WORD_BITS) ^ c1 ^ k0,
            product_1 & LOW_WORD,
            (product_0 >> WORD_BITS) ^ c3 ^ k1,
            product_0 & LOW_WORD,
        )
        k0, k1 = (k0 + KEY_STEP_0) & LOW_WORD, (k1 + KEY_STEP_1) & LOW_WORD
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def random_words(stream: RandomStream, examples: int, count: int) -> npt.NDArray[np.uint32]:
    """Return the first ``count`` words of each of ``examples`` examples, (examples, count).

    Word w is number w % 4 of block w // 4. Raises ValueError if a number does not fit into its word
    of the counter or the key.
    """
    stream_of_words = stream_words(stream, examples, count)
    words = np.empty((examples, -(-count // 4) * 4), np.uint32)
    _fill_all(words, stream_of_words)
    return np.ascontiguousarray(words[:, :count])


def random_words_reference(
    stream: RandomStream, examples: int, count: int
) -> npt.NDArray[np.uint32]:
    """Return what ``random_words`` returns, computed without a loop over words."""
    _check_stream(stream, examples, count)
    blocks = -(-count // 4)
    counter = np.empty((examples, blocks, 4), np.uint32)
    counter[..., 0] = np.arange(blocks)
    counter[..., 1] = stream.first_example + np.arange(examples)[:, None]
    counter[..., 2] = stream.step
    counter[..., 3] = stream.purpose
    key = np.array(key_words(stream.seed), np.uint32)
    return philox4x32(counter, key).reshape(examples, 4 * blocks)[:, :count]


def dropout_bits(stream: RandomStream, examples: int, count: int) -> npt.NDArray[np.uint16]:
    """Return uniform 16-bit integers, (examples, count): two from each word, low half first."""
    words = random_words(stream, examples, -(-count // 2))
    halves = words.astype("<u4", copy=False).view("<u2")
    return np.ascontiguousarray(halves[:, :count], np.uint16)


def shuffled(positions: npt.ArrayLike, count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return entries ``positions`` (any shape) of a pseudo-random permutation of range(count).

    The permutation is keyed by (seed, ORDER, epoch) and never stored. An entry takes about
    ``SHUFFLE_ROUNDS`` Philox blocks, for any ``count``. Up to ``SORTED_COUNT`` entries are sorted
    by random keys instead, because a Feistel network gives even permutations only.

    Raises ValueError if a position is outside range(count), or if a number does not fit into its
    word of the counter or the key.
    """
    entries = _check_positions(positions, count, seed, epoch)
    if count <= SORTED_COUNT:
        return _order_of_keys(count, seed, epoch)[entries.astype(np.int64)]
    walked = entries.ravel()
    _walk_cycles(walked, np.uint64(count), _side(count), key_words(seed), np.uint64(epoch))
    return walked.reshape(entries.shape).astype(np.int64)


def shuffled_reference(
    positions: npt.ArrayLike, count: int, seed: int, epoch: int
) -> npt.NDArray[np.int64]:
    """Return what ``shuffled`` returns; all positions walk their cycles at the same time."""
    entries = _check_positions(positions, count, seed, epoch)
    if count <= SORTED_COUNT:
        return _order_of_keys(count, seed, epoch)[entries.astype(np.int64)]
    outside = np.ones(entries.shape, np.bool_)
    while outside.any():
        entries[outside] = _encipher(entries[outside], _side(count), seed, epoch)
        outside = entries >= count
    return entries.astype(np.int64)


def _encipher(
    entries: npt.NDArray[np.uint64], side: np.uint64, seed: int, epoch: int
) -> npt.NDArray[np.uint64]:
    """Permute range(side**2); each round adds a random function of one half to the other."""
    left, right = entries // side, entries % side
    counter = np.empty((entries.size, 4), np.uint32)
    counter[:, 2] = epoch
    counter[:, 3] = Purpose.ORDER
    for number in range(SHUFFLE_ROUNDS):
        counter[:, 0] = right
        counter[:, 1] = number
        words = philox4x32(counter, np.array(key_words(seed), np.uint32)).astype(np.uint64)
        addend = ((words[:, 0] << WORD_BITS) | words[:, 1]) % side
        left, right = right, (left + addend) % side
    return left * side + right


def _order_of_keys(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return range(count) sorted by 64-bit random keys: every order is equally likely."""
    stream = RandomStream(seed, Purpose.ORDER, epoch, first_example=SHUFFLE_ROUNDS)
    high, low = random_words_reference(stream, 2, count)
    return np.lexsort((low, high))


def _side(count: int) -> np.uint64:
    """Return the least side with side**2 >= count, so that few entries fall outside."""
    return np.uint64(math.isqrt(count - 1) + 1)


def _check_positions(
    positions: npt.ArrayLike, count: int, seed: int, epoch: int
) -> npt.NDArray[np.uint64]:
    """Return a copy of the positions as unsigned integers."""
    _check_fits("seed", seed, 64)
    _check_fits("epoch", epoch, 32)
    _check_fits("count", count, 63)
    indices = np.asarray(positions)
    if indices.size == 0:
        return np.empty(indices.shape, np.uint64)
    if (
        not np.issubdtype(indices.dtype, np.integer)
        or not 0 <= indices.min() <= indices.max() < count
    ):
        raise ValueError(f"positions must be integers in range({count})")
    return indices.astype(np.uint64)


def _check_stream(stream: RandomStream, examples: int, count: int) -> None:
    _check_fits("seed", stream.seed, 64)
    _check_fits("purpose", stream.purpose, 32)
    _check_fits("step", stream.step, 32)
    _check_fits("first_example", stream.first_example, 32)
    _check_fits("examples", examples, 32)
    _check_fits("last example", max(stream.first_example + examples - 1, 0), 32)
    _check_fits("count", count, 34)


def _check_fits(name: str, value: int, bits: int) -> None:
    if not 0 <= value < 1 << bits:
        raise ValueError(f"{name} must be in [0, 2**{bits}), got {value}")


def stream_words(stream: RandomStream, examples: int, count: int) -> StreamWords:
    """Return the words from which compiled code draws ``count`` words for each of ``examples``.

    Raises ValueError if a number does not fit into its word of the counter or the key.
    """
    _check_stream(stream, examples, count)
    return StreamWords(
        *key_words(stream.seed),
        np.uint64(stream.purpose),
        np.uint64(stream.step),
        np.uint64(stream.first_example),
    )


def key_words(seed: int) -> tuple[np.uint64, np.uint64]:
    """Return the key words of a seed, the low 32 bits first."""
    return np.uint64(seed & 0xFFFF_FFFF), np.uint64(seed >> 32)


@jit(inline=True)
def philox_block(
    c0: np.uint64, c1: np.uint64, c2: np.uint64, c3: np.uint64, key: tuple[np.uint64, np.uint64]
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Compute one block; 32-bit values are in 64-bit words, so that no product overflows."""
    k0, k1 = key
    for _ in range(ROUNDS):
        product_0, product_1 = MULTIPLIER_0 * c0, MULTIPLIER_1 * c2
        c0, c1, c2, c3 = (
            (product_1 >> WORD_BITS) ^ c1 ^ k0,
            product_1 & LOW_WORD,
            (product_0 >> WORD_BITS) ^ c3 ^ k1,
            product_0 & LOW_WORD,
        )
        k0, k1 = (k0 + KEY_STEP_0) & LOW_WORD, (k1 + KEY_STEP_1) & LOW_WORD
    return c0, c1, c2, c3


@jit()
def fill_words(
    piece: npt.NDArray[np.uint32], first_block: np.uint64, stream: StreamWords, row: np.uint64
) -> None:
    """Fill ``piece`` with the words of example ``row``, whole blocks from ``first_block`` on."""
    key, example = (stream.key_low, stream.key_high), stream.first_example + row
    # One call and no branch in a function of its own: the compiler then takes eight blocks at once.
    for i in range(piece.size // 4):
        block = first_block + np.uint64(i)
        w0, w1, w2, w3 = philox_block(block, example, stream.step, stream.purpose, key)
        piece[4 * i] = w0
        piece[4 * i + 1] = w1
        piece[4 * i + 2] = w2
        piece[4 * i + 3] = w3


@jit(parallel=True)
def _fill_all(words: npt.NDArray[np.uint32], stream: StreamWords) -> None:
    """Fill ``words`` (examples, a multiple of 4); a task is one piece of one example."""
    examples, count = words.shape
    tasks = -(-count // WORDS_PER_TASK)
    for task in numba.prange(examples * tasks):
        row, start = task // tasks, task % tasks * WORDS_PER_TASK
        piece = words[row, start : start + WORDS_PER_TASK]
        fill_words(piece, np.uint64(start // 4), stream, np.uint64(row))


@jit()
def _walk_cycles(
    entries: npt.NDArray[np.uint64],
    count: np.uint64,
    side: np.uint64,
    key: tuple[np.uint64, np.uint64],
    epoch: np.uint64,
) -> None:
    """Encipher each entry in range(side**2) until it falls into range(count)."""
    for i in range(entries.size):
        entry = entries[i]
        while True:
            left, right = entry // side, entry % side
            for number in range(SHUFFLE_ROUNDS):
                w0, w1, _, _ = philox_block(right, np.uint64(number), epoch, ORDER, key)
                addend = ((w0 << WORD_BITS) | w1) % side
                left, right = right, (left + addend) % side
            entry = left * side + right
            if entry < count:
                break
        entries[i] = entry
