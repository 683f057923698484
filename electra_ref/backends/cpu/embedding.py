"""Sum of word, position and segment embeddings, and its gradient: the reference's ``embedding``.

    x[b, t] = word[id[b, t]] + position[t] + segment[type[b, t]]

Memory traffic: three rows are read and one is written for each token; backward dx is read twice
and the tables are written once.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.arguments import expect
from electra_ref.backends.reference.embedding import EmbeddingCache
from electra_ref.compilation import jit

Integers = npt.NDArray[np.integer]


def embed(
    word: Float32,
    position: Float32,
    segment: Float32,
    input_ids: Integers,
    token_type_ids: Integers,
) -> tuple[Float32, EmbeddingCache]:
    """Return the (N, E) sum of the rows that ``input_ids`` and ``token_type_ids`` (B, T) name.

    ``word`` is (V, E), ``position`` (P, E), ``segment`` (2, E). Raises ValueError if T > P or
    if shapes or types do not fit, and IndexError if an id is not in its table.
    """
    length = input_ids.shape[1]
    if length > position.shape[0]:
        raise ValueError(f"{length} tokens a row, but only {position.shape[0]} position embeddings")
    width = word.shape[1]
    expect((word.shape[0], width), word)
    expect((position.shape[0], width), position)
    expect((segment.shape[0], width), segment)
    if token_type_ids.shape != input_ids.shape:
        raise ValueError(f"types {token_type_ids.shape} must have the shape {input_ids.shape}")
    _check_ids(input_ids, word.shape[0])
    _check_ids(token_type_ids, segment.shape[0])
    x = np.empty((input_ids.size, width), np.float32)
    _embed(word, position, segment, input_ids, token_type_ids, x)
    cache = EmbeddingCache(
        input_ids, token_type_ids, word.shape[0], position.shape[0], segment.shape[0]
    )
    return x, cache


def embed_backward(dx: Float32, cache: EmbeddingCache) -> tuple[Float32, Float32, Float32]:
    """Return (dword (V, E), dposition (P, E), dsegment (2, E)) for ``dx`` (N, E)."""
    expect((cache.input_ids.size, dx.shape[1]), dx)
    heights = cache.vocab_size, cache.max_position_embeddings, cache.type_vocab_size
    dword, dposition, dsegment = (np.zeros((height, dx.shape[1]), np.float32) for height in heights)
    _embed_backward(dx, cache.input_ids, cache.token_type_ids, dword, dposition, dsegment)
    return dword, dposition, dsegment


def _check_ids(ids: Integers, height: int) -> None:
    """Compiled code reads wherever an index points to, so it is looked at before."""
    if ids.size and not 0 <= ids.min() <= ids.max() < height:
        raise IndexError(f"ids {ids.min()} to {ids.max()} in a table of {height} rows")


@jit(parallel=True)
def _embed(
    word: Float32,
    position: Float32,
    segment: Float32,
    input_ids: Integers,
    token_type_ids: Integers,
    x: Float32,
) -> None:
    batch, length = input_ids.shape
    for n in numba.prange(batch * length):
        b, t = n // length, n % length
        token, kind = input_ids[b, t], token_type_ids[b, t]
        for i in range(x.shape[1]):
            x[n, i] = word[token, i] + segment[kind, i] + position[t, i]


@jit()
def _embed_backward(
    dx: Float32,
    input_ids: Integers,
    token_type_ids: Integers,
    dword: Float32,
    dposition: Float32,
    dsegment: Float32,
) -> None:
    """Add row by row on one thread: two tokens may share a row of a table."""
    batch, length = input_ids.shape
    for n in range(batch * length):
        b, t = n // length, n % length
        token, kind = input_ids[b, t], token_type_ids[b, t]
        for i in range(dx.shape[1]):
            dword[token, i] += dx[n, i]
            dsegment[kind, i] += dx[n, i]
            dposition[t, i] += dx[n, i]
