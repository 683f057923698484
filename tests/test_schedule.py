"""The learning rate against its formula in extended precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.training.schedule import learning_rate
from tests.tiny_electra import tiny_config


@given(
    steps=st.integers(1, 10**6),
    warmup=st.integers(0, 10**6),
    step=st.integers(0, 2 * 10**6),
    power=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_matches_the_formula(steps: int, warmup: int, step: int, power: float) -> None:
    """Warm-up and decay multiply, and both count from step 0."""
    config = tiny_config(steps=steps, warmup_steps=warmup, lr_decay_power=power, learning_rate=5e-4)
    rate = np.longdouble(5e-4)
    rate *= (1 - np.longdouble(min(step, steps)) / steps) ** np.longdouble(power)
    if step < warmup:
        rate *= np.longdouble(step) / warmup
    # One rounding of step / steps, once magnified by 1 / (1 - step / steps) <= 1e6
    assert learning_rate(config, step) == pytest.approx(float(rate), rel=1e-9, abs=0)


def test_first_update_moves_nothing_and_the_peak_is_a_little_low() -> None:
    config = tiny_config(steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(102)]
    assert rates[0] == 0.0
    assert max(rates) == rates[10] == pytest.approx(0.9)
    assert rates[5] == pytest.approx(0.5 * 0.95)
    assert rates[100] == rates[101] == 0.0
    assert learning_rate(tiny_config(warmup_steps=0, learning_rate=1.0), 0) == 1.0
