"""Relations between whole runs: what must change with the input, and what must not.

Results must be equal bit for bit if the same sums are taken in the same order, and to 1e-12 if they
are taken in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest

from electra_ref.backends import reference
from electra_ref.batch import Batch
from electra_ref.masking import MaskedBatch
from electra_ref.model.losses import mean_losses
from electra_ref.model.objectives import electra
from electra_ref.model.objectives.output import Output
from electra_ref.model.parameters import FlatParameters
from electra_ref.sampling import corrupt
from electra_ref.training.optimizer import TrainingState
from electra_ref.training.step import StepResult, train_step
from tests.gradient_checks import Array
from tests.tiny_electra import (
    SPECIAL_TOKENS,
    VOCAB_SIZE,
    Problem,
    forward_of,
    gradients_of,
    loss_of,
    make_problem,
    tiny_config,
    tiny_model,
    tiny_state,
)

SEEDS = range(3)


def output_of(problem: Problem) -> Output:
    """Return logits and losses."""
    parameters = FlatParameters(problem.specs, problem.vector)
    return forward_of(problem, parameters)[0]


def with_batch(problem: Problem, change: Callable[[Array], Array]) -> Problem:
    """Return ``problem`` with ``change`` applied to every (B, ...) array of its batch."""
    masked = problem.masked
    batch = Batch(*(change(array) for array in masked.batch))
    others = (change(array) for array in masked[1:])
    return replaced(problem, MaskedBatch(batch, *others), change(problem.corrupted.sampled_ids))


def replaced(problem: Problem, masked: MaskedBatch, sampled_ids: Array) -> Problem:
    """Return ``problem`` with another batch, corrupted by ``sampled_ids``."""
    return problem._replace(masked=masked, corrupted=corrupt(masked, sampled_ids))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_padding_holds_changes_nothing(seed: int) -> None:
    """Other ids and segments there: the same bits in the logits of tokens and in all gradients."""
    problem = make_problem(0.5, seed)
    random = np.random.default_rng(seed)
    masked, is_token = problem.masked, problem.masked.batch.attention_mask
    ids, types, masked_ids = (
        np.where(is_token, array, random.integers(0, high, array.shape)).astype(np.int32)
        for array, high in (
            (masked.batch.input_ids, VOCAB_SIZE),
            (masked.batch.token_type_ids, 2),
            (masked.masked_ids, VOCAB_SIZE),
        )
    )
    assert (ids != masked.batch.input_ids).any()
    other = replaced(
        problem,
        masked._replace(batch=Batch(ids, types, is_token), masked_ids=masked_ids),
        problem.corrupted.sampled_ids,
    )
    got, wanted = output_of(other), output_of(problem)
    used = masked.weights.reshape(-1)
    np.testing.assert_array_equal(got.generator_logits[used], wanted.generator_logits[used])
    tokens = is_token.reshape(-1)
    np.testing.assert_array_equal(
        got.discriminator_logits[tokens], wanted.discriminator_logits[tokens]
    )
    assert got.terms == wanted.terms
    np.testing.assert_array_equal(gradients_of(other).vector, gradients_of(problem).vector)


def test_a_word_that_only_padding_holds_learns_nothing() -> None:
    """Its row gets no gradient from being read; positions behind the longest row get none."""
    problem = make_problem(0.5, seed=4, lengths=(6, 5, 1), generator_weight=0.0)
    words = np.maximum(problem.corrupted.sampled_ids, 5)
    problem = replaced(problem, problem.masked, words)
    gradients = gradients_of(problem)
    assert (problem.corrupted.corrupted_ids == 0).any()
    assert not gradients["embeddings.word_embeddings.weight"][0].any()
    assert not gradients["embeddings.position_embeddings.weight"][6:].any()
    assert gradients["embeddings.position_embeddings.weight"][:6].all()


@pytest.mark.parametrize("seed", SEEDS)
def test_longer_padding_changes_nothing(seed: int) -> None:
    problem = make_problem(0.5, seed, max_length=8, lengths=(8, 3), stream=None)

    def pad(array: Array) -> Array:
        is_row = array.shape[1] == 8
        return np.pad(array, ((0, 0), (0, 2))) if is_row else array

    longer = with_batch(problem, pad)
    assert longer.masked.batch.input_ids.shape == (2, 10)
    assert_close(gradients_of(longer).vector, gradients_of(problem).vector)


@pytest.mark.parametrize("seed", SEEDS)
def test_order_of_the_rows_changes_no_row(seed: int) -> None:
    """Outputs move with their rows, bit for bit; gradients are summed in another order."""
    problem = make_problem(0.5, seed, lengths=(9, 6, 1, 7), stream=None)
    order = np.random.default_rng(seed).permutation(4)
    other = with_batch(problem, lambda array: array[order])
    got, wanted = output_of(other), output_of(problem)
    for name in ("generator_logits", "discriminator_logits"):
        rows = getattr(wanted, name).reshape(4, -1)
        assert_close(getattr(got, name).reshape(4, -1), rows[order], 1e-14)
    assert_close(gradients_of(other).vector, gradients_of(problem).vector)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_batch_twice_has_the_same_loss(seed: int) -> None:
    problem = make_problem(0.5, seed, stream=None)
    twice = with_batch(problem, lambda array: np.concatenate([array, array]))
    assert_close(gradients_of(twice).vector, gradients_of(problem).vector)


@pytest.mark.parametrize("seed", SEEDS)
def test_names_of_words_do_not_matter(seed: int) -> None:
    """Ids relabelled, rows of table and bias moved along: logits move along, losses stay."""
    problem = make_problem(0.5, seed)
    new_id = np.random.default_rng(seed).permutation(VOCAB_SIZE).astype(np.int32)
    masked = problem.masked
    relabelled = masked._replace(
        batch=masked.batch._replace(input_ids=new_id[masked.batch.input_ids]),
        masked_ids=new_id[masked.masked_ids],
        labels=new_id[masked.labels],
    )
    vector = problem.vector.copy()
    flat = FlatParameters(problem.specs, vector)
    for name in ("embeddings.word_embeddings.weight", "generator.head.output.bias"):
        flat[name][new_id] = flat[name].copy()
    other = replaced(problem, relabelled, new_id[problem.corrupted.sampled_ids])
    other = other._replace(vector=vector)
    got, wanted = output_of(other), output_of(problem)
    assert_close(got.generator_logits[:, new_id], wanted.generator_logits, 1e-14)
    assert_close(got.discriminator_logits, wanted.discriminator_logits, 1e-14)
    gradients, others = gradients_of(problem), gradients_of(other)
    table = "embeddings.word_embeddings.weight"
    assert_close(others[table][new_id], gradients[table])


@pytest.mark.parametrize("seed", SEEDS)
def test_bias_of_the_key_does_nothing(seed: int) -> None:
    """It adds the same number to all scores of a row, which softmax does not see."""
    problem = make_problem(0.5, seed)
    moved = FlatParameters(problem.specs, problem.vector.copy())
    for name, view in moved.views.items():
        if name.endswith("query_key_value.bias"):
            key = np.split(view, 3)[1]
            key += 3.0
    assert_close(loss_of(problem, moved.vector), loss_of(problem, problem.vector), 1e-13)


@pytest.mark.parametrize("position", [0, 4, 8])
def test_every_token_sees_every_token(position: int) -> None:
    """Both networks are bidirectional: another word anywhere changes the logits everywhere."""
    problem = make_problem(0.5, seed=6, lengths=(9,), num_hidden_layers=1, stream=None)
    ids = problem.masked.batch.input_ids.copy()
    ids[0, position] = 5 + (ids[0, position] - 4) % 8
    masked_ids = problem.masked.masked_ids.copy()
    masked_ids[0, position] = ids[0, position]
    masked = problem.masked._replace(
        batch=problem.masked.batch._replace(input_ids=ids), masked_ids=masked_ids
    )
    weights = np.zeros_like(masked.weights)  # nothing replaced: the discriminator reads ids
    other = replaced(problem, masked._replace(weights=weights), problem.corrupted.sampled_ids)
    same = replaced(
        problem, problem.masked._replace(weights=weights), problem.corrupted.sampled_ids
    )
    got, wanted = output_of(other), output_of(same)
    assert (got.discriminator_logits != wanted.discriminator_logits).all()
    assert (got.generator_logits != wanted.generator_logits).all()


def draw_rows(rows: int, length: int, seed: int) -> Batch:
    """Return rows as packing makes them: [CLS] words [SEP], then padding."""
    random = np.random.default_rng(seed)
    ids = random.integers(5, VOCAB_SIZE, (rows, length)).astype(np.int32)
    lengths = random.integers(4, length + 1, rows)[:, None]
    columns = np.arange(length)
    ids[:, 0] = SPECIAL_TOKENS.cls
    ids[columns == lengths - 1] = SPECIAL_TOKENS.sep
    ids[columns >= lengths] = SPECIAL_TOKENS.pad
    types = ((columns > 3) & (columns < lengths)).astype(np.int32)
    return Batch(ids, types, columns < lengths)


def train(micro_batches: int) -> tuple[TrainingState, list[StepResult]]:
    """Train a few steps in float64, each step on twelve rows in ``micro_batches`` pieces."""
    config = tiny_config(batch_size=12, seed=7, warmup_steps=1, learning_rate=0.01)
    state = tiny_state(config, "float64")
    results = []
    for step in range(3):
        batch = draw_rows(12, config.max_length, seed=step)
        columns = (split(array, micro_batches) for array in batch)
        pieces = [Batch(*parts) for parts in zip(*columns, strict=True)]
        results.append(train_step(config, reference, electra, tiny_model(config), state, pieces))
    return state, results


def figures_of(result: StepResult) -> Array:
    """Return all numbers of a result."""
    return np.array([*result.losses.values(), *(x for x in result if isinstance(x, float | int))])


def split(array: Array, pieces: int) -> list[Array]:
    """Cut an array into pieces of unequal length."""
    ends = np.linspace(0, len(array) ** 2, pieces + 1)[1:-1] ** 0.5
    return np.split(array, ends.astype(int))


@pytest.mark.parametrize("micro_batches", [2, 3, 5])
def test_micro_batches_train_as_one_batch_does(micro_batches: int) -> None:
    """Masks, samples and dropout are those of the row, sums are divided once: 1e-12."""
    whole, results = train(1)
    parts, others = train(micro_batches)
    assert_close(parts.parameters.vector, whole.parameters.vector)
    assert_close(parts.first_moment.vector, whole.first_moment.vector)
    for result, other in zip(results, others, strict=True):
        assert_close(figures_of(other), figures_of(result))
    assert whole.step == parts.step == 3


def test_number_of_threads_changes_no_bit() -> None:
    """Masks, samples and dropout come from counters, whoever fills them in."""
    vectors = []
    before = numba.get_num_threads()
    try:
        for threads in (1, before):
            numba.set_num_threads(threads)
            vectors.append(train(2)[0].parameters.vector)
    finally:
        numba.set_num_threads(before)
    np.testing.assert_array_equal(vectors[0], vectors[1])


def assert_close(got: Any, wanted: Any, tolerance: float = 1e-12) -> None:
    """Assert equality relative to the largest element."""
    assert np.shape(got) == np.shape(wanted)
    assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()


def test_gradients_of_an_empty_objective_are_zero() -> None:
    """No position masked: the MLM loss is 0, and so are all gradients of the generator."""
    problem = make_problem(0.5, seed=9)
    masked = problem.masked._replace(weights=np.zeros_like(problem.masked.weights))
    empty = replaced(problem, masked, problem.corrupted.sampled_ids)
    assert mean_losses(output_of(empty).terms)["mlm_loss"] == 0.0
    gradients = gradients_of(empty)
    assert np.isfinite(gradients.vector).all()
    for name, view in gradients.views.items():
        assert not (name.startswith("generator.") and view.any())
