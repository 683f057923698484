"""One step of Adam with decoupled weight decay, in one pass: ``backends.reference.adamw``.

    g  = s gradient
    m <- beta1 m + (1 - beta1) g
    v <- beta2 v + (1 - beta2) g^2
    w <- w - lr (m / (sqrt v + eps) + decay w)

Fused: the gradient is scaled by s where it is read, so that clipping takes no pass of its own.
Memory traffic: w, gradient, m and v are read, w, m and v are written.
"""

from __future__ import annotations

import numba
import numpy as np

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.arguments import expect
from electra_ref.compilation import jit


def adamw(
    parameters: Float32,
    gradients: Float32,
    first_moment: Float32,
    second_moment: Float32,
    *,
    gradient_scale: float,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """Update ``parameters``, ``first_moment`` and ``second_moment`` in place, all (P,).

    Raises ValueError if shapes or types do not fit.
    """
    arrays = parameters, gradients, first_moment, second_moment
    expect((parameters.size,), *arrays)
    decays = beta1, 1.0 - beta1, beta2, 1.0 - beta2
    settings = gradient_scale, learning_rate, *decays, epsilon, weight_decay
    _adamw(*arrays, tuple(np.float32(setting) for setting in settings))


@jit(parallel=True, fastmath={"contract"})
def _adamw(
    w: Float32, gradients: Float32, m: Float32, v: Float32, settings: tuple[np.float32, ...]
) -> None:
    scale, rate, beta1, rest1, beta2, rest2, epsilon, decay = settings
    for i in numba.prange(w.size):
        g = scale * gradients[i]
        m[i] = beta1 * m[i] + rest1 * g
        v[i] = beta2 * v[i] + rest2 * (g * g)
        w[i] -= rate * (m[i] / (np.sqrt(v[i]) + epsilon) + decay * w[i])
