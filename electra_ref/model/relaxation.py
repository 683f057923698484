"""Relaxed samples: at some places the discriminator reads a mixture of words in place of one.

    p = softmax((l + g) / tau)       l: the generator's logits over its temperature, g: Gumbel noise
    x[place] += p E - E[sample]      straight-through: nothing is added, but dp is the same

The sample is the largest entry of l + g.
The mixture is what is added to the embedding of the sampled token, so all else that is read there
(position, segment) stays. The generator's weight of the RTD loss is not the discriminator's: on its
way to the logits the gradient is scaled. Evaluation has no relaxation.
Source: Jang et al. 2017, arXiv:1611.01144; Maddison et al. 2017, arXiv:1611.00712.
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.arrays import Array
from electra_ref.backends import Cache
from electra_ref.config.objective import ObjectiveConfig
from electra_ref.model.discriminator_input import DiscriminatorInput
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.model.stopped_gradients import scale_gradient
from electra_ref.sampling import CorruptedBatch


class Relaxation(NamedTuple):
    """Which places are mixtures, and of what; all arrays are on the device."""

    logits: Array  # (B M, V)  divided by the sampling temperature
    noise: Array  # (B M, V)  Gumbel noise that the samples were drawn with
    temperature: float  # tau
    sampled_ids: Array  # (B M,)
    positions: Array  # (B, M)  in the rows that the discriminator reads
    weights: Array  # (B M, 1)  1 for used slots, 0 for unused ones
    straight_through: bool


class RelaxationCache(NamedTuple):
    """One cache for each operation."""

    relax: Cache
    positions: Array  # (B, M)
    weights: Array  # (B M, 1)
    straight_through: bool


def relax(
    run: ForwardPass, table: Array, x: Array, relaxation: Relaxation
) -> tuple[Array, RelaxationCache]:
    """Return ``x`` (N, E), the sum of embeddings, its words mixed from ``table`` (V, E)."""
    logits, noise, temperature, sampled_ids, positions, weights, straight_through = relaxation
    delta, relaxed = run.backend.relax_embeddings(
        logits, noise, temperature, table, sampled_ids, straight_through
    )
    _, gather = run.backend.gather_positions(x, positions)
    x = x + run.backend.gather_positions_backward(delta * weights, gather)  # its transpose
    return x, RelaxationCache(relaxed, positions, weights, straight_through)


def relax_backward(run: BackwardPass, table: str, dx: Array, cache: RelaxationCache) -> Array:
    """Return dlogits (B M, V) for ``dx`` (N, E); add to the gradient of ``table``, its name."""
    ddelta = run.backend.gather_positions(dx, cache.positions)[0] * cache.weights
    dtable = None if cache.straight_through else run.gradients.sum_of(table)
    return run.backend.relax_embeddings_backward(ddelta, cache.relax, dtable)


def relaxation_of(
    run: ForwardPass,
    settings: ObjectiveConfig,
    logits: Array,
    noise: Array,
    corrupted: CorruptedBatch,
    read: DiscriminatorInput,
) -> Relaxation:
    """Return the relaxation of samples that were drawn by ``logits`` and ``noise``, (B M, V)."""
    to_device = run.backend.to_device
    weights = corrupted.masked.weights.reshape(-1, 1).astype(logits.real.dtype)
    return Relaxation(
        scale_gradient(logits, relaxation_scale(settings)) / settings.temperature,
        noise,
        settings.gumbel_temperature,
        to_device(corrupted.sampled_ids.reshape(-1)),
        to_device(read.positions),
        to_device(weights),
        settings.straight_through,
    )


def relaxation_logits_backward(settings: ObjectiveConfig, dlogits: Array) -> Array:
    """Return the gradient of the generator's logits for that of the relaxation's, (B M, V)."""
    return dlogits * (relaxation_scale(settings) / settings.temperature)


def relaxation_scale(settings: ObjectiveConfig) -> float:
    """Return the factor of the gradient on its way to the logits of the generator.

    There the RTD loss has the weight of the discriminator; the generator's is another, and a
    positive one makes it larger.
    """
    return -settings.adversarial_weight / settings.discriminator_weight
