"""Each setting of sampling reaches the function that it is meant for, with its own value."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from electra_ref.backends import reference
from electra_ref.gumbel import gumbel_noise, sample_with_noise
from electra_ref.masking import MaskedBatch
from electra_ref.model.generation import sample
from electra_ref.model.parameters import FlatParameters
from electra_ref.model.passes import ForwardPass
from electra_ref.rng import Purpose, RandomStream
from electra_ref.sampling import forbid, sample_tokens
from electra_ref.uniform_draws import draw_uniform, explore
from tests.tiny_electra import SPECIAL_TOKENS, VOCAB_SIZE, draw_masked_batch, tiny_config

ROWS, SLOTS = 60, 2
STREAM = RandomStream(7, Purpose.MASK, 3)
Ids = npt.NDArray[np.int32]


def drawn(masked: MaskedBatch, logits: Any, **settings: Any) -> Ids:
    """Return the ids that the model samples, (B M,)."""
    config = tiny_config(**settings)
    run = ForwardPass(reference, FlatParameters([], np.zeros(0)), None)
    samples = sample(run, config, SPECIAL_TOKENS, masked, logits, STREAM, VOCAB_SIZE)
    return samples.corrupted.sampled_ids.reshape(-1)


@pytest.fixture
def masked() -> MaskedBatch:
    return draw_masked_batch(tiny_config(), np.random.default_rng(0), (9,) * ROWS)


@pytest.fixture
def logits() -> npt.NDArray[np.float64]:
    return 2.0 * np.random.default_rng(1).standard_normal((ROWS * SLOTS, VOCAB_SIZE))


@pytest.mark.parametrize("temperature", [0.6, 1.7])
@pytest.mark.parametrize("exploration", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("forbids", [False, True])
def test_temperature_exploration_and_the_forbidden_original(
    temperature: float, exploration: float, forbids: bool, masked: MaskedBatch, logits: Any
) -> None:
    originals = masked.labels.reshape(-1)
    excluded = originals if forbids else None
    allowed = forbid(logits, originals) if forbids else logits
    expected = sample_tokens(allowed, temperature, STREAM, SLOTS)
    if exploration:
        rest = STREAM, SLOTS, VOCAB_SIZE, SPECIAL_TOKENS, excluded
        expected = explore(expected, exploration, *rest)
    ids = drawn(masked, logits, temperature=temperature, exploration=exploration,
                disallow_correct=forbids)  # fmt: skip
    np.testing.assert_array_equal(ids, expected)
    assert (ids == originals).any() != forbids


@pytest.mark.parametrize("forbids", [False, True])
def test_uniform_samples(forbids: bool, masked: MaskedBatch) -> None:
    originals = masked.labels.reshape(-1)
    rest = SLOTS, VOCAB_SIZE, SPECIAL_TOKENS, originals if forbids else None
    ids = drawn(masked, None, uniform_generator=True, disallow_correct=forbids)
    np.testing.assert_array_equal(ids, draw_uniform(STREAM, originals.size, *rest))
    assert (ids == originals).any() != forbids


@pytest.mark.parametrize("temperature", [0.6, 1.7])
def test_samples_of_the_relaxation_are_those_of_its_noise(
    temperature: float, masked: MaskedBatch, logits: Any
) -> None:
    noise = gumbel_noise(STREAM, ROWS * SLOTS, SLOTS, VOCAB_SIZE, np.float64)
    ids = drawn(masked, logits, temperature=temperature, adversarial="gumbel-softmax")
    np.testing.assert_array_equal(ids, sample_with_noise(logits, temperature, noise))
