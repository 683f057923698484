"""Every task head: its gradient, on two backends. Of those that read [CLS], the loss as well."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from electra_ref.arrays import Array
from electra_ref.backends import reference
from electra_ref.model.encoder import hidden_states
from electra_ref.model.heads.choice import ChoiceTargets
from electra_ref.model.heads.classification import LabelSetTargets, LabelTargets
from electra_ref.model.heads.regression import ScoreTargets
from electra_ref.model.objectives import fine_tuning
from electra_ref.model.parameters import FlatParameters
from electra_ref.model.passes import ForwardPass
from tests.head_cases import CASES_AND_FORMS, FORMS, FORMS_FOR_ROWS, problem_of
from tests.task_heads import (
    check_complex_step,
    check_cpu,
    check_finite_differences,
    check_micro_batches,
    part_of_batch,
)
from tests.variants import VariantProblem, gradients_of_variant, output_of

OF_CLS = ("labels", "label sets", "scores", "choices")
OF_CLS_AND_FORMS = [(name, form) for name in OF_CLS for form in FORMS_FOR_ROWS]


@pytest.mark.parametrize(("name", "form"), CASES_AND_FORMS)
@pytest.mark.parametrize(("scale", "seed"), [(0.02, 2), (0.5, 3)])
def test_gradient_of_every_tensor(name: str, form: str, scale: float, seed: int) -> None:
    check_complex_step(problem_of(name, form, scale=scale, seed=seed, num_hidden_layers=2), seed)


@pytest.mark.parametrize(("name", "form"), CASES_AND_FORMS)
def test_gradient_against_finite_differences(name: str, form: str) -> None:
    check_finite_differences(problem_of(name, form))


@pytest.mark.parametrize(("name", "form"), CASES_AND_FORMS)
def test_cpu_computes_the_same(name: str, form: str) -> None:
    check_cpu(problem_of(name, form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["labels", "label sets", "scores"])
def test_micro_batches_add_up(name: str, form: str) -> None:
    whole = problem_of(name, form)
    targets = whole.batch.targets
    halves = [slice(0, 2), slice(2, 4)]  # the first one has a row that does not count
    parts = [
        part_of_batch(whole.batch, rows, type(targets)(*(array[rows] for array in targets)))
        for rows in halves
    ]
    check_micro_batches(parts, whole)


def test_micro_batches_of_questions_add_up() -> None:
    whole = problem_of("choices", "original")
    first = ChoiceTargets(*(array[:1] for array in whole.batch.targets))
    second = ChoiceTargets(*(array[1:, ...] for array in whole.batch.targets))
    second = second._replace(rows=np.array([[0, 1, 2, 0]], np.int32))
    parts = [
        part_of_batch(whole.batch, slice(0, 4), first),
        part_of_batch(whole.batch, slice(4, 7), second),
    ]
    check_micro_batches(parts, whole)


def answers_of(problem: VariantProblem) -> npt.NDArray[np.float64]:
    run = ForwardPass(reference, FlatParameters(problem.specs, problem.vector), None)
    answers: npt.NDArray[np.float64] = fine_tuning.answer(run, problem.model, problem.batch)
    return answers


def log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    result: npt.NDArray[np.float64] = logits - np.log(np.exp(logits).sum())
    return result


def expected_loss(targets: Any, answers: npt.NDArray[np.float64]) -> float:
    """Return the sum of the losses, written again: a row or a question at a time."""
    total = 0.0
    for row, counts in enumerate(targets.weights):
        if not counts:
            continue
        if isinstance(targets, LabelTargets):
            total -= log_softmax(answers[row])[targets.labels[row]]
        elif isinstance(targets, LabelSetTargets):
            p = 1 / (1 + np.exp(-answers[row]))
            has = targets.has_label[row]
            total -= (has * np.log(p) + (1 - has) * np.log(1 - p)).sum()
        elif isinstance(targets, ScoreTargets):
            total += (answers[row] - targets.scores[row]) ** 2
        else:
            own = answers[targets.rows[row][targets.is_choice[row]]]
            total -= log_softmax(own)[targets.labels[row]]
    return float(total)


@pytest.mark.parametrize(("name", "form"), OF_CLS_AND_FORMS)
def test_loss_in_plain_numpy(name: str, form: str) -> None:
    """Answers of a pass without a stream are those of training: there is no dropout then."""
    problem = problem_of(name, form)._replace(stream=None)
    output = output_of(problem, problem.vector)
    (term,) = output.terms
    np.testing.assert_array_equal(output.answers, answers_of(problem))
    assert term.places == problem.batch.targets.weights.sum()
    assert term.weight == 3.0
    expected = expected_loss(problem.batch.targets, output.answers)
    np.testing.assert_allclose(term.sum, expected, rtol=1e-12)


@pytest.mark.parametrize("form", ["original", "layers"])
@pytest.mark.parametrize("name", OF_CLS)
def test_logits_in_plain_numpy(name: str, form: str) -> None:
    """An affine map of [CLS], or of the mean of all tokens and the sum of all layers.

    Padding does not count. Embeddings are an encoder without layers.
    """
    problem = problem_of(name, form)
    parameters = FlatParameters(problem.specs, problem.vector)
    run, encoder = ForwardPass(reference, parameters, None), problem.model.encoder
    lengths = problem.batch.attention_mask.sum(axis=1)

    def read_at(depth: int) -> Array:
        size = dataclasses.replace(encoder.size, num_hidden_layers=depth)
        hidden = hidden_states(run, encoder._replace(size=size), problem.batch.tokens)
        rows = hidden.reshape(len(problem.batch.input_ids), -1, 8)
        if form == "original":
            return rows[:, 0]
        return np.stack([row[:n].mean(axis=0) for row, n in zip(rows, lengths, strict=True)])

    depth = encoder.size.num_hidden_layers
    read = sum(map(read_at, [depth] if form == "original" else range(depth + 1)))
    logits = read @ parameters["task.output.weight"] + parameters["task.output.bias"]
    answers = answers_of(problem)
    np.testing.assert_allclose(answers, logits.reshape(answers.shape), rtol=1e-13)


@pytest.mark.parametrize(("name", "form"), OF_CLS_AND_FORMS)
def test_dropout_of_the_head_is_its_own(name: str, form: str) -> None:
    """With no other dropout, it changes the loss; at a rate of 0 it does not."""
    calm = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
    dropped = problem_of(name, form, **calm, head_dropout=0.5)
    same = problem_of(name, form, **calm, head_dropout=0.0)
    answers = output_of(dropped, dropped.vector).answers
    assert not np.array_equal(answers, answers_of(dropped))
    np.testing.assert_array_equal(output_of(same, same.vector).answers, answers_of(same))


def test_transformers_drops_nothing_before_the_summary_of_a_choice() -> None:
    problem = problem_of("choices", "huggingface")
    run = ForwardPass(reference, FlatParameters(problem.specs, problem.vector), problem.stream)
    cache = fine_tuning.forward(run, problem.model, problem.batch, problem.stream)[1]
    assert cache.head.logits.dropout.keep is None
    assert cache.head.logits.dense_dropout.keep is not None


@pytest.mark.parametrize("name", OF_CLS)
def test_rows_without_a_target_teach_nothing(name: str) -> None:
    problem = problem_of(name, "original")
    targets = problem.batch.targets
    none = targets._replace(weights=np.zeros_like(targets.weights))
    problem = problem._replace(batch=problem.batch._replace(targets=none))
    (term,) = output_of(problem, problem.vector).terms
    assert term.places == 0
    assert float(term.sum) == 0.0
    assert not gradients_of_variant(problem).vector.any()
