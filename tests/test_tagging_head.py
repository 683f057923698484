"""The head that tags words: its loss in plain NumPy, its gradient by the complex step."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from electra_ref.backends import reference
from electra_ref.batch import Batch
from electra_ref.model.encoder import hidden_states
from electra_ref.model.heads.tagging import TagTargets
from electra_ref.model.objectives import fine_tuning
from electra_ref.model.parameters import FlatParameters
from electra_ref.model.passes import ForwardPass
from tests.task_heads import (
    check_complex_step,
    check_cpu,
    check_finite_differences,
    check_micro_batches,
    make_head_problem,
    part_of_batch,
)
from tests.variants import VariantProblem, gradients_of_variant, output_of

FORMS = ("original", "huggingface")
TAGS = 4
POSITIONS = np.array([[1, 3, 4, 7], [2, 4, 0, 0], [0, 0, 0, 0], [1, 2, 5, 0]], np.int32)
IS_WORD = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]], bool)
NO_TAG = (0, 2)  # a word whose tag is not known


def draw_tags(random: np.random.Generator, tokens: Batch) -> TagTargets:
    """Return tags for words of rows of 9, 6, 1 and 7 tokens; one row has no word."""
    assert tokens.attention_mask.sum(axis=1).tolist() == [9, 6, 1, 7]
    weights = IS_WORD.copy()
    weights[NO_TAG] = False
    labels = np.where(weights, random.integers(0, TAGS, weights.shape), 0).astype(np.int32)
    return TagTargets(POSITIONS, labels, weights)


def problem_of(form: str, **changes: Any) -> VariantProblem:
    return make_head_problem("tagging", form, TAGS, draw_tags, **changes)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("scale", "seed"), [(0.02, 2), (0.5, 3)])
def test_gradient_of_every_tensor(form: str, scale: float, seed: int) -> None:
    check_complex_step(problem_of(form, scale=scale, seed=seed, num_hidden_layers=2), seed)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_without_dropout(form: str) -> None:
    calm = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "head_dropout": 0.0}
    check_complex_step(problem_of(form, **calm))


@pytest.mark.parametrize("form", FORMS)
def test_gradient_against_finite_differences(form: str) -> None:
    check_finite_differences(problem_of(form))


@pytest.mark.parametrize("form", FORMS)
def test_cpu_computes_the_same(form: str) -> None:
    check_cpu(problem_of(form))


@pytest.mark.parametrize("form", FORMS)
def test_micro_batches_add_up(form: str) -> None:
    """The second half needs fewer slots than the first."""
    whole = problem_of(form)
    positions, labels, weights = whole.batch.targets
    parts = [
        part_of_batch(
            whole.batch,
            rows,
            TagTargets(positions[rows, :slots], labels[rows, :slots], weights[rows, :slots]),
        )
        for rows, slots in [(slice(0, 2), 4), (slice(2, 4), 3)]
    ]
    check_micro_batches(parts, whole)


def test_a_batch_without_a_tag_has_no_gradient() -> None:
    problem = problem_of("original")
    targets = problem.batch.targets
    batch = problem.batch._replace(targets=targets._replace(weights=np.zeros_like(IS_WORD)))
    problem = problem._replace(batch=batch)
    (term,) = output_of(problem, problem.vector).terms
    assert (float(term.sum), term.places) == (0.0, 0)
    assert not gradients_of_variant(problem).vector.any()


@pytest.mark.parametrize("form", FORMS)
def test_logits_and_loss_in_plain_numpy(form: str) -> None:
    """A word at a time; without dropout the forms are the same map of the first piece."""
    problem = problem_of(form)._replace(stream=None)
    parameters = FlatParameters(problem.specs, problem.vector)
    run = ForwardPass(reference, parameters, None)
    hidden = hidden_states(run, problem.model.encoder, problem.batch.tokens).reshape(4, 9, 8)
    output = output_of(problem, problem.vector)
    answers: npt.NDArray[np.float64] = output.answers.reshape(4, 4, TAGS)
    loss = 0.0
    for row, slot in np.argwhere(IS_WORD):
        state = hidden[row, POSITIONS[row, slot]]
        logits = state @ parameters["task.output.weight"] + parameters["task.output.bias"]
        np.testing.assert_allclose(answers[row, slot], logits, rtol=1e-12)
        if (row, slot) != NO_TAG:
            label = problem.batch.targets.labels[row, slot]
            loss -= float(np.log(np.exp(logits[label]) / np.exp(logits).sum()))
    (term,) = output.terms
    np.testing.assert_allclose(term.sum, loss, rtol=1e-12)
    assert (term.name, term.places, term.weight) == ("tagging", 8, 3.0)
    np.testing.assert_array_equal(
        output.answers, fine_tuning.answer(run, problem.model, problem.batch)
    )


def test_only_the_head_of_hugging_face_drops() -> None:
    """It changes the logits where nothing else drops; the bits of a row are those of its slots."""
    calm = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "head_dropout": 0.5}
    for form in FORMS:
        problem = problem_of(form, **calm)
        dropped = output_of(problem, problem.vector).answers
        kept = output_of(problem._replace(stream=None), problem.vector).answers
        assert np.array_equal(dropped, kept) == (form == "original")


def test_head_of_hugging_face_begins_smaller() -> None:
    """Glorot's range follows from the shape; transformers draws with initializer_range."""
    specs = {
        form: next(one for one in problem_of(form).specs if one.name == "task.output.weight")
        for form in FORMS
    }
    assert specs["original"].initializer == "glorot_uniform"
    assert specs["huggingface"].initializer == "truncated_normal"
