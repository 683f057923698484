"""The loss from its definition: means over masked positions and over tokens, 1 to 50."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_expit, log_softmax

from electra_ref.backends.reference import ReferenceBackend
from electra_ref.model.electra import total_loss
from electra_ref.model.objectives import LossCounts, count_losses
from electra_ref.model.parameters import FlatParameters
from tests.tiny_electra import forward_of, make_problem


def test_counts_are_of_used_slots_and_of_tokens() -> None:
    """Rows of 9, 6 and 1 tokens with 2, 2 and 1 masked; never zero, since the sums are divided."""
    masked = make_problem(0.5, seed=0, lengths=(9, 6, 1)).masked
    assert count_losses([masked]) == LossCounts(mlm=5, rtd=16)
    assert count_losses([masked, masked]) == LossCounts(mlm=10, rtd=32)
    assert count_losses([]) == LossCounts(mlm=1, rtd=1)


@pytest.mark.parametrize("seed", range(3))
def test_total_loss_is_the_definition(seed: int) -> None:
    """Slot by slot and token by token, with SciPy's logarithms."""
    problem = make_problem(0.5, seed)
    parameters = FlatParameters(problem.specs, problem.vector)
    output, _ = forward_of(problem, parameters, ReferenceBackend())
    masked, corrupted = problem.masked, problem.corrupted
    log_probabilities = log_softmax(output.generator_logits, axis=-1).reshape(3, 2, -1)
    mlm = [
        -log_probabilities[row, slot, masked.labels[row, slot]]
        for row, slot in zip(*np.nonzero(masked.weights), strict=True)
    ]
    logits = output.discriminator_logits.reshape(corrupted.replaced.shape)
    rtd = [
        -log_expit(logits[place] if corrupted.replaced[place] else -logits[place])
        for place in zip(*np.nonzero(masked.batch.attention_mask), strict=True)
    ]
    assert corrupted.replaced.any()
    assert float(output.mlm_loss) == pytest.approx(sum(mlm), rel=1e-13)
    assert float(output.rtd_loss) == pytest.approx(sum(rtd), rel=1e-13)
    loss = float(total_loss(problem.electra, output, count_losses([masked])))
    assert loss == pytest.approx(np.mean(mlm) + 50 * np.mean(rtd), rel=1e-13)
