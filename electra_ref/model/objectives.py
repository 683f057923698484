"""The loss of ELECTRA from the two networks' logits, and its gradient.

    L = w_G (sum of MLM losses) / (masked positions) + w_D (sum of RTD losses) / (tokens)

w_G is 1 and w_D is 50. The sums are divided once, by counts of the whole optimizer step, so
micro-batches and processes add up to the gradient of one batch.
Source: Clark et al. 2020, arXiv:2003.10555, section 2; google-research/electra
pretrain/run_pretraining.py divides the same sums by the same counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from electra_ref.arrays import Array
from electra_ref.backends import Backend, Cache
from electra_ref.masking import MaskedBatch
from electra_ref.sampling import CorruptedBatch


class LossWeights(NamedTuple):
    """How much each loss weighs in the total."""

    mlm: float  # w_G
    rtd: float  # w_D


class LossCounts(NamedTuple):
    """What the sums of an optimizer step are divided by; at least 1 each."""

    mlm: int  # masked positions
    rtd: int  # tokens, padding left out


class ObjectiveCache(NamedTuple):
    """One cache for each of the two losses."""

    mlm: Cache
    rtd: Cache


def count_losses(masked: Iterable[MaskedBatch]) -> LossCounts:
    """Return the counts of an optimizer step that is split into ``masked`` micro-batches."""
    mlm = rtd = 0
    for batch in masked:
        mlm += int(batch.weights.sum())
        rtd += int(batch.batch.attention_mask.sum())
    return LossCounts(max(mlm, 1), max(rtd, 1))


def mlm_loss(backend: Backend, generator_logits: Array, masked: MaskedBatch) -> tuple[Array, Cache]:
    """Return the sum () of cross entropies of ``generator_logits`` (B M, V)."""
    labels = backend.to_device(masked.labels.reshape(-1))
    weights = backend.to_device(masked.weights.reshape(-1))
    return backend.softmax_cross_entropy(generator_logits, labels, weights)


def rtd_loss(
    backend: Backend, discriminator_logits: Array, corrupted: CorruptedBatch
) -> tuple[Array, Cache]:
    """Return the sum () of binary cross entropies of ``discriminator_logits`` (N,)."""
    labels = backend.to_device(corrupted.replaced.reshape(-1))
    weights = backend.to_device(corrupted.masked.batch.attention_mask.reshape(-1))
    return backend.binary_cross_entropy(discriminator_logits, labels, weights)


def objective_backward(
    backend: Backend, weights: LossWeights, counts: LossCounts, cache: ObjectiveCache
) -> tuple[Array, Array]:
    """Return (dgenerator_logits (B M, V), ddiscriminator_logits (N,)) of the total loss."""
    return (
        backend.softmax_cross_entropy_backward(weights.mlm / counts.mlm, cache.mlm),
        backend.binary_cross_entropy_backward(weights.rtd / counts.rtd, cache.rtd),
    )
