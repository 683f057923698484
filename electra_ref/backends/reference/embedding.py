"""Sum of word, position and segment embeddings, and its gradient.

    x[b, t] = word[id[b, t]] + position[t] + segment[type[b, t]]

The derivative of a table lookup is a scatter: row i of a table's gradient is the sum of dx over
all places that looked row i up. Positions count from 0 in every row.
Source: Devlin et al. 2019, arXiv:1810.04805, figure 2; google-research/electra model/modeling.py
(``embedding_postprocessor``).
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.arrays import Array, get_xp, sum_rows_by_index
from electra_ref.gradient import GradientSum


class EmbeddingCache(NamedTuple):
    """Kept for the backward pass: the integers that were looked up."""

    input_ids: Array  # (B, T)
    token_type_ids: Array  # (B, T)


def embed(
    word: Array, position: Array, segment: Array, input_ids: Array, token_type_ids: Array
) -> tuple[Array, EmbeddingCache]:
    """Return the (N, E) sum of the rows that ``input_ids`` and ``token_type_ids`` (B, T) name.

    ``word`` is (V, E), ``position`` (P, E), ``segment`` (2, E). Raises ValueError if T > P.
    """
    length = input_ids.shape[1]
    if length > position.shape[0]:
        raise ValueError(f"{length} tokens a row, but only {position.shape[0]} position embeddings")
    x = word[input_ids]  # (B, T, E)
    x += segment[token_type_ids]
    x += position[:length]
    return x.reshape(-1, word.shape[1]), EmbeddingCache(input_ids, token_type_ids)


def embed_backward(
    dx: Array,
    cache: EmbeddingCache,
    dword: GradientSum,
    dposition: GradientSum,
    dsegment: GradientSum,
) -> None:
    """Add to ``dword`` (V, E), ``dposition`` (P, E) and ``dsegment`` (2, E) for ``dx`` (N, E)."""
    input_ids, token_type_ids = cache
    length, width = input_ids.shape[1], dx.shape[1]
    dword.add(sum_rows_by_index(dx, input_ids.reshape(-1), dword.array.shape[0]))
    dsegment.add(sum_rows_by_index(dx, token_type_ids.reshape(-1), dsegment.array.shape[0]))
    at_positions = get_xp(dx).zeros((dposition.array.shape[0], width), dx.dtype)
    at_positions[:length] = dx.reshape(-1, length, width).sum(axis=0)
    dposition.add(at_positions)
