"""The loss from its definition: means over masked positions and over tokens, 1 to 50."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.special import log_expit, log_softmax

from electra_ref.backends import reference
from electra_ref.batch import Batch
from electra_ref.masking import mask_tokens
from electra_ref.model.encoder import encode, encode_backward, encoder_specs
from electra_ref.model.heads.vocabulary import (
    vocabulary_head,
    vocabulary_head_backward,
    vocabulary_head_specs,
)
from electra_ref.model.losses import (
    Counts,
    LossTerm,
    add_counts,
    add_terms,
    gradient_scale,
    mean_losses,
    total_loss,
)
from electra_ref.model.networks import Network, generator_of
from electra_ref.model.objectives import electra
from electra_ref.model.parameters import (
    FlatParameters,
    Gradients,
    ParameterSpec,
    initial_values,
    parameter_table,
)
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.rng import Purpose, RandomStream
from electra_ref.training.optimizer import TrainingState
from electra_ref.training.step import train_step
from tests.one_stage import OneStage
from tests.test_metamorphic import draw_rows
from tests.tiny_electra import (
    SPECIAL_TOKENS,
    forward_of,
    make_problem,
    tiny_config,
    tiny_model,
)


def test_counts_are_of_masked_positions_and_of_tokens() -> None:
    """They are known before anything is masked, and add up over micro-batches."""
    config = tiny_config(mask_probability=0.3)
    model, batch = tiny_model(config), draw_rows(6, config.max_length, seed=0)
    counts = electra.count_losses(model, batch)
    masked = mask_tokens(batch, model.special_tokens, 0.3, RandomStream(1, Purpose.MASK, 2))
    assert counts == {"mlm": masked.weights.sum(), "rtd": batch.attention_mask.sum()}
    assert add_counts([counts, counts]) == {name: 2 * count for name, count in counts.items()}


def test_terms_add_up_and_are_weighted_once() -> None:
    """2 (3 + 5) / (1 + 3) + 10 * 6 / 2 = 34, by hand; a term without places is 0."""
    parts = [
        [LossTerm("a", 3.0, 1, 2.0), LossTerm("b", 2.0, 1, 10.0)],
        [LossTerm("a", 5.0, 3, 2.0), LossTerm("b", 4.0, 1, 10.0)],
    ]
    terms = add_terms(parts)
    assert terms == [LossTerm("a", 8.0, 4, 2.0), LossTerm("b", 6.0, 2, 10.0)]
    assert mean_losses(terms) == {"a_loss": 2.0, "b_loss": 3.0}
    assert total_loss(terms) == 34.0
    assert gradient_scale(parts[0][0], {"a": 4, "b": 2}) == 0.5
    assert mean_losses([LossTerm("a", 0.0, 0, 2.0)]) == {"a_loss": 0.0}
    assert mean_losses([LossTerm("a", 3.0, 1, 2.0)]) == {"a_loss": 3.0}


@pytest.mark.parametrize("seed", range(3))
def test_total_loss_is_the_definition(seed: int) -> None:
    """Slot by slot and token by token, with SciPy's logarithms."""
    problem = make_problem(0.5, seed)
    parameters = FlatParameters(problem.specs, problem.vector)
    output, _ = forward_of(problem, parameters)
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
    terms = {term.name: float(term.sum) for term in output.terms}
    assert terms == {
        "mlm": pytest.approx(sum(mlm), rel=1e-13),
        "rtd": pytest.approx(sum(rtd), rel=1e-13),
    }
    loss = float(total_loss(output.terms))
    assert loss == pytest.approx(np.mean(mlm) + 50 * np.mean(rtd), rel=1e-13)


class GuessOutput(NamedTuple):
    """What the objective below yields."""

    terms: tuple[LossTerm, ...]


class GuessEverything(OneStage):
    """A small objective of its own: one encoder reads masked ids and guesses every token of a row.

    It is all that a new objective needs: parameters, counts, forward, backward.
    """

    def parameter_specs(self, model: Network) -> list[ParameterSpec]:
        return parameter_table([encoder_specs(model), vocabulary_head_specs(model)])

    def count_losses(self, model: Network, batch: Batch) -> Counts:
        del model
        return {"guess": int(batch.attention_mask.sum())}

    def forward(
        self, run: ForwardPass, model: Network, batch: Batch, stream: RandomStream
    ) -> tuple[GuessOutput, Any]:
        masked = mask_tokens(batch, SPECIAL_TOKENS, 0.4, stream)
        positions = np.broadcast_to(np.arange(batch.input_ids.shape[1]), batch.input_ids.shape)
        hidden, encoder = encode(run, model, batch._replace(input_ids=masked.masked_ids))
        logits, head = vocabulary_head(run, model, hidden, positions)
        labels, weights = batch.input_ids.reshape(-1), batch.attention_mask.reshape(-1)
        loss, cross_entropy = run.backend.softmax_cross_entropy(logits, labels, weights)
        term = LossTerm("guess", loss, int(weights.sum()), 2.0)
        return GuessOutput((term,)), (encoder, head, cross_entropy, term)

    def backward(self, run: BackwardPass, model: Network, counts: Counts, cache: Any) -> None:
        encoder, head, cross_entropy, term = cache
        scale = gradient_scale(term, counts)
        dlogits = run.backend.softmax_cross_entropy_backward(scale, cross_entropy)
        encode_backward(run, model, vocabulary_head_backward(run, model, dlogits, head), encoder)


def test_another_objective_is_one_module() -> None:
    """The same step trains it, and its gradient passes the complex step."""
    config = tiny_config(batch_size=4, warmup_steps=0, learning_rate=0.01)
    model, objective = generator_of(config), GuessEverything()
    batches = [draw_rows(2, config.max_length, seed) for seed in (0, 1)]
    specs = objective.parameter_specs(model)
    random = np.random.default_rng(0)
    start = initial_values(specs, 0, 0.3) + 0.05 * random.standard_normal(size_of(specs))
    state = TrainingState(reference, specs, start.copy())
    results = [train_step(config, reference, objective, model, state, batches) for _ in range(30)]
    assert list(results[0].losses) == ["guess_loss"]
    assert results[-1].losses["guess_loss"] < 0.9 * results[0].losses["guess_loss"]

    stream, direction = RandomStream(0, Purpose.MASK, 7), random.standard_normal(start.size)
    moved = FlatParameters(specs, start + 1e-30j * direction)
    output, _ = objective.forward(ForwardPass(reference, moved, stream), model, batches[0], stream)
    exact = float(np.imag(total_loss(output.terms))) / 1e-30
    gradients = Gradients(specs, np.full_like(start, np.nan))
    run = ForwardPass(reference, FlatParameters(specs, start), stream)
    _, cache = objective.forward(run, model, batches[0], stream)
    counts = objective.count_losses(model, batches[0])
    objective.backward(BackwardPass(reference, gradients), model, counts, cache)
    assert gradients.vector @ direction == pytest.approx(exact, rel=1e-12)


def size_of(specs: list[ParameterSpec]) -> int:
    """Return the number of parameters."""
    return sum(int(np.prod(spec.shape)) for spec in specs)
