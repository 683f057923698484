"""Norm of all gradients taken as one vector, and the sum of the gradients of two micro-batches.

    norm = sqrt(sum of g^2)

The optimizer clips to it: AdamW multiplies g by limit / max(norm, limit).
Source: Pascanu et al. 2013, arXiv:1211.5063, algorithm 1; google-research/electra
model/optimization.py clips generator, discriminator and embeddings jointly at 1.0
(``tf.clip_by_global_norm``).
"""

from __future__ import annotations

from electra_ref.arrays import Array, get_xp


def global_norm(gradients: Array) -> Array:
    """Return the Euclidean norm () of the flat vector ``gradients`` (P,)."""
    xp = get_xp(gradients)
    return xp.sqrt(xp.dot(gradients, gradients))  # type: ignore[no-any-return]


def add_gradients(total: Array, part: Array) -> None:
    """Add the flat vector ``part`` (P,) to ``total`` (P,), in place."""
    total += part
