"""The statistical tests can fail, and they refuse to run with too few trials."""

from __future__ import annotations

import numpy as np
import pytest

from tests.proportions import assert_proportions

P = np.array([0.5, 0.3, 0.2])


def test_right_frequencies_pass() -> None:
    counts = np.random.default_rng(0).multinomial(200_000, P)
    assert_proportions(counts, 200_000, P, detect=0.05)


@pytest.mark.parametrize("bias", [-0.05, 0.05])
def test_a_bias_of_the_stated_size_is_found(bias: float) -> None:
    biased = np.array([P[0] - bias * P[2], P[1], P[2] * (1 + bias)])
    counts = np.random.default_rng(0).multinomial(200_000, biased)
    with pytest.raises(AssertionError, match="expected"):
        assert_proportions(counts, 200_000, P, detect=0.05)


def test_too_few_trials_are_refused() -> None:
    with pytest.raises(AssertionError, match="too few"):
        assert_proportions([5000, 3000, 2000], 10_000, P, detect=0.05)
