"""One training step: what it reports, what it changes, what a bad one leaves unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from electra_ref.backends import reference
from electra_ref.batch import Batch
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.masking import mask_tokens
from electra_ref.model.objectives import electra
from electra_ref.rng import EVALUATION, Purpose, RandomStream
from electra_ref.sampling import sample_tokens
from electra_ref.training.optimizer import TrainingState
from electra_ref.training.pretraining.task import evaluate_batch
from electra_ref.training.schedule import learning_rate
from electra_ref.training.step import StepResult, train_step
from tests.one_stage import OneStage
from tests.test_metamorphic import draw_rows
from tests.tiny_electra import SPECIAL_TOKENS, tiny_config, tiny_model, tiny_state


def take_step(config: PretrainingConfig, state: TrainingState, seed: int = 0) -> StepResult:
    """Train on six drawn rows."""
    batch = draw_rows(6, config.max_length, seed)
    return train_step(config, reference, electra, tiny_model(config), state, [batch])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_reports_means_and_keeps_the_float_type(dtype: str) -> None:
    config = tiny_config(warmup_steps=2, learning_rate=0.01, batch_size=6)
    state = tiny_state(config, dtype)
    results = [take_step(config, state) for _ in range(3)]
    for number, result in enumerate(results):
        assert result.loss == pytest.approx(
            result.losses["mlm_loss"] + 50 * result.losses["rtd_loss"]
        )
        assert result.learning_rate == learning_rate(config, number)
        assert result.tokens == draw_rows(6, config.max_length, 0).attention_mask.sum()
        assert result.losses["mlm_loss"] == pytest.approx(np.log(config.vocab_size), abs=0.5)
        assert result.losses["rtd_loss"] == pytest.approx(np.log(2), abs=0.2)
    assert len({result.losses["mlm_loss"] for result in results}) == 3  # other masks at every step
    assert state.step == 3
    for flat in (state.parameters, state.first_moment, state.second_moment):
        assert flat.vector.dtype == dtype
        assert np.isfinite(flat.vector).all()


def test_steps_on_the_same_rows_learn_them() -> None:
    """Without dropout, a hundred steps bring both losses down: the signs are right."""
    config = tiny_config(
        hidden_dropout=0.0,
        attention_dropout=0.0,
        warmup_steps=5,
        learning_rate=0.05,
        steps=1000,
        weight_decay=0.0,
        initializer_range=0.3,
    )
    state = tiny_state(config, "float64")
    results = [take_step(config, state) for _ in range(100)]
    first, last = (
        np.mean([list(r.losses.values()) for r in part], axis=0)
        for part in (results[:10], results[-10:])
    )
    assert (last < 0.9 * first).all()


def test_a_step_is_a_function_of_its_number() -> None:
    """A state that is copied takes the same step: no random number is carried along."""
    config = tiny_config(warmup_steps=1, learning_rate=0.01)
    state, other = (tiny_state(config, "float64") for _ in range(2))
    take_step(config, state)
    for name in ("parameters", "first_moment", "second_moment"):
        getattr(other, name).vector[...] = getattr(state, name).vector
    other.step = state.step
    assert take_step(config, state, seed=1) == take_step(config, other, seed=1)
    np.testing.assert_array_equal(state.parameters.vector, other.parameters.vector)


def test_a_step_that_is_not_finite_changes_nothing_but_the_gradients() -> None:
    config = tiny_config()
    state = tiny_state(config, "float64")
    take_step(config, state)
    state.parameters["discriminator.head.output.bias"][...] = np.nan
    before = [flat.vector.copy() for flat in (state.parameters, state.first_moment)]
    result = take_step(config, state)
    assert np.isnan(result.losses["rtd_loss"])
    assert np.isnan(result.gradient_norm)
    assert np.isfinite(result.losses["mlm_loss"])
    for flat, vector in zip((state.parameters, state.first_moment), before, strict=True):
        np.testing.assert_array_equal(flat.vector, vector)
    assert state.step == 1


class BrokenLoss(OneStage):
    """ELECTRA with one loss that is not finite in one micro-batch, though its gradient is."""

    parameter_specs = staticmethod(electra.parameter_specs)
    count_losses = staticmethod(electra.count_losses)
    backward = staticmethod(electra.backward)

    def __init__(self, value: float, first_example: int) -> None:
        self.value, self.first_example = value, first_example

    def forward(self, run: Any, model: Any, batch: Batch, stream: RandomStream) -> Any:
        output, cache = electra.forward(run, model, batch, stream)
        if stream.first_example == self.first_example:
            first, last = output.terms
            output = output._replace(terms=(first, last._replace(sum=self.value)))
        return output, cache


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("first_example", [0, 2, 4])
def test_a_loss_that_is_not_finite_changes_nothing_either(value: float, first_example: int) -> None:
    """Its gradient may be finite: the two are computed by different formulas."""
    config = tiny_config(warmup_steps=0, learning_rate=0.01)
    state, model = tiny_state(config, "float64"), tiny_model(config)
    take_step(config, state)
    flats = (state.parameters, state.first_moment, state.second_moment)
    before = [flat.vector.copy() for flat in flats]
    batches = [draw_rows(2, config.max_length, seed) for seed in range(3)]
    objective = BrokenLoss(value, first_example)
    result = train_step(config, reference, objective, model, state, batches)
    assert not np.isfinite(result.loss)
    assert 0 < result.gradient_norm < np.inf
    for flat, vector in zip(flats, before, strict=True):
        np.testing.assert_array_equal(flat.vector, vector)
    assert state.step == 1
    again = train_step(config, reference, electra, model, state, batches)  # nothing is carried over
    assert np.isfinite(again.loss)
    assert again.gradient_norm == result.gradient_norm
    assert state.step == 2


def test_evaluation_repeats_itself_and_changes_nothing() -> None:
    config = tiny_config()
    state = tiny_state(config, "float64")
    before = state.parameters.vector.copy()
    batch = draw_rows(4, config.max_length, 0)

    def evaluate(number: int) -> tuple[np.ndarray, np.ndarray]:
        output = evaluate_batch(
            config, reference, tiny_model(config), state.parameters, batch, number
        )
        return output.discriminator_logits, output.masked.positions

    (logits, positions), (again, _), (_, others) = evaluate(3), evaluate(3), evaluate(4)
    np.testing.assert_array_equal(logits, again)
    np.testing.assert_array_equal(state.parameters.vector, before)
    assert (positions != others).any()


def test_evaluation_draws_other_numbers_than_training() -> None:
    """The same step number, the same rows: other masks and, from the same logits, other samples."""
    config = tiny_config(max_length=9)
    batch = draw_rows(50, config.max_length, 0)
    training = RandomStream(config.seed, Purpose.MASK, 3)
    evaluation = RandomStream(config.seed, Purpose.MASK | EVALUATION, 3)
    masks = [mask_tokens(batch, SPECIAL_TOKENS, 0.3, stream) for stream in (training, evaluation)]
    assert (masks[0].positions != masks[1].positions).any()
    logits = np.zeros((masks[0].positions.size, config.vocab_size))
    slots = masks[0].positions.shape[1]
    samples = [sample_tokens(logits, 1.0, stream, slots) for stream in (training, evaluation)]
    assert (samples[0] != samples[1]).any()
