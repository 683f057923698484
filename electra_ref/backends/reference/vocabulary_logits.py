"""Scores of every word of the vocabulary against the word embeddings, and their gradient.

    logits = h Eᵀ + b
    dh = dlogits E,   dE = dlogitsᵀ h,   db = sum of dlogits over the rows

E is the table that also embeds the input (weight tying), so its gradient here is added to the
one from the input. Source: google-research/electra pretrain/pretrain_helpers.py and
run_pretraining.py (``_get_masked_lm_output``); Press and Wolf 2017, arXiv:1608.05859.
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.arrays import Array


class VocabularyLogitsCache(NamedTuple):
    """Kept for the backward pass: two references, nothing is copied."""

    hidden: Array  # (M, E)
    word_embeddings: Array  # (V, E)  the parameter itself


def vocabulary_logits(
    hidden: Array, word_embeddings: Array, bias: Array
) -> tuple[Array, VocabularyLogitsCache]:
    """Score ``hidden`` (M, E) against ``word_embeddings`` (V, E), add ``bias`` (V,): (M, V).

    Raises ValueError if the shapes do not fit.
    """
    if (*bias.shape, hidden.shape[1]) != word_embeddings.shape:
        raise ValueError(
            f"hidden {hidden.shape}, word_embeddings {word_embeddings.shape} "
            f"and bias {bias.shape} do not fit"
        )
    logits = hidden @ word_embeddings.T
    logits += bias  # in place: logits is ours
    return logits, VocabularyLogitsCache(hidden, word_embeddings)


def vocabulary_logits_backward(
    dlogits: Array, cache: VocabularyLogitsCache
) -> tuple[Array, Array, Array]:
    """Return (dhidden (M, E), dword_embeddings (V, E), dbias (V,)) for ``dlogits`` (M, V)."""
    hidden, word_embeddings = cache
    return dlogits @ word_embeddings, dlogits.T @ hidden, dlogits.sum(axis=0)
