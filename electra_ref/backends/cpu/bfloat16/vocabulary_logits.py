"""Scores of every word against the word embeddings with factors in bfloat16.

    logits = h Eᵀ + b
    dh = dlogits E,   dE = dlogitsᵀ h,   db = sum of dlogits over the rows

Fused: the bias is where the sums of the product start; dlogits is packed for dE and summed for db
where its rows are rounded for dh. Memory traffic: dlogits is read once in float32, and once written
and read in bfloat16; that of the products, see ``matrix_product``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.bfloat16.matrix_product import multiply, multiply_and_pack
from electra_ref.backends.cpu.bfloat16.packing import Panels


class VocabularyLogitsCache(NamedTuple):
    """Kept for the backward pass."""

    hidden: Panels  # (M, E)
    word_embeddings: Float32  # (V, E)  the parameter itself


def vocabulary_logits(
    hidden: Float32, word_embeddings: Float32, bias: Float32
) -> tuple[Float32, VocabularyLogitsCache]:
    """Score ``hidden`` (M, E) against ``word_embeddings`` (V, E), add ``bias`` (V,): (M, V).

    Raises ValueError if the shapes do not fit.
    """
    if (*bias.shape, hidden.shape[1]) != word_embeddings.shape:
        raise ValueError(
            f"hidden {hidden.shape}, word_embeddings {word_embeddings.shape} "
            f"and bias {bias.shape} do not fit"
        )
    logits = np.empty((hidden.shape[0], bias.size), np.float32)
    packed_hidden = multiply_and_pack(hidden, word_embeddings.T, logits, start=bias)
    return logits, VocabularyLogitsCache(packed_hidden, word_embeddings)


def vocabulary_logits_backward(
    dlogits: Float32, cache: VocabularyLogitsCache
) -> tuple[Float32, Float32, Float32]:
    """Return (dhidden (M, E), dword_embeddings (V, E), dbias (V,)) for ``dlogits`` (M, V)."""
    hidden, word_embeddings = cache
    dhidden, dword_embeddings, dbias = (
        np.empty(shape, np.float32)
        for shape in (hidden.shape, word_embeddings.shape, word_embeddings.shape[:1])
    )
    packed_dlogits = multiply_and_pack(dlogits, word_embeddings, dhidden, column_sums=dbias)
    multiply(packed_dlogits, hidden, dword_embeddings)
    return dhidden, dword_embeddings, dbias
