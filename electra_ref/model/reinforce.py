"""Policy gradient: the generator learns from the discriminator's loss at its own samples.

    R_m = loss of the discriminator at the place of sample m           reward, a constant
    b_m = -log sigmoid(w h_m + c)                                      baseline, a constant here
    L   = -weight sum over m of (R_m - b_m) log softmax(l)_sample m / (tokens of the RTD loss)

The gradient of -L is, on average over the samples, an estimate of that of weight times the RTD
loss, if the discriminator's answer at one place depends on no other sample (the positions are
"factorised"). A positive weight makes the generator fool the discriminator, a negative one help it.
l are the logits divided by the sampling temperature: the policy is what the samples come from.

The baseline is a head on the generator's states h. It learns by cross entropy against exp(-R), the
probability of the right answer; its loss moves w and c only.
Source: Clark et al. 2020, arXiv:2003.10555, appendix F; Williams 1992, Machine Learning 8. The
appendix leaves open whether the baseline's loss moves the generator: here it does not. Its baseline
has no bias c. There the generator has no other loss: ``generator_weight`` = 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from electra_ref.arrays import Array
from electra_ref.backends import Cache
from electra_ref.config.objective import ObjectiveConfig
from electra_ref.model.discriminator_input import DiscriminatorInput
from electra_ref.model.generation import Guesses
from electra_ref.model.losses import Counts, LossTerm, gradient_scale
from electra_ref.model.networks import Network
from electra_ref.model.parameters import ParameterSpec
from electra_ref.model.passes import BackwardPass, ForwardPass, linear_specs
from electra_ref.model.stopped_gradients import stop_gradient
from electra_ref.sampling import CorruptedBatch


def baseline_specs(generator: Network) -> Iterator[ParameterSpec]:
    """Yield the specs of the baseline's head."""
    yield from linear_specs(_head(generator), generator.size.hidden_size, 1, "glorot_uniform")


class ReinforceCache(NamedTuple):
    """One cache for each operation, the terms, and what the logits were divided by."""

    baseline: Cache
    baseline_loss: Cache
    policy: Cache
    terms: tuple[LossTerm, LossTerm]
    temperature: float


def reinforce(
    run: ForwardPass,
    generator: Network,
    settings: ObjectiveConfig,
    guesses: Guesses,
    corrupted: CorruptedBatch,
    read: DiscriminatorInput,
    detection_logits: Array,
    counts: Counts,
) -> tuple[tuple[LossTerm, LossTerm], ReinforceCache]:
    """Return the terms of the policy and of the baseline; ``detection_logits`` are (N,)."""
    backend, masked = run.backend, corrupted.masked
    used = masked.weights.reshape(-1).astype(float)
    rewards = _rewards(run, read, detection_logits)
    states, _ = backend.gather_positions(
        stop_gradient(guesses.hidden), backend.to_device(masked.positions)
    )
    x, baseline = run.linear(_head(generator), states)
    x = x[:, 0]
    expected = np.logaddexp(0.0, -backend.to_host(stop_gradient(x)))
    dtype = guesses.logits.real.dtype
    targets, advantages, weights = (
        backend.to_device(a.astype(dtype))
        for a in (np.exp(-rewards), used * (rewards - expected), used)
    )
    baseline_sum, baseline_loss = backend.binary_cross_entropy(x, targets, weights)
    policy = guesses.logits / settings.temperature
    sampled_ids = backend.to_device(corrupted.sampled_ids.reshape(-1))
    policy_sum, policy_loss = backend.softmax_cross_entropy(policy, sampled_ids, advantages)
    terms = (
        LossTerm("policy", policy_sum, counts["policy"], settings.adversarial_weight),
        LossTerm("baseline", baseline_sum, counts["baseline"], 1.0),
    )
    return terms, ReinforceCache(baseline, baseline_loss, policy_loss, terms, settings.temperature)


def reinforce_backward(
    run: BackwardPass, generator: Network, counts: Counts, cache: ReinforceCache
) -> Array:
    """Return the gradient (B M, V) of the generator's logits; add to those of the baseline."""
    policy_scale, baseline_scale = (gradient_scale(term, counts) for term in cache.terms)
    dx = run.backend.binary_cross_entropy_backward(baseline_scale, cache.baseline_loss)
    run.linear(_head(generator), dx[:, None], cache.baseline)
    scale = policy_scale / cache.temperature
    return run.backend.softmax_cross_entropy_backward(scale, cache.policy)


def _rewards(run: ForwardPass, read: DiscriminatorInput, logits: Array) -> Array:
    """Return the discriminator's losses (B M,) at the masked slots, float64 on the host."""
    rows = np.arange(len(read.positions))[:, None]
    replaced = read.replaced[rows, read.positions].reshape(-1)
    at_places = run.backend.to_host(stop_gradient(logits)).reshape(read.replaced.shape)
    chosen = at_places[rows, read.positions].reshape(-1).astype(float)
    losses: Array = np.logaddexp(0.0, np.where(replaced, -chosen, chosen))
    return losses


def _head(generator: Network) -> str:
    return f"{generator.name}.head.baseline"
