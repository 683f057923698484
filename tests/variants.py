"""Every objective, adversary, sharing and input as a problem small enough for the complex step.

Masks and samples are drawn by the package at the real parameters. Integers do not see the imaginary
part, so they are the same in every evaluation of a loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Array
from electra_ref.backends import Backend, reference
from electra_ref.batch import Batch
from electra_ref.model.losses import Counts, total_loss
from electra_ref.model.objectives.table import objective_of
from electra_ref.model.parameters import FlatParameters, Gradients, ParameterSpec
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.rng import Purpose, RandomStream
from tests.tiny_electra import (
    COMPLEX_STEP,
    SPECIAL_TOKENS,
    VOCAB_SIZE,
    parts_of,
    tiny_config,
)

FULL_SIZE = {"generator_hidden_size": 1.0, "generator_layers": 1.0, "num_attention_heads": 1,
             "intermediate_size": 32}  # fmt: skip
GUMBEL = {"adversarial": "gumbel-softmax", "gumbel_temperature": 0.7, "adversarial_weight": 3.0}
SOFT = {**GUMBEL, "straight_through": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "electra": {},
    "electra-15": {"objective": "electra-15"},
    "mlm": {"objective": "mlm", "encoder_weight": 2.0},
    "replace-mlm": {"objective": "replace-mlm", "encoder_weight": 2.0},
    "all-tokens-mlm": {"objective": "all-tokens-mlm", "encoder_weight": 2.0},
    "sharing-none": {"sharing": "none"},
    "sharing-all": {**FULL_SIZE, "sharing": "all"},
    "sharing-all, same width": {**FULL_SIZE, "sharing": "all", "embedding_size": 8},
    "sharing-gdes": {"sharing": "gdes"},
    "replace-mlm, sharing-all": {**FULL_SIZE, "sharing": "all", "objective": "replace-mlm"},
    "all-tokens-mlm, sharing-none": {"sharing": "none", "objective": "all-tokens-mlm"},
    "reinforce": {"adversarial": "reinforce", "adversarial_weight": 3.0, "temperature": 1.7},
    "reinforce alone": {"adversarial": "reinforce", "generator_weight": 0.0},
    "reinforce, electra-15": {"adversarial": "reinforce", "objective": "electra-15"},
    "gumbel-softmax, soft": SOFT,
    "gumbel-softmax, straight-through": GUMBEL,
    "gumbel-softmax, soft, a generator that helps": {**SOFT, "adversarial_weight": -3.0},
    "gumbel-softmax, soft, another temperature": {**SOFT, "temperature": 1.7},
    "gumbel-softmax, soft, gdes": {**SOFT, "sharing": "gdes"},
    "gumbel-softmax, straight-through, gdes": {**GUMBEL, "sharing": "gdes"},
    "gumbel-softmax, soft, paired": {**SOFT, "discriminator_input": "paired"},
    "paired": {"discriminator_input": "paired"},
    "paired, electra-15": {"discriminator_input": "paired", "objective": "electra-15"},
    "reinforce, paired": {"adversarial": "reinforce", "discriminator_input": "paired"},
    "two stages": {**FULL_SIZE, "sharing": "none", "two_stage_steps": 10},
    "uniform generator": {"uniform_generator": True},
    "uniform generator, replace-mlm": {"uniform_generator": True, "objective": "replace-mlm"},
    "uniform generator, all-tokens-mlm": {"uniform_generator": True, "objective": "all-tokens-mlm"},
    "a table of its own to guess by": {"tie_word_embeddings": False},
    "a table of its own, all-tokens-mlm": {"tie_word_embeddings": False,
                                           "objective": "all-tokens-mlm"},
    "exploration": {"exploration": 0.5},
    "disallow-correct": {"disallow_correct": True},
}  # fmt: skip


class VariantProblem(NamedTuple):
    """Everything the loss depends on besides the parameters, and the parameters."""

    config: Any  # PretrainingConfig, or FinetuningConfig of a task head
    objective: Any  # a module with the functions of an objective
    model: Any  # at the step of the stream
    specs: list[ParameterSpec]
    vector: npt.NDArray[np.float64]  # (P,)
    batch: Any
    stream: Any  # a RandomStream; None, for objectives that draw nothing else, drops nothing
    shifts: Mapping[str, str] = {}  # see ``Comparison``

    @property
    def counts(self) -> Counts:
        """Return the counts of the losses."""
        counts: Counts = self.objective.count_losses(self.model, self.batch)
        return counts


def variant_problem(
    variant: str, scale: float, seed: int, *, step: int = 5, **changes: Any
) -> VariantProblem:
    """Draw parameters of standard deviation ``scale`` and rows of different lengths."""
    settings = {"num_hidden_layers": 1, "mask_probability": 0.3, "max_length": 17,
                "max_position_embeddings": 18, **VARIANTS[variant], **changes}  # fmt: skip
    config = tiny_config(**settings)
    objective = objective_of(config)
    model = objective.model_of(config, config, SPECIAL_TOKENS)
    specs = objective.parameter_specs(model)
    random = np.random.default_rng(seed)
    count = sum(int(np.prod(spec.shape)) for spec in specs)
    parameters = FlatParameters(specs, scale * random.standard_normal(count))
    for spec in specs:
        if spec.initializer == "ones":
            parameters[spec.name][...] += 1.0
    batch = rows_of(random, config.row_length)
    stream = RandomStream(seed, Purpose.MASK, step)
    model = objective.at_step(model, step)
    return VariantProblem(config, objective, model, specs, parameters.vector, batch, stream)


def rows_of(random: np.random.Generator, length: int) -> Batch:
    """Return a full row, a shorter one of two segments, and one of [CLS] alone."""
    is_token = np.arange(length) < np.array([[length], [length - 3], [1]])
    ids = np.where(is_token, random.integers(5, VOCAB_SIZE, is_token.shape), 0).astype(np.int32)
    ids[:, 0] = SPECIAL_TOKENS.cls
    types = np.zeros_like(ids)
    types[1, 3 : length - 3] = 1
    return Batch(ids, types, is_token)


def output_of(problem: VariantProblem, vector: Array, backend: Backend = reference) -> Any:
    """Run the forward pass at ``vector`` (P,), real or complex, with dropout."""
    run = ForwardPass(backend, FlatParameters(problem.specs, vector), problem.stream)
    return problem.objective.forward(run, problem.model, problem.batch, problem.stream)[0]


def gradients_of_variant(problem: VariantProblem, backend: Backend = reference) -> Gradients:
    """Return the hand-written gradients; parameters that do not learn have 0, the rest is new."""
    vector = backend.to_device(problem.vector)
    run = ForwardPass(backend, FlatParameters(problem.specs, vector), problem.stream)
    unwritten = backend.to_device(np.full_like(problem.vector, np.nan))
    gradients = Gradients(problem.specs, unwritten)
    _, cache = problem.objective.forward(run, problem.model, problem.batch, problem.stream)
    problem.objective.backward(
        BackwardPass(backend, gradients), problem.model, problem.counts, cache
    )
    for name in problem.objective.unchanged(problem.model):
        gradients.sum_of(name).add_nothing()
    gradients.require_complete()
    return gradients


def derivative_along(problem: VariantProblem, direction: Array, backend: Backend) -> float:
    """Return the derivative of the loss along ``direction`` (P,), by the complex step."""
    vector = problem.vector + 1j * COMPLEX_STEP * direction
    loss = total_loss(output_of(problem, vector, backend).terms)
    return float(np.imag(loss)) / COMPLEX_STEP


def complex_step_gradient_of_variant(
    problem: VariantProblem, backend: Backend
) -> npt.NDArray[np.float64]:
    """Return every partial derivative (P,) of the loss, each from a forward pass of its own."""
    vector = problem.vector.astype(np.complex128)
    gradient = np.empty_like(problem.vector)
    for k in range(vector.size):
        vector[k] += 1j * COMPLEX_STEP
        loss = total_loss(output_of(problem, vector, backend).terms)
        gradient[k] = float(np.imag(loss)) / COMPLEX_STEP
        vector[k] = problem.vector[k]
    return gradient


def worst_errors(problem: VariantProblem, seed: int, backend: Backend) -> dict[str, float]:
    """Return |<g, v> - derivative along v| / |g| for every tensor, v normal; 0 where both are 0."""
    random = np.random.default_rng(seed)
    gradients = parts_of(gradients_of_variant(problem, backend))
    errors: dict[str, float] = {}
    for name, gradient in gradients.items():
        direction = FlatParameters(problem.specs, np.zeros_like(problem.vector))
        v = random.standard_normal(gradient.shape)
        parts_of(direction)[name][...] = v
        error = abs(
            float(np.sum(gradient * v)) - derivative_along(problem, direction.vector, backend)
        )
        scale = problem.shifts.get(name, name.replace("bias[key]", "bias[query]"))
        norm = float(np.linalg.norm(gradients[scale]))
        errors[name] = error / norm if error else 0.0
    return errors
