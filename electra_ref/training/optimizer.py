"""Everything that one optimizer step changes, and the step itself.

    g <- g * clip / max(|g|, clip)          jointly over all parameters
    AdamW by groups: each has a rate, a multiple of the schedule's, and decays or does not

Source: google-research/electra model/optimization.py.
"""

from __future__ import annotations

from collections.abc import Container

from electra_ref.arrays import Array, get_xp
from electra_ref.backends import Backend
from electra_ref.config.training import OptimizerConfig
from electra_ref.model.parameters import FlatParameters, Gradients, ParameterSpec
from electra_ref.training.schedule import learning_rate
from electra_ref.training.summation import GradientTree


class TrainingState:
    """Parameters, gradients and Adam's moments, and the number of updates they have seen."""

    def __init__(self, backend: Backend, specs: list[ParameterSpec], values: Array) -> None:
        """Begin with the initial ``values`` (P,), on the host."""
        vector = backend.to_device(values)
        zeros_like = get_xp(vector).zeros_like
        self.step = 0
        self.parameters = FlatParameters(specs, vector)
        self.gradients = GradientTree(backend, Gradients(specs, zeros_like(vector)))
        self.first_moment = FlatParameters(specs, zeros_like(vector))
        self.second_moment = FlatParameters(specs, zeros_like(vector))


def optimizer_step(
    config: OptimizerConfig,
    backend: Backend,
    state: TrainingState,
    gradients: Gradients,
    unchanged: Container[str] = (),
) -> float:
    """Update ``state`` by ``gradients`` and count the step; return their norm, unclipped.

    Parameters whose names are in ``unchanged`` stay as they are, and so do their moments. A norm
    that is not finite leaves ``state`` as it is: the caller looks at it and stops. Raises
    ValueError if no gradient was computed for a parameter.
    """
    gradients.require_complete()
    norm = float(backend.global_norm(gradients.vector))
    if not norm < float("inf"):
        return norm
    rate = learning_rate(config, state.step)
    for group in state.parameters.groups(unchanged):
        backend.adamw(
            state.parameters.vector[group.part],
            gradients.vector[group.part],
            state.first_moment.vector[group.part],
            state.second_moment.vector[group.part],
            gradient_scale=config.gradient_clip / max(norm, config.gradient_clip),
            learning_rate=rate * group.rate_scale,
            beta1=config.adam_beta1,
            beta2=config.adam_beta2,
            epsilon=config.adam_epsilon,
            weight_decay=config.weight_decay if group.decays else 0.0,
        )
    state.step += 1
    return norm
