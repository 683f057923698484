"""A task head on a tiny encoder, small enough to differentiate entry by entry, and its checks.

A problem is one of ``variants`` whose objective is fine-tuning, so that what is there for
objectives serves heads as well: ``worst_errors``, ``gradients_of_variant``.

    problem = make_head_problem("tagging", "original", 3, draw_tags)
    check_complex_step(problem)
    check_finite_differences(problem)
    check_cpu(problem)
    check_micro_batches([problem, ...], whole)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from electra_ref.backends import Backend, cpu, reference
from electra_ref.batch import Batch
from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.model.labelled import HEAD, FineTuned, Head, LabelledBatch, Targets
from electra_ref.model.losses import add_counts, add_terms, total_loss
from electra_ref.model.networks import full_size_encoder
from electra_ref.model.objectives import fine_tuning
from electra_ref.model.parameters import FlatParameters, Gradients
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.rng import Purpose, RandomStream
from tests.tiny_electra import SPECIAL_TOKENS, VOCAB_SIZE, parts_of, remembering_backend
from tests.variants import VariantProblem, gradients_of_variant, output_of, worst_errors

COMPLEX_STEP_ERROR = 1e-12
DIFFERENCE_ERROR = 1e-7  # of the norm of all gradients
DIFFERENCE_STEP = 1e-4
FLOAT32_ERROR = 5e-5  # as of a whole step: see ``test_cpu_backend``
LENGTHS = (9, 6, 1, 7)  # of the rows, padded to the first

DrawTargets = Callable[[np.random.Generator, Batch], Targets]


def tiny_settings(**changes: Any) -> FinetuningConfig:
    """Return sizes that are all different, so that no two axes can be confused."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "embedding_size": 5,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 11,
        "max_position_embeddings": 10,
        "max_length": 9,
        "batch_size": 4,
        "head_dropout": 0.25,
        **changes,
    }
    return FinetuningConfig(**sizes)


def make_head_problem(
    kind: str,
    form: str,
    outputs: int,
    draw_targets: DrawTargets,
    *,
    scale: float = 0.5,
    seed: int = 1,
    lengths: Sequence[int] = LENGTHS,
    loss_weight: float = 3.0,
    shifts: Mapping[str, str] = {},
    **changes: Any,
) -> VariantProblem:
    """Draw parameters of standard deviation ``scale``, rows of ``lengths`` and their targets.

    ``draw_targets`` gets the generator of random numbers and the rows. ``shifts`` names parameters
    whose gradient is zero because a softmax does not see them, and what their errors are measured
    against: see ``Comparison``. ``changes`` are settings of the encoder.
    """
    config = tiny_settings(**changes)
    head = Head(kind, form, outputs, config.head_dropout, loss_weight)
    model = FineTuned(full_size_encoder(config), head)
    specs = fine_tuning.parameter_specs(model)
    random = np.random.default_rng(seed)
    count = sum(int(np.prod(spec.shape)) for spec in specs)
    parameters = FlatParameters(specs, scale * random.standard_normal(count))
    for spec in specs:
        if spec.initializer == "ones":
            parameters[spec.name][...] += 1.0
    tokens = rows_of_lengths(random, lengths)
    batch = LabelledBatch(tokens, draw_targets(random, tokens))
    stream = RandomStream(seed, Purpose.MASK, 5)
    return VariantProblem(
        config, fine_tuning, model, specs, parameters.vector, batch, stream, shifts
    )


def rows_of_lengths(random: np.random.Generator, lengths: Sequence[int]) -> Batch:
    """Return rows (B, T) of ``lengths``, padded to the longest; the second half is segment 1."""
    places = np.arange(max(lengths))
    is_token = places < np.array(lengths)[:, None]
    ids = np.where(is_token, random.integers(5, VOCAB_SIZE, is_token.shape), 0).astype(np.int32)
    ids[:, 0] = SPECIAL_TOKENS.cls
    is_second = (places >= (np.array(lengths)[:, None] + 1) // 2) & is_token
    return Batch(ids, is_second.astype(np.int32), is_token)


def check_complex_step(problem: VariantProblem, seed: int = 1) -> None:
    """Assert that the gradient of every tensor, query, key and value apart, is right to 1e-12.

    The loss must depend on all parameters of the head.
    """
    errors = worst_errors(problem, seed, remembering_backend())
    wrong = {name: error for name, error in errors.items() if not error <= COMPLEX_STEP_ERROR}
    assert wrong == {}, wrong
    gradients = gradients_of_variant(problem).views
    heads = {name for name in gradients if name.startswith(f"{HEAD}.")} - problem.shifts.keys()
    assert heads
    assert {name for name in heads if not gradients[name].any()} == set()


def check_finite_differences(problem: VariantProblem, seed: int = 1) -> None:
    """Assert that the gradient gives the differences of the loss along a direction per tensor."""
    backend = remembering_backend()
    random = np.random.default_rng(seed)
    gradients = parts_of(gradients_of_variant(problem))
    norm = float(np.linalg.norm(np.concatenate([g.ravel() for g in gradients.values()])))
    for name, gradient in gradients.items():
        direction = FlatParameters(problem.specs, np.zeros_like(problem.vector))
        v = random.standard_normal(gradient.shape)
        v /= np.linalg.norm(v)
        parts_of(direction)[name][...] = v
        expected = _difference(problem, direction.vector, backend)
        assert abs(float(np.sum(gradient * v)) - expected) <= DIFFERENCE_ERROR * norm, name


def _difference(
    problem: VariantProblem, direction: npt.NDArray[np.float64], backend: Backend
) -> float:
    """Return the derivative of the loss along ``direction`` (P,), by a stencil of five points."""

    def loss(t: float) -> float:
        output = output_of(problem, problem.vector + t * direction, backend)
        return float(total_loss(output.terms))

    h = DIFFERENCE_STEP
    return (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)


def check_cpu(problem: VariantProblem, backend: Backend = cpu) -> None:
    """Assert that the fast backend computes the loss and the gradients of the formulas."""
    fast = problem._replace(vector=problem.vector.astype(np.float32))
    exact = problem._replace(vector=fast.vector.astype(np.float64))
    loss = total_loss(output_of(fast, fast.vector, backend).terms)
    np.testing.assert_allclose(loss, loss_of(exact), rtol=1e-5)
    gradients, expected = gradients_of_variant(fast, backend), gradients_of_variant(exact)
    assert gradients.vector.dtype == np.float32
    for spec in exact.specs:
        difference = np.linalg.norm(gradients[spec.name] - expected[spec.name])
        scale = expected[problem.shifts.get(spec.name, spec.name)]
        assert difference <= FLOAT32_ERROR * np.linalg.norm(scale), spec.name


def loss_of(problem: VariantProblem) -> float:
    """Return the total loss at the parameters of the problem."""
    return float(total_loss(output_of(problem, problem.vector).terms))


def check_micro_batches(parts: Sequence[LabelledBatch], whole: VariantProblem) -> None:
    """Assert that the batches ``parts`` of ``whole`` add up to its loss and its gradient.

    There is no dropout: its bits follow from the number of a row in its batch.
    """
    model = whole.model
    run = ForwardPass(reference, FlatParameters(whole.specs, whole.vector), None)
    counts = add_counts(fine_tuning.count_losses(model, part) for part in parts)
    gradients = Gradients(whole.specs, np.full_like(whole.vector, np.nan))
    terms = []
    for part in parts:
        output, cache = fine_tuning.forward(run, model, part, whole.stream)
        terms.append(output.terms)
        fine_tuning.backward(BackwardPass(reference, gradients), model, counts, cache)
    one = whole._replace(stream=None)
    loss = float(total_loss(add_terms(terms)))
    np.testing.assert_allclose(loss, loss_of(one), rtol=1e-12)
    expected = gradients_of_variant(one).vector
    error = np.linalg.norm(gradients.vector - expected)
    assert error <= COMPLEX_STEP_ERROR * np.linalg.norm(expected)


def part_of_batch(batch: LabelledBatch, rows: slice, targets: Targets) -> LabelledBatch:
    """Return some ``rows`` of a batch with ``targets`` of their own."""
    ids, types, is_token = batch.tokens
    return LabelledBatch(Batch(ids[rows], types[rows], is_token[rows]), targets)
