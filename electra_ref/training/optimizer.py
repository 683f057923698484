"""Everything that one optimizer step changes, and the step itself.

    g <- g * clip / max(|g|, clip)          jointly over both networks and the embeddings
    AdamW on the parameters that decay, AdamW without decay on biases and layer norms

Source: google-research/electra model/optimization.py.
"""

from __future__ import annotations

from electra_ref.arrays import Array, get_xp
from electra_ref.backends import Backend
from electra_ref.config import Config
from electra_ref.model.parameters import (
    FlatGradients,
    FlatParameters,
    initial_values,
    parameter_specs,
)
from electra_ref.training.schedule import learning_rate


class TrainingState:
    """Parameters, gradients and Adam's moments, and the number of updates they have seen."""

    def __init__(self, config: Config, backend: Backend, dtype: str) -> None:
        specs = parameter_specs(config)
        vector = backend.to_device(initial_values(specs, config, dtype))
        zeros_like = get_xp(vector).zeros_like
        self.step = 0
        self.parameters = FlatParameters(specs, vector)
        self.gradients = FlatGradients(specs, zeros_like(vector))
        self.first_moment = FlatParameters(specs, zeros_like(vector))
        self.second_moment = FlatParameters(specs, zeros_like(vector))


def optimizer_step(config: Config, backend: Backend, state: TrainingState) -> Array:
    """Update ``state`` by its gradients and count the step; return their norm () unclipped.

    A norm that is not finite leaves parameters and moments as they are: the caller looks at it
    and stops.
    """
    norm = backend.global_norm(state.gradients.vector)
    if not float(norm) < float("inf"):
        return norm
    backend.clip_by_global_norm(state.gradients.vector, norm, config.gradient_clip)
    border = state.parameters.decayed
    for part, decay in ((slice(border), config.weight_decay), (slice(border, None), 0.0)):
        backend.adamw(
            state.parameters.vector[part],
            state.gradients.vector[part],
            state.first_moment.vector[part],
            state.second_moment.vector[part],
            learning_rate=learning_rate(config, state.step),
            beta1=config.adam_beta1,
            beta2=config.adam_beta2,
            epsilon=config.adam_epsilon,
            weight_decay=decay,
        )
    state.step += 1
    return norm
