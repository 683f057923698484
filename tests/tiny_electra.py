"""A model small enough to differentiate entry by entry, and one corrupted batch for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, cast
from unittest import mock

import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Array
from electra_ref.backends import Backend, reference
from electra_ref.batch import Batch, SpecialTokens
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.masking import MaskedBatch
from electra_ref.model.generation import Samples
from electra_ref.model.losses import Counts, total_loss
from electra_ref.model.objectives import electra
from electra_ref.model.objectives.electra import (
    Electra,
    ElectraCache,
    model_of,
    parameter_specs,
)
from electra_ref.model.objectives.output import Output
from electra_ref.model.parameters import FlatParameters, Gradients, ParameterSpec
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.rng import Purpose, RandomStream
from electra_ref.sampling import CorruptedBatch, corrupt
from electra_ref.training.optimizer import TrainingState
from electra_ref.training.pretraining.task import initial_state

VOCAB_SIZE = 13
COMPLEX_STEP = 1e-30
SPECIAL_TOKENS = SpecialTokens(pad=0, unknown=1, cls=2, sep=3, mask=4)
STREAM = RandomStream(seed=3, purpose=Purpose.MASK, step=5)


def tiny_config(**changes: object) -> PretrainingConfig:
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
    return PretrainingConfig(**sizes)  # type: ignore[arg-type]


def tiny_model(config: PretrainingConfig) -> Electra:
    """Return the model that ``config`` describes."""
    return model_of(config, config, SPECIAL_TOKENS)


def tiny_state(
    config: PretrainingConfig, dtype: str, backend: Backend = reference
) -> TrainingState:
    """Return the state in which a training of ``config`` begins."""
    return initial_state(config, backend, tiny_model(config), dtype)


class Problem(NamedTuple):
    """Everything the loss depends on besides the parameters, and the parameters."""

    config: PretrainingConfig
    model: Electra
    specs: list[ParameterSpec]
    vector: npt.NDArray[np.float64]  # (P,)
    masked: MaskedBatch
    corrupted: CorruptedBatch
    stream: RandomStream | None  # of dropout

    @property
    def counts(self) -> Counts:
        """Return the counts of the masks and tokens that were drawn."""
        tokens = self.masked.batch.attention_mask
        return {"mlm": int(self.masked.weights.sum()), "rtd": int(tokens.sum())}


def make_problem(
    scale: float,
    seed: int,
    *,
    lengths: tuple[int, ...] = (9, 6, 1),
    stream: RandomStream | None = STREAM,
    change_model: Callable[[Electra], Electra] = lambda model: model,
    **changes: object,
) -> Problem:
    """Draw parameters of standard deviation ``scale`` and a batch with rows of ``lengths``."""
    config = tiny_config(**changes)
    model = change_model(tiny_model(config))
    specs = parameter_specs(model)
    random = np.random.default_rng(seed)
    count = sum(int(np.prod(spec.shape)) for spec in specs)
    parameters = FlatParameters(specs, scale * random.standard_normal(count))
    for spec in specs:
        if spec.initializer == "ones":
            parameters[spec.name][...] += 1.0
    masked = draw_masked_batch(config, random, lengths)
    sampled_ids = random.integers(0, VOCAB_SIZE, masked.positions.shape).astype(np.int32)
    corrupted = corrupt(masked, sampled_ids)
    return Problem(config, model, specs, parameters.vector, masked, corrupted, stream)


def draw_masked_batch(
    config: PretrainingConfig, random: np.random.Generator, lengths: tuple[int, ...]
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
    problem: Problem, parameters: FlatParameters, backend: Backend = reference
) -> tuple[Output, ElectraCache]:
    """Run both networks at ``parameters``, on the masks and replacements drawn beforehand."""
    with (
        mock.patch.object(electra, "mask_tokens", return_value=problem.masked),
        mock.patch.object(electra, "sample", return_value=Samples(problem.corrupted, None)),
        mock.patch.object(electra, "count_losses", return_value=problem.counts),
    ):
        run = ForwardPass(backend, parameters, problem.stream)
        return electra.forward(run, problem.model, problem.masked.batch, STREAM)


def loss_of(problem: Problem, vector: Array, backend: Backend = reference) -> Array:
    """Return the total loss () at the parameters ``vector`` (P,), real or complex."""
    output, _ = forward_of(problem, FlatParameters(problem.specs, vector), backend)
    return total_loss(output.terms)


def gradients_of(problem: Problem, backend: Backend = reference) -> Gradients:
    """Return the hand-written gradients; the vector starts as NaN, so nothing may be left out."""
    gradients = Gradients(problem.specs, np.full_like(problem.vector, np.nan))
    add_gradients(problem, gradients, backend)
    gradients.require_complete()
    return gradients


def add_gradients(problem: Problem, gradients: Gradients, backend: Backend = reference) -> None:
    """Add the hand-written gradients of the loss to ``gradients``."""
    _, cache = forward_of(problem, FlatParameters(problem.specs, problem.vector), backend)
    electra.backward(BackwardPass(backend, gradients), problem.model, problem.counts, cache)


def complex_step_along(problem: Problem, direction: Array, backend: Backend = reference) -> float:
    """Return the derivative of the loss along ``direction`` (P,): Im L(w + i h v) / h."""
    loss = loss_of(problem, problem.vector + 1j * COMPLEX_STEP * direction, backend)
    return float(loss.imag) / COMPLEX_STEP


def complex_step_gradient(problem: Problem) -> npt.NDArray[np.float64]:
    """Return every partial derivative (P,) of the loss, each from a forward pass of its own."""
    backend = remembering_backend()
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
    """Relative errors of a gradient, part by part, from an exact one.

    Softmax does not see a shift of all scores of a row. So the bias of the key has gradient zero,
    and what rounding leaves of it is measured against the bias of the query. ``shifts`` names
    other such parts, and what they are measured against.
    """

    def __init__(
        self,
        specs: list[ParameterSpec],
        exact: npt.NDArray[np.float64],
        shifts: Mapping[str, str] = {},
    ) -> None:
        numbers = FlatParameters(specs, np.empty_like(exact))
        parts = parts_of(numbers)
        for number, part in enumerate(parts.values()):
            part[...] = number
        self.names = list(parts)
        self._numbers = numbers.vector.astype(np.int64)
        self._exact = exact
        norms = dict(zip(self.names, self._norms(exact), strict=True))
        for name in self.names:
            scale = name.replace(".query_key_value.bias[key]", ".query_key_value.bias[query]")
            norms[name] = norms[shifts.get(name, scale)]
        self._scales = np.array(list(norms.values()))

    def errors(self, gradient: npt.NDArray[np.float64]) -> dict[str, float]:
        """Return |gradient - exact| / |exact| for every part; NaN where an entry is NaN."""
        ratios = self._norms(gradient - self._exact) / self._scales
        return dict(zip(self.names, ratios.tolist(), strict=True))

    def _norms(self, vector: Array) -> Array:
        squares: Array = np.bincount(self._numbers, vector * vector)
        return np.sqrt(squares)


class _Remembering:
    """The reference, drawing the bits of each dropout site once for all evaluations of a loss."""

    def __init__(self) -> None:
        self._bits: dict[tuple[RandomStream, int, int], Array] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(reference, name)

    def dropout_bits(self, stream: RandomStream, examples: int, count: int) -> Array:
        """Return what the reference returns."""
        key = stream, examples, count
        if key not in self._bits:
            self._bits[key] = reference.dropout_bits(stream, examples, count)
        return self._bits[key]


def remembering_backend() -> Backend:
    """Return the reference, for many evaluations of one loss."""
    return cast("Backend", _Remembering())
