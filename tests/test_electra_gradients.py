"""The proof: hand-written gradients of the whole loss against the complex step.

The loss is MLM + 50 RTD with padding and dropout; both networks share tables and layer norm. Every
tensor is judged alone, query, key and value separately, by an error relative to its own norm. At a
weight scale of 0.02 the gradients of query and key are so small that an absolute bound (1e-5 in
PyTorch's gradcheck) would accept zeros in their place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from electra_ref.arrays import Array
from electra_ref.gradient import GradientSum
from electra_ref.model.losses import total_loss
from electra_ref.model.objectives.electra import Electra
from electra_ref.model.parameters import FlatParameters, Gradients
from electra_ref.sampling import corrupt
from tests.tiny_electra import (
    COMPLEX_STEP,
    VOCAB_SIZE,
    Comparison,
    Problem,
    add_gradients,
    complex_step_along,
    complex_step_gradient,
    forward_of,
    gradients_of,
    make_problem,
    parts_of,
    remembering_backend,
)

RELATIVE_ERROR = 1e-12
SHAPES: dict[str, dict[str, Any]] = {
    "projected": {},
    "same-width": {"embedding_size": 8, "generator_hidden_size": 1.0},
    "one-head": {"num_attention_heads": 1, "attention_dropout": 0.5},
    "heads-of-one": {"num_attention_heads": 8, "hidden_dropout": 0.5},
    "deep-discriminator": {"num_hidden_layers": 3, "generator_layers": 0.34},
    "no-dropout": {"hidden_dropout": 0.0, "attention_dropout": 0.0},
    "full-width-generator": {"generator_hidden_size": 1.0},
    "other-weights": {"generator_weight": 3.0, "discriminator_weight": 0.25},
}


@pytest.mark.parametrize(
    ("shape", "scale"),
    [
        ("projected", 0.02),
        pytest.param("projected", 0.5, marks=pytest.mark.slow),
        pytest.param("same-width", 0.5, marks=pytest.mark.slow),
    ],
)
def test_every_partial_derivative_of_one_layer(shape: str, scale: float) -> None:
    """All entries of all tensors; the vector of gradients starts as NaN."""
    problem = make_problem(scale, seed=1, **{**SHAPES[shape], "num_hidden_layers": 1})
    errors = Comparison(problem.specs, complex_step_gradient(problem)).errors(
        gradients_of(problem).vector
    )
    assert_small(errors)


@pytest.mark.parametrize(("scale", "seed"), [(0.02, 7), (0.5, 3)])
@pytest.mark.parametrize("shape", SHAPES)
def test_random_directions_of_two_layers(shape: str, scale: float, seed: int) -> None:
    """A direction for each tensor: along it, the gradient gives the derivative of the loss."""
    problem = make_problem(scale, seed, lengths=(9, 7, 2), **SHAPES[shape])
    assert_small(directional_errors(problem, np.random.default_rng(seed)))


def test_random_directions_of_a_generator_of_two_heads() -> None:
    """The generator's heads are 64 wide; at that width, 0.5 would saturate every softmax."""
    sizes: dict[str, Any] = {"hidden_size": 128, "num_hidden_layers": 1}
    problem = make_problem(0.1, 4, lengths=(9,), generator_hidden_size=1.0, **sizes)
    assert problem.model.generator is not None
    assert problem.model.generator.size.num_attention_heads == 2
    random = np.random.default_rng(4)
    assert_small(directional_errors(problem, random, within="generator.layer.0.att"))


def apart(model: Electra) -> Electra:
    """Give the generator embeddings of its own."""
    assert model.generator is not None
    return model._replace(generator=model.generator._replace(embeddings="generator.embeddings"))


def one_encoder(model: Electra) -> Electra:
    """Let both networks have the same layers."""
    assert model.generator is not None
    return model._replace(
        generator=model.generator._replace(layers="encoder", size=model.discriminator.size),
        discriminator=model.discriminator._replace(layers="encoder"),
    )


SHARING: dict[str, Callable[[Electra], Electra]] = {
    "none": apart,
    "all": one_encoder,
    "layers": lambda model: one_encoder(apart(model)),
}


@pytest.mark.parametrize("scale", [0.02, 0.5])
@pytest.mark.parametrize("sharing", SHARING)
def test_networks_share_what_they_name_alike(sharing: str, scale: float) -> None:
    """Another prefix is all it takes: parameters and their gradients follow."""
    problem = make_problem(scale, seed=10, change_model=SHARING[sharing], num_hidden_layers=1)
    names = {spec.name for spec in problem.specs}
    assert len(names) == len(problem.specs)
    tables = {name for name in names if name.endswith("word_embeddings.weight")}
    assert len(tables) == (1 if sharing == "all" else 2)
    matrices = {name for name in names if name.endswith("query_key_value.weight")}
    assert len(matrices) == (2 if sharing == "none" else 1)
    assert_small(directional_errors(problem, np.random.default_rng(10)))


def test_evaluation_without_dropout_has_gradients_too() -> None:
    problem = make_problem(0.5, seed=4, stream=None)
    assert_small(directional_errors(problem, np.random.default_rng(4)))


def directional_errors(
    problem: Problem, random: np.random.Generator, within: str = ""
) -> dict[str, float]:
    """Return |<g, v> - derivative along v| / |g| for every tensor, each with a normal v.

    Only tensors with ``within`` in their name are looked at.
    """
    backend = remembering_backend()
    gradients = parts_of(gradients_of(problem, backend))
    errors = {}
    for name, gradient in gradients.items():
        if within not in name:
            continue
        # The key bias has gradient zero: see Comparison.
        norm = float(np.linalg.norm(gradients[name.replace("bias[key]", "bias[query]")]))
        direction = FlatParameters(problem.specs, np.zeros_like(problem.vector))
        v = random.standard_normal(gradient.shape)
        parts_of(direction)[name][...] = v
        exact = complex_step_along(problem, direction.vector, backend)
        errors[name] = abs(float(np.sum(gradient * v)) - exact) / norm
    assert errors
    return errors


def assert_small(errors: dict[str, float]) -> None:
    """Assert that no error is large, and none is NaN."""
    wrong = {name: f"{error:.1e}" for name, error in errors.items() if not error <= RELATIVE_ERROR}
    assert not wrong


def test_generator_learns_nothing_from_the_discriminator() -> None:
    """A hard stop: with the RTD loss alone, gradients of the generator are 0.0, bit for bit."""
    problem = make_problem(0.5, seed=5, generator_weight=0.0)
    gradients = gradients_of(problem)
    of_generator = {n: g for n, g in gradients.views.items() if n.startswith("generator.")}
    assert len(of_generator) > 20
    for name, gradient in of_generator.items():
        assert not gradient.any(), name
    for name, gradient in gradients.views.items():
        assert gradient.any() or name in of_generator, name


def test_samples_do_not_move_the_generator() -> None:
    """Other replacements: other discriminator gradients, the same generator gradients bitwise."""
    problem = make_problem(0.5, seed=6)
    other_ids = ((problem.corrupted.sampled_ids + 1) % VOCAB_SIZE).astype(np.int32)
    other = problem._replace(corrupted=corrupt(problem.masked, other_ids))
    gradients, others = gradients_of(problem), gradients_of(other)
    for spec in problem.specs:
        same = np.array_equal(gradients[spec.name], others[spec.name])
        assert same == spec.name.startswith("generator."), spec.name


class OneReadMoved(FlatParameters):
    """Parameters that are untied for one read: it alone sees ``name`` moved along i h ``v``."""

    def __init__(self, problem: Problem, name: str, read: int, v: Array) -> None:
        super().__init__(problem.specs, problem.vector.astype(np.complex128))
        self._name, self._reads_left = name, read
        self._moved = self.views[name] + 1j * COMPLEX_STEP * v

    def __getitem__(self, name: str) -> Array:
        if name == self._name:
            self._reads_left -= 1
            if self._reads_left == -1:
                return self._moved
        return self.views[name]


class RecordedParts(Gradients):
    """Gradients that keep the parts they are the sum of apart, the last read first."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.specs, np.full_like(problem.vector, np.nan))
        self.parts: dict[str, list[Array]] = {}

    def sum_of(self, name: str) -> GradientSum:
        """Return an array of its own for each part."""
        part = np.full_like(self.views[name], np.nan)
        self.parts.setdefault(name, []).append(part)
        return GradientSum(part, is_empty=True)


def test_shared_gradients_are_the_sum_over_untied_copies() -> None:
    """Each use of the shared embeddings by itself: what a model with copies of them would get."""
    problem = make_problem(0.5, seed=7)
    backend, random = remembering_backend(), np.random.default_rng(7)
    recorded, gradients = RecordedParts(problem), gradients_of(problem, backend)
    add_gradients(problem, recorded, backend)
    uses = {name: len(parts) for name, parts in recorded.parts.items() if len(parts) > 1}
    assert sorted(uses.values()) == [2, 2, 2, 2, 3]  # word embeddings are the output matrix too
    for name, count in uses.items():
        assert name.startswith("embeddings.")
        parts = recorded.parts[name][::-1]
        for read, part in enumerate(parts):
            v = random.standard_normal(part.shape)
            output, _ = forward_of(problem, OneReadMoved(problem, name, read, v), backend)
            loss = np.imag(total_loss(output.terms))
            error = abs(float(np.sum(part * v)) - loss / COMPLEX_STEP)
            assert error <= RELATIVE_ERROR * np.linalg.norm(part), (name, read)
        scale = max(float(np.abs(part).max()) for part in parts)
        difference = gradients[name] - np.sum(parts, axis=0)
        assert count == len(parts)
        assert np.abs(difference).max() <= 1e-15 * scale


def test_gradients_add_up_until_they_are_restarted() -> None:
    """Micro-batches add to what is there; a new step replaces it."""
    problem = make_problem(0.5, seed=8)
    once, sums = gradients_of(problem), gradients_of(problem)
    add_gradients(problem, sums)
    np.testing.assert_allclose(sums.vector, 2 * once.vector, rtol=1e-13)
    sums.restart()
    add_gradients(problem, sums)
    np.testing.assert_array_equal(sums.vector, once.vector)
