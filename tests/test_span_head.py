"""The head that finds answers: its gradients, its loss again in plain NumPy, its beam."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.special

from electra_ref.backends import cpu, gpu, reference
from electra_ref.batch import Batch
from electra_ref.model.encoder import encode
from electra_ref.model.heads import pooling, span
from electra_ref.model.heads.joint_span import Beam
from electra_ref.model.heads.span import SpanLogits
from electra_ref.model.labelled import LabelledBatch
from electra_ref.model.losses import add_counts, add_terms, total_loss
from electra_ref.model.objectives import fine_tuning
from electra_ref.model.parameters import FlatParameters, Gradients, initial_values
from electra_ref.model.passes import BackwardPass, ForwardPass
from tests import stand_in_cupy
from tests.gradient_checks import check_vjp, complex_step, finite_difference
from tests.head_cases import FORMS
from tests.span_problems import (
    CONTEXTS,
    LENGTHS,
    OPTIONS,
    SHIFTS,
    TARGETS,
    span_problem,
)
from tests.test_electra_gradients import assert_small
from tests.tiny_electra import remembering_backend
from tests.variants import (
    VariantProblem,
    derivative_along,
    gradients_of_variant,
    output_of,
    worst_errors,
)

Floats = npt.NDArray[np.float64]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("scale", "seed"), [(0.02, 2), (0.5, 3)])
def test_gradient_of_every_tensor(form: str, scale: float, seed: int) -> None:
    problem = span_problem(form, scale, seed)
    assert_small(worst_errors(problem, seed, remembering_backend()))


@pytest.mark.parametrize("form", FORMS)
def test_gradient_of_every_tensor_by_finite_differences(form: str) -> None:
    problem = span_problem(form, 0.5, seed=4)
    backend = remembering_backend()
    gradient = gradients_of_variant(problem, backend).vector
    direction = np.random.default_rng(5).standard_normal(gradient.size)

    def loss(vector: Floats) -> tuple[Floats, None]:
        return np.asarray(total_loss(output_of(problem, vector, backend).terms)), None

    expected = finite_difference(loss, [problem.vector], [direction])
    assert abs(gradient @ direction - expected) <= 1e-8 * np.abs(gradient * direction).sum()


@pytest.mark.parametrize("derivative", [complex_step, finite_difference])
def test_gradient_of_the_pooling(derivative: Any) -> None:
    random = np.random.default_rng(0)
    inputs = [random.standard_normal((3, 5)), random.standard_normal((15, 4))]
    check_vjp(
        derivative,
        pooling.softmax_pooling,
        pooling.softmax_pooling_backward,
        inputs,
        random,
    )


def test_pooling_by_hand() -> None:
    logits = np.log(np.array([[1.0, 3.0], [1.0, 1.0]]))
    hidden = np.array([[4.0], [8.0], [1.0], [2.0]])
    pooled, _ = pooling.softmax_pooling(logits, hidden)
    np.testing.assert_allclose(pooled, [[7.0], [1.5]], rtol=1e-15)


@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_of_the_head_has_a_gradient(form: str) -> None:
    problem = span_problem(form, 0.5, seed=4)
    views = gradients_of_variant(problem).views
    largest = max(float(np.abs(gradient).max()) for gradient in views.values())
    for name, gradient in views.items():
        assert (np.abs(gradient).max() > 1e-6 * largest) == (name not in SHIFTS[form]), name


def plain_losses(problem: VariantProblem, hidden: Floats) -> dict[str, float]:
    """Return the sums of the losses, row by row, from the hidden states (B, T, C)."""
    weights = FlatParameters(problem.specs, problem.vector)
    sums = {"start": 0.0, "end": 0.0, "answerable": 0.0}
    for row, h in enumerate(hidden):
        s, e, impossible, known = (column[row] for column in TARGETS)
        if not known:
            continue
        length = LENGTHS[row]
        if problem.model.head.form == "huggingface":
            both = h @ weights["task.output.weight"] + weights["task.output.bias"]
            sums["start"] -= scipy.special.log_softmax(both[:length, 0])[s]
            sums["end"] -= scipy.special.log_softmax(both[:length, 1])[e]
            continue
        allowed = np.array([0, *range(CONTEXTS[row], length)])
        place = dict(zip(allowed.tolist(), range(length), strict=False))
        starts = plain_dense(h, weights, "task.start")[:, 0]
        sums["start"] -= scipy.special.log_softmax(starts[allowed])[place[s]]
        pairs = np.concatenate([np.tile(h[s], (len(h), 1)), h], axis=1)
        ends = plain_two_layers(pairs, weights, "task.end")
        sums["end"] -= scipy.special.log_softmax(ends[allowed])[place[e]]
        pooled = scipy.special.softmax(starts[allowed]) @ h[allowed]
        (logit,) = plain_two_layers(
            np.concatenate([h[0], pooled])[None], weights, "task.answerable"
        )
        sums["answerable"] += np.logaddexp(0.0, -logit if impossible else logit)
    return sums


def plain_dense(x: Floats, weights: FlatParameters, name: str) -> Floats:
    y: Floats = x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return y


def plain_two_layers(x: Floats, weights: FlatParameters, name: str) -> Floats:
    h = plain_dense(x, weights, f"{name}.dense")
    h = h * 0.5 * (1.0 + scipy.special.erf(h / np.sqrt(2.0)))
    return plain_dense(h, weights, f"{name}.output")[:, 0]


@pytest.mark.parametrize("form", FORMS)
def test_loss_is_that_of_plain_numpy(form: str) -> None:
    problem = span_problem(form, 0.5, seed=6)._replace(stream=None)
    output = output_of(problem, problem.vector)
    expected = plain_losses(problem, hidden_of(problem))
    terms = {term.name: term for term in output.terms}
    weights = {"start": 1.5, "end": 1.5, "answerable": 3.0 * 0.7}
    assert set(terms) == {"start", "end"} | ({"answerable"} if form == "original" else set())
    for name, term in terms.items():
        np.testing.assert_allclose(term.sum, expected[name], rtol=1e-12)
        assert (term.places, term.weight) == (4, weights[name])


def hidden_of(problem: VariantProblem) -> Floats:
    """Return the hidden states (B, T, C) without dropout."""
    run = ForwardPass(reference, FlatParameters(problem.specs, problem.vector), None)
    batch: Any = problem.batch
    hidden, _ = encode(run, problem.model.encoder, batch.tokens)
    return hidden.reshape(*batch.input_ids.shape, -1)


@pytest.mark.parametrize("form", FORMS)
def test_padding_changes_nothing(form: str) -> None:
    """Dropout's bits depend on the length, so it is off."""
    few, many = (
        span_problem(form, 0.5, seed=7, padding=padding)._replace(stream=None) for padding in (0, 5)
    )
    np.testing.assert_array_equal(few.vector, many.vector)
    ids = few.batch.input_ids
    many.batch.input_ids[:, : ids.shape[1]] = ids
    losses = [total_loss(output_of(problem, problem.vector).terms) for problem in (few, many)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-12)
    expected, gradient = (gradients_of_variant(problem).vector for problem in (few, many))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-14 * scale)


@pytest.mark.parametrize("form", FORMS)
def test_micro_batches_add_up(form: str) -> None:
    problem = span_problem(form, 0.5, seed=8)._replace(stream=None)
    expected = gradients_of_variant(problem).vector
    parts = [part_of(problem, rows) for rows in (slice(0, 2), slice(2, 5))]
    counts = add_counts(part.counts for part in parts)
    gradients = Gradients(problem.specs, np.full_like(problem.vector, np.nan))
    terms = []
    for part in parts:
        run = ForwardPass(reference, FlatParameters(part.specs, part.vector), None)
        output, cache = fine_tuning.forward(run, part.model, part.batch, problem.stream)
        fine_tuning.backward(BackwardPass(reference, gradients), part.model, counts, cache)
        terms.append(output.terms)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(gradients.vector, expected, rtol=1e-12, atol=1e-14 * scale)
    whole = total_loss(output_of(problem, problem.vector).terms)
    np.testing.assert_allclose(total_loss(add_terms(terms)), whole, rtol=1e-12)


def part_of(problem: VariantProblem, rows: slice) -> VariantProblem:
    """Return the problem with some of its rows."""
    batch: Any = problem.batch
    tokens = Batch(*(array[rows] for array in batch.tokens))
    targets = span.SpanTargets(*(array[rows] for array in batch.targets))
    return problem._replace(batch=LabelledBatch(tokens, targets))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [0.02, 0.5])
def test_the_cpu_computes_the_same_gradients(form: str, scale: float) -> None:
    exact = span_problem(form, scale, seed=9)
    fast = exact._replace(vector=exact.vector.astype(np.float32))
    exact = exact._replace(vector=fast.vector.astype(np.float64))
    loss = total_loss(output_of(fast, fast.vector, cpu).terms)
    np.testing.assert_allclose(loss, total_loss(output_of(exact, exact.vector).terms), rtol=1e-5)
    gradients, expected = gradients_of_variant(fast, cpu), gradients_of_variant(exact)
    assert gradients.vector.dtype == np.float32
    for spec in exact.specs:
        difference = np.linalg.norm(gradients[spec.name] - expected[spec.name])
        assert difference <= 5e-5 * np.linalg.norm(
            expected[exact.shifts.get(spec.name, spec.name)]
        ), spec.name


@pytest.mark.parametrize("form", FORMS)
def test_the_head_keeps_to_the_device(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = span_problem(form, 0.5, seed=5)
    expected, expected_answers = gradients_of_variant(problem).vector, answers_of(problem)
    stand_in_cupy.install(monkeypatch)
    vector = gradients_of_variant(problem, gpu).vector
    np.testing.assert_array_equal(gpu.to_host(vector), expected)
    for array, other in zip(answers_of(problem, gpu), expected_answers, strict=True):
        assert type(array).__module__ == "cupy"
        np.testing.assert_array_equal(gpu.to_host(array), other)


def answers_of(problem: VariantProblem, backend: Any = reference) -> Any:
    """Return what the head answers."""
    vector = backend.to_device(problem.vector)
    run = ForwardPass(backend, FlatParameters(problem.specs, vector), problem.stream)
    return fine_tuning.answer(run, problem.model, problem.batch)


def test_the_beam_has_the_best_spans() -> None:
    """All spans are scored here one by one, from the hidden states, in plain NumPy."""
    problem = span_problem("original", 0.5, seed=10)
    beam = answers_of(problem)
    assert isinstance(beam, Beam)
    assert beam.starts.shape == (5, OPTIONS.beam)
    assert beam.ends.shape == (5, OPTIONS.beam, OPTIONS.beam)
    weights = FlatParameters(problem.specs, problem.vector)
    for row, h in enumerate(hidden_of(problem)):
        allowed = np.array([0, *range(CONTEXTS[row], LENGTHS[row])])
        scores = scipy.special.log_softmax(plain_dense(h[allowed], weights, "task.start")[:, 0])
        shown = min(OPTIONS.beam, allowed.size)  # the others have a probability of 0
        order = np.argsort(-scores)[:shown]
        assert beam.starts[row, :shown].tolist() == allowed[order].tolist()
        np.testing.assert_allclose(beam.start_scores[row, :shown], scores[order], rtol=1e-10)
        for number, start in enumerate(allowed[order]):
            pairs = np.concatenate([np.tile(h[start], (allowed.size, 1)), h[allowed]], axis=1)
            ends = scipy.special.log_softmax(plain_two_layers(pairs, weights, "task.end"))
            best = np.argsort(-ends)[:shown]
            assert beam.ends[row, number, :shown].tolist() == allowed[best].tolist()
            np.testing.assert_allclose(beam.end_scores[row, number, :shown], ends[best], rtol=1e-10)
        pooled = np.exp(scores) @ h[allowed]
        pair = np.concatenate([h[0], pooled])[None]
        logit = plain_two_layers(pair, weights, "task.answerable")
        np.testing.assert_allclose(beam.impossible[row], logit[0], rtol=1e-10)


def test_what_is_no_answer_has_no_chance() -> None:
    """Question and padding come last, where a row has fewer places than the beam."""
    problem = span_problem("original", 0.5, seed=11)
    wide = problem.model._replace(
        head=problem.model.head._replace(options=OPTIONS._replace(beam=99))
    )
    beam = answers_of(problem._replace(model=wide))
    for row, start in enumerate(CONTEXTS):
        places = 1 + LENGTHS[row] - start
        assert set(beam.starts[row, :places]) == {0, *range(start, LENGTHS[row])}
        assert (beam.start_scores[row, places:] < -900).all()
        assert (beam.end_scores[row, :, places:] < -900).all()


def test_logits_of_the_form_huggingface() -> None:
    problem = span_problem("huggingface", 0.5, seed=12)
    logits = answers_of(problem)
    assert isinstance(logits, SpanLogits)
    weights = FlatParameters(problem.specs, problem.vector)
    both = plain_dense(hidden_of(problem), weights, "task.output")
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(logits.starts[row, :length], both[row, :length, 0], rtol=1e-10)
        np.testing.assert_allclose(logits.ends[row, :length], both[row, :length, 1], rtol=1e-10)
        assert (logits.starts[row, length:] < -900).all()


def test_answers_of_the_cpu_do_not_depend_on_the_rows_beside() -> None:
    for form in FORMS:
        problem = span_problem(form, 0.5, seed=13)
        problem = problem._replace(vector=problem.vector.astype(np.float32))
        together = answers_of(problem, cpu)
        for row in range(len(LENGTHS)):
            alone = answers_of(part_of(problem, slice(row, row + 1)), cpu)
            for array, other in zip(together, alone, strict=True):
                np.testing.assert_array_equal(array[row], other[0])


def test_the_original_begins_with_glorot_and_its_512_units() -> None:
    """One matrix for the concatenation: its limit is that of 2 C inputs."""
    problem = span_problem("original", 0.5, seed=0)
    plain = problem.model._replace(head=problem.model.head._replace(options=None))
    specs = list(span.head_specs(plain))
    shapes = {spec.name: spec.shape for spec in specs if spec.name.endswith("weight")}
    assert shapes == {
        "task.start.weight": (6, 1),
        "task.end.dense.weight": (12, 512),
        "task.end.output.weight": (512, 1),
        "task.answerable.dense.weight": (12, 512),
        "task.answerable.output.weight": (512, 1),
    }
    values = FlatParameters(specs, initial_values(specs, 1, 0.02))
    for name, (inputs, outputs) in shapes.items():
        limit = np.sqrt(6 / (inputs + outputs))
        assert 0.5 * limit < np.abs(values[name]).max() <= limit
    assert not values["task.end.dense.bias"].any()


def test_rows_without_targets_have_no_loss() -> None:
    problem = span_problem("original", 0.5, seed=14)
    nothing = TARGETS._replace(weights=np.zeros_like(TARGETS.weights))
    batch: Any = problem.batch
    problem = problem._replace(batch=batch._replace(targets=nothing))
    assert total_loss(output_of(problem, problem.vector).terms) == 0.0
    assert problem.counts == {"start": 0, "end": 0, "answerable": 0}
    assert not gradients_of_variant(problem).vector.any()


def test_start_learns_from_whether_there_is_an_answer() -> None:
    """The branch through softmax(start) alone moves the logits of the start."""
    problem = span_problem("original", 0.5, seed=15)
    start = FlatParameters(problem.specs, np.zeros_like(problem.vector))
    start["task.start.weight"][...] = 1.0
    both = derivative_along(problem, start.vector, remembering_backend())
    options = OPTIONS._replace(answerable_weight=0.0)
    head = problem.model.head._replace(options=options)
    alone = problem._replace(model=problem.model._replace(head=head))
    assert abs(both - derivative_along(alone, start.vector, remembering_backend())) > 1e-4
