"""A model small enough to differentiate entry by entry, and one corrupted batch for it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Array
from electra_ref.backends import Backend
from electra_ref.backends.reference import ReferenceBackend
from electra_ref.batch import Batch
from electra_ref.config import Config
from electra_ref.masking import MaskedBatch
from electra_ref.model.electra import (
    Electra,
    ElectraCache,
    ElectraOutput,
    electra_backward,
    electra_forward,
    electra_of,
    total_loss,
)
from electra_ref.model.objectives import LossCounts, count_losses
from electra_ref.model.parameters import (
    FlatGradients,
    FlatParameters,
    ParameterSpec,
    parameter_specs,
)
from electra_ref.rng import Purpose, RandomStream
from electra_ref.sampling import CorruptedBatch, corrupt

VOCAB_SIZE = 13
COMPLEX_STEP = 1e-30
DROPOUT_STREAM = RandomStream(seed=3, purpose=Purpose.MASK, step=5)


def tiny_config(**changes: object) -> Config:
    """Return sizes that are all different, so that no two axes can be confused."""
    sizes: dict[str, object] = {
        "vocab_size": VOCAB_SIZE,
        "embedding_size": 5,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 11,
        "max_position_embeddings": 10,
        "max_length": 9,
        "generator_hidden_size": 0.5,
        "batch_size": 3,
        **changes,
    }
    return Config(**sizes)  # type: ignore[arg-type]


class Problem(NamedTuple):
    """Everything the loss depends on besides the parameters, and the parameters."""

    config: Config
    electra: Electra
    specs: list[ParameterSpec]
    vector: npt.NDArray[np.float64]  # (P,)
    masked: MaskedBatch
    corrupted: CorruptedBatch
    counts: LossCounts
    dropout_stream: RandomStream | None


def make_problem(
    scale: float,
    seed: int,
    *,
    lengths: tuple[int, ...] = (9, 6, 1),
    dropout_stream: RandomStream | None = DROPOUT_STREAM,
    **changes: object,
) -> Problem:
    """Draw parameters of standard deviation ``scale`` and a batch with rows of ``lengths``."""
    config = tiny_config(**changes)
    specs = parameter_specs(config)
    random = np.random.default_rng(seed)
    count = sum(int(np.prod(spec.shape)) for spec in specs)
    parameters = FlatParameters(specs, scale * random.standard_normal(count))
    for spec in specs:
        if spec.initializer == "ones":
            parameters[spec.name][...] += 1.0
    masked = draw_masked_batch(config, random, lengths)
    sampled_ids = random.integers(0, VOCAB_SIZE, masked.positions.shape).astype(np.int32)
    return Problem(
        config,
        electra_of(config),
        specs,
        parameters.vector,
        masked,
        corrupt(masked, sampled_ids),
        count_losses([masked]),
        dropout_stream,
    )


def draw_masked_batch(
    config: Config, random: np.random.Generator, lengths: tuple[int, ...]
) -> MaskedBatch:
    """Mask up to two positions of each row, by hand: this is not what masking's tests rely on."""
    shape = (len(lengths), config.max_length)
    attention_mask = np.arange(config.max_length) < np.array(lengths)[:, None]
    ids = np.where(attention_mask, random.integers(5, VOCAB_SIZE, shape), 0).astype(np.int32)
    types = np.where(attention_mask, random.integers(0, 2, shape), 0).astype(np.int32)
    positions = np.zeros((len(lengths), 2), np.int32)
    weights = np.zeros((len(lengths), 2), bool)
    for row, length in enumerate(lengths):
        chosen = np.sort(random.permutation(length)[:2])
        positions[row, : chosen.size] = chosen
        weights[row, : chosen.size] = True
    rows = np.arange(len(lengths))[:, None]
    labels = np.where(weights, ids[rows, positions], 0).astype(np.int32)
    masked_ids = ids.copy()
    masked_ids[np.nonzero(weights)[0], positions[weights]] = 4
    return MaskedBatch(Batch(ids, types, attention_mask), masked_ids, positions, labels, weights)


def forward_of(
    problem: Problem, parameters: FlatParameters, backend: Backend
) -> tuple[ElectraOutput, ElectraCache]:
    """Run both networks at ``parameters``, on the replacements that were drawn beforehand."""
    return electra_forward(
        backend,
        parameters,
        problem.electra,
        problem.masked,
        lambda _: problem.corrupted,
        problem.dropout_stream,
    )


def loss_of(problem: Problem, vector: Array, backend: Backend | None = None) -> Array:
    """Return the total loss () at the parameters ``vector`` (P,), real or complex."""
    parameters = FlatParameters(problem.specs, vector)
    output, _ = forward_of(problem, parameters, backend or ReferenceBackend())
    return total_loss(problem.electra, output, problem.counts)


def gradients_of(problem: Problem, backend: Backend | None = None) -> FlatGradients:
    """Return the hand-written gradients; the vector starts as NaN, so nothing may be left out."""
    gradients = FlatGradients(problem.specs, np.full_like(problem.vector, np.nan))
    add_gradients(problem, gradients, backend)
    return gradients


def add_gradients(
    problem: Problem, gradients: FlatGradients, backend: Backend | None = None
) -> None:
    """Add the hand-written gradients of the loss to ``gradients``."""
    backend = backend or ReferenceBackend()
    _, cache = forward_of(problem, FlatParameters(problem.specs, problem.vector), backend)
    electra_backward(backend, gradients, problem.electra, problem.counts, cache)


def complex_step_along(problem: Problem, direction: Array, backend: Backend | None = None) -> float:
    """Return the derivative of the loss along ``direction`` (P,): Im L(w + i h v) / h."""
    loss = loss_of(problem, problem.vector + 1j * COMPLEX_STEP * direction, backend)
    return float(loss.imag) / COMPLEX_STEP


def complex_step_gradient(problem: Problem) -> npt.NDArray[np.float64]:
    """Return every partial derivative (P,) of the loss, each from a forward pass of its own."""
    backend = RememberingBackend()
    vector = problem.vector.astype(np.complex128)
    gradient = np.empty_like(problem.vector)
    for k in range(vector.size):
        vector[k] += 1j * COMPLEX_STEP
        gradient[k] = loss_of(problem, vector, backend).imag / COMPLEX_STEP
        vector[k] = problem.vector[k]
    return gradient


def parts_of(flat: FlatParameters) -> dict[str, Array]:
    """Return a view of every parameter, with query, key and value apart.

    The three share a matrix, and where weights are small the gradient of the value is a million
    times that of the others: taken together, it would hide their errors.
    """
    parts: dict[str, Array] = {}
    for spec in flat.specs:
        if ".query_key_value." in spec.name:
            names = [f"{spec.name}[{part}]" for part in ("query", "key", "value")]
            parts.update(zip(names, np.split(flat[spec.name], 3, axis=-1), strict=True))
        else:
            parts[spec.name] = flat[spec.name]
    return parts


class Comparison:
    """Relative errors of a gradient, part by part, from an exact one."""

    def __init__(self, specs: list[ParameterSpec], exact: npt.NDArray[np.float64]) -> None:
        numbers = FlatParameters(specs, np.empty_like(exact))
        parts = parts_of(numbers)
        for number, part in enumerate(parts.values()):
            part[...] = number
        self.names = list(parts)
        self._numbers = numbers.vector.astype(np.int64)
        self._exact = exact
        norms = dict(zip(self.names, self._norms(exact), strict=True))
        for name in self.names:
            # Softmax does not see a shift of all scores of a row: the bias of the key has gradient
            # zero, and what rounding leaves of it is measured against the bias of the query.
            if name.endswith(".query_key_value.bias[key]"):
                norms[name] = norms[name.replace("[key]", "[query]")]
        self._scales = np.array(list(norms.values()))

    def errors(self, gradient: npt.NDArray[np.float64]) -> dict[str, float]:
        """Return |gradient - exact| / |exact| for every part; NaN where an entry is NaN."""
        ratios = self._norms(gradient - self._exact) / self._scales
        return dict(zip(self.names, ratios.tolist(), strict=True))

    def _norms(self, vector: Array) -> Array:
        squares: Array = np.bincount(self._numbers, vector * vector)
        return np.sqrt(squares)


class RememberingBackend(ReferenceBackend):
    """The reference, drawing the bits of each dropout site once for all evaluations of a loss."""

    def __init__(self) -> None:
        super().__init__()
        self._bits: dict[tuple[RandomStream, int, int], Array] = {}

    def dropout_bits(self, stream: RandomStream, examples: int, count: int) -> Array:
        """Return what the reference returns."""
        key = stream, examples, count
        if key not in self._bits:
            self._bits[key] = super().dropout_bits(stream, examples, count)
        return self._bits[key]
