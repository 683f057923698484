"""One step of Adam with decoupled weight decay, as ELECTRA takes it.

    g  = s gradient
    m <- beta1 m + (1 - beta1) g
    v <- beta2 v + (1 - beta2) g^2
    w <- w - lr (m / (sqrt v + eps) + decay w)

s is the clipping factor: see ``global_norm``. Three things differ from AdamW in most libraries: the
moments have no bias correction, eps is 1e-6 and outside the root, and biases and layer norms do not
decay (embeddings do). Source: google-research/electra model/optimization.py
(``AdamWeightDecayOptimizer``); Kingma and Ba 2015, arXiv:1412.6980; Loshchilov and Hutter 2019,
arXiv:1711.05101.
"""

from __future__ import annotations

from electra_ref.arrays import Array, get_xp


def adamw(
    parameters: Array,
    gradients: Array,
    first_moment: Array,
    second_moment: Array,
    *,
    gradient_scale: float,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """Update ``parameters``, ``first_moment`` and ``second_moment`` in place, all (P,)."""
    scaled = gradient_scale * gradients
    first_moment *= beta1
    first_moment += (1.0 - beta1) * scaled
    second_moment *= beta2
    second_moment += (1.0 - beta2) * (scaled * scaled)
    update = first_moment / (get_xp(parameters).sqrt(second_moment) + epsilon)
    update += weight_decay * parameters
    update *= learning_rate
    parameters -= update
