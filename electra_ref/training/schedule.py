"""The learning rate as a function of the step alone.

    lr(t) = peak * min(1, t / warmup) * (1 - min(t, steps) / steps)^power

Warm-up and decay multiply: the decay runs from step 0, so the peak is a little below
``learning_rate``. t counts from 0, so the first update moves nothing but the moments.
Source: google-research/electra model/optimization.py (``create_optimizer``).
"""

from __future__ import annotations

from electra_ref.config.training import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """Return the learning rate of the update number ``step``, counted from 0."""
    decay: float = (1.0 - min(step, config.steps) / config.steps) ** config.lr_decay_power
    warmup = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    return config.learning_rate * warmup * decay
