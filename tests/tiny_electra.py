"""A model small enough to differentiate entry by entry, and one corrupted batch for it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from electra_ref.masking import MaskedBatch
from electra_ref.sampling import CorruptedBatch, corrupt

from electra_ref.arrays import Array
from electra_ref.backends import Backend
from electra_ref.backends.reference import ReferenceBackend
from electra_ref.batch import Batch
from electra_ref.config import Config
from electra_ref.model.electra import (
    Electra,
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

VOCAB_SIZE = 13
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


def loss_of(problem: Problem, vector: Array, backend: Backend | None = None) -> Array:
    """Return the total loss () at the parameters ``vector`` (P,), real or complex."""
    output, _ = electra_forward(
        backend or ReferenceBackend(),
        FlatParameters(problem.specs, vector),
        problem.electra,
        problem.masked,
        lambda _: problem.corrupted,
        problem.dropout_stream,
    )
    return total_loss(problem.electra, output, problem.counts)


def gradients_of(problem: Problem, backend: Backend | None = None) -> FlatGradients:
    """Return the hand-written gradients; the vector starts as NaN, so nothing may be left out."""
    backend = backend or ReferenceBackend()
    gradients = FlatGradients(problem.specs, np.full_like(problem.vector, np.nan))
    _, cache = electra_forward(
        backend,
        FlatParameters(problem.specs, problem.vector),
        problem.electra,
        problem.masked,
        lambda _: problem.corrupted,
        problem.dropout_stream,
    )
    electra_backward(backend, gradients, problem.electra, problem.counts, cache)
    return gradients


def complex_step_gradient(problem: Problem, step: float = 1e-30) -> npt.NDArray[np.float64]:
    """Return every partial derivative as Im L(w + i h e_k) / h: no difference, no cancellation.

    Source: Squire and Trapp 1998, SIAM Review 40(1), 110-112.
    """
    vector = problem.vector.astype(np.complex128)
    gradient = np.empty_like(problem.vector)
    for k in range(vector.size):
        vector[k] += 1j * step
        gradient[k] = loss_of(problem, vector).imag / step
        vector[k] = problem.vector[k]
    return gradient
