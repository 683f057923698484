"""The head that tags words: its loss in plain NumPy. ``test_task_heads`` proves its gradient."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from electra_ref.backends import reference
from electra_ref.model.encoder import hidden_states
from electra_ref.model.heads.tagging import TagTargets
from electra_ref.model.objectives import fine_tuning
from electra_ref.model.parameters import FlatParameters
from electra_ref.model.passes import ForwardPass
from tests.head_cases import FORMS, IS_WORD, LABELS, TAG_POSITIONS, WITHOUT_TAG, problem_of
from tests.task_heads import check_complex_step, check_micro_batches, part_of_batch
from tests.variants import gradients_of_variant, output_of


@pytest.mark.parametrize("form", FORMS)
def test_gradient_without_dropout(form: str) -> None:
    rates = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "head_dropout": 0.0}
    check_complex_step(problem_of("tags", form, **rates))


@pytest.mark.parametrize("form", FORMS)
def test_micro_batches_add_up(form: str) -> None:
    """The second one has fewer slots than the first."""
    whole = problem_of("tags", form)
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
    problem = problem_of("tags", "original")
    targets = problem.batch.targets._replace(weights=np.zeros_like(IS_WORD))
    problem = problem._replace(batch=problem.batch._replace(targets=targets))
    (term,) = output_of(problem, problem.vector).terms
    assert (float(term.sum), term.places) == (0.0, 0)
    assert not gradients_of_variant(problem).vector.any()


@pytest.mark.parametrize("form", FORMS)
def test_logits_and_loss_in_plain_numpy(form: str) -> None:
    """A word at a time; without dropout the forms are the same map of the first piece."""
    problem = problem_of("tags", form)._replace(stream=None)
    parameters = FlatParameters(problem.specs, problem.vector)
    run = ForwardPass(reference, parameters, None)
    hidden = hidden_states(run, problem.model.encoder, problem.batch.tokens).reshape(4, 9, 8)
    output = output_of(problem, problem.vector)
    answers: npt.NDArray[np.float64] = output.answers.reshape(4, 4, LABELS)
    loss = 0.0
    for row, slot in np.argwhere(IS_WORD):
        state = hidden[row, TAG_POSITIONS[row, slot]]
        logits = state @ parameters["task.output.weight"] + parameters["task.output.bias"]
        np.testing.assert_allclose(answers[row, slot], logits, rtol=1e-12)
        if (row, slot) != WITHOUT_TAG:
            label = problem.batch.targets.labels[row, slot]
            loss -= float(np.log(np.exp(logits[label]) / np.exp(logits).sum()))
    (term,) = output.terms
    np.testing.assert_allclose(term.sum, loss, rtol=1e-12)
    assert (term.name, term.places, term.weight) == ("tagging", 8, 3.0)
    np.testing.assert_array_equal(
        output.answers, fine_tuning.answer(run, problem.model, problem.batch)
    )


def test_only_the_head_of_hugging_face_drops() -> None:
    """It changes the logits where nothing else drops."""
    rates = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "head_dropout": 0.5}
    for form in FORMS:
        problem = problem_of("tags", form, **rates)
        dropped = output_of(problem, problem.vector).answers
        kept = output_of(problem._replace(stream=None), problem.vector).answers
        assert np.array_equal(dropped, kept) == (form == "original")


def test_head_of_hugging_face_begins_smaller() -> None:
    """Glorot's range follows from the shape; transformers draws with initializer_range."""
    initializers = {
        form: next(
            one.initializer
            for one in problem_of("tags", form).specs
            if one.name == "task.output.weight"
        )
        for form in FORMS
    }
    assert initializers == {"original": "glorot_uniform", "huggingface": "truncated_normal"}
