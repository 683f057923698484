"""Sum of word, position and segment embeddings, and its gradient: the reference's ``embedding``.

    x[b, t] = word[id[b, t]] + position[t] + segment[type[b, t]]

Memory traffic: three rows are read and one is written for each token; backward dx is read, three
rows are read and written for each token, and sums that are empty are first filled with zeros.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.arguments import expect, expect_ids
from electra_ref.backends.reference.embedding import EmbeddingCache
from electra_ref.compilation import jit
from electra_ref.gradient import GradientSum

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
    expect_ids(input_ids, word.shape[0])
    expect_ids(token_type_ids, segment.shape[0])
    x = np.empty((input_ids.size, width), np.float32)
    _embed(word, position, segment, input_ids, token_type_ids, x)
    return x, EmbeddingCache(input_ids, token_type_ids)


def embed_backward(
    dx: Float32,
    cache: EmbeddingCache,
    dword: GradientSum,
    dposition: GradientSum,
    dsegment: GradientSum,
) -> None:
    """Add to ``dword`` (V, E), ``dposition`` (P, E) and ``dsegment`` (2, E) for ``dx`` (N, E).

    Raises ValueError if shapes or types do not fit, and IndexError if an id is not in its table.
    """
    input_ids, token_type_ids = cache
    expect((input_ids.size, dx.shape[1]), dx)
    sums = dword, dposition, dsegment
    for total in sums:
        expect((len(total.array), dx.shape[1]), total.array)
    expect_ids(input_ids, len(dword.array))
    expect_ids(token_type_ids, len(dsegment.array))
    if input_ids.shape[1] > len(dposition.array):
        raise ValueError(f"{input_ids.shape[1]} tokens a row, but only {len(dposition.array)} sums")
    for total in sums:
        if total.is_empty:
            total.array.fill(0.0)
    _embed_backward(dx, input_ids, token_type_ids, *(total.array for total in sums))


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
