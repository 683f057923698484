"""Logits for reading: the bits of the training forward pass, whatever else is in the batch."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from electra_ref.arrays import Array
from electra_ref.backends import Backend, cpu, reference
from electra_ref.backends.cpu import bfloat16
from electra_ref.batch import Batch
from electra_ref.model.encoder import encode
from electra_ref.model.heads.detection import detection_head
from electra_ref.model.heads.vocabulary import vocabulary_head
from electra_ref.model.inference import detection_logits, word_logits
from electra_ref.model.networks import discriminator_of, generator_of
from electra_ref.model.parameters import FlatParameters
from electra_ref.model.passes import ForwardPass
from tests.tiny_electra import STREAM, Problem, make_problem

BACKENDS: dict[str, tuple[Backend, str]] = {
    "reference": (reference, "float64"),
    "cpu": (cpu, "float32"),
    "bfloat16": (bfloat16, "float32"),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "projected": {},
    "same width": {"embedding_size": 8, "generator_hidden_size": 1.0},
    "sharing-none": {"sharing": "none"},
    "sharing-gdes": {"sharing": "gdes"},
}
# More than the products sum at a time: 256 numbers in float32, 1,024 in bfloat16.
DEEP: dict[str, Any] = {
    "hidden_size": 264,
    "num_attention_heads": 3,
    "intermediate_size": 1033,
    "embedding_size": 19,
    "max_position_embeddings": 40,
    "max_length": 37,
}


def run_of(problem: Problem, name: str, stream: object = None) -> ForwardPass:
    """Return a forward pass on the backend ``name``."""
    backend, dtype = BACKENDS[name]
    parameters = FlatParameters(problem.specs, problem.vector.astype(dtype))
    return ForwardPass(backend, parameters, stream)  # type: ignore[arg-type]


def all_logits(
    problem: Problem, run: ForwardPass, batch: Batch, positions: Array
) -> tuple[Array, Array]:
    """Return the logits of detection (B, T) and of words (B, M, V)."""
    rows = len(positions)
    detection = detection_logits(run, discriminator_of(problem.config), batch)
    words = word_logits(run, generator_of(problem.config), batch, positions)
    return detection.reshape(rows, -1), words.reshape(*positions.shape, -1)


def training_logits(
    problem: Problem, run: ForwardPass, batch: Batch, positions: Array
) -> tuple[Array, Array]:
    """Return what ``all_logits`` returns, by the functions that training uses."""
    rows = len(positions)
    discriminator, generator = discriminator_of(problem.config), generator_of(problem.config)
    hidden, _ = encode(run, discriminator, batch)
    detection, _ = detection_head(run, discriminator, hidden)
    hidden, _ = encode(run, generator, batch)
    words, _ = vocabulary_head(run, generator, hidden, positions)
    return detection.reshape(rows, -1), words.reshape(*positions.shape, -1)


@pytest.mark.parametrize("lengths", [(9, 6, 1), (9, 9)], ids=["padded", "full"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", BACKENDS)
def test_bits_are_those_of_the_training_forward_pass(
    name: str, variant: str, lengths: tuple[int, ...]
) -> None:
    """At tokens. Where the formulas read padding, a library multiplies other matrices."""
    problem = make_problem(0.5, seed=1, lengths=lengths, **VARIANTS[variant])
    batch, run = problem.masked.batch, run_of(problem, name)
    used, tokens = problem.masked.weights, batch.attention_mask
    found = all_logits(problem, run, batch, problem.masked.positions)
    expected = training_logits(problem, run, batch, problem.masked.positions)
    for got, wanted, chosen in zip(found, expected, (tokens, used), strict=True):
        if name == "reference" and not tokens.all():
            error = np.linalg.norm(got[chosen] - wanted[chosen]) / np.linalg.norm(wanted[chosen])
            assert error <= 64 * np.finfo(np.float64).eps
        else:
            np.testing.assert_array_equal(got[chosen], wanted[chosen])
        assert np.unique(got[chosen]).size == got[chosen].size
        assert got.dtype == BACKENDS[name][1]


@pytest.mark.parametrize("name", BACKENDS)
def test_nothing_is_dropped(name: str) -> None:
    problem = make_problem(0.5, seed=2, hidden_dropout=0.5, attention_dropout=0.5)
    batch, positions = problem.masked.batch, problem.masked.positions
    with_stream = all_logits(problem, run_of(problem, name, STREAM), batch, positions)
    without = all_logits(problem, run_of(problem, name), batch, positions)
    for got, expected in zip(with_stream, without, strict=True):
        np.testing.assert_array_equal(got, expected)


def chosen_rows(problem: Problem, rows: npt.NDArray[np.intp]) -> tuple[Batch, Array]:
    """Return the batch and the positions of some ``rows``."""
    masked = problem.masked
    arrays: list[Array] = [array[rows] for array in masked.batch]
    return Batch(*arrays), masked.positions[rows]


@pytest.mark.parametrize("sizes", [{}, DEEP], ids=["tiny", "deep"])
@pytest.mark.parametrize("name", ["cpu", "bfloat16"])
def test_bits_of_a_row_do_not_depend_on_the_other_rows(name: str, sizes: dict[str, Any]) -> None:
    """Alone, in any order, several times, and among few or many: the length is the same."""
    longest = sizes.get("max_length", 9)
    lengths = (longest, 6, 1, 9, 5, 2, 8, longest)
    problem = make_problem(0.2, seed=3, lengths=lengths, **sizes)
    run, random = run_of(problem, name), np.random.default_rng(4)
    expected = all_logits(problem, run, *chosen_rows(problem, np.arange(len(lengths))))
    for count in (1, 1, 2, 3, 5, 7, 16, 33):
        rows = random.integers(0, len(lengths), count)
        for got, whole in zip(
            all_logits(problem, run, *chosen_rows(problem, rows)), expected, strict=True
        ):
            np.testing.assert_array_equal(got, whole[rows])


@pytest.mark.parametrize("sizes", [{}, DEEP], ids=["tiny", "deep"])
def test_bits_of_a_row_do_not_depend_on_its_padding(sizes: dict[str, Any]) -> None:
    """In float32 on the CPU a row is the same alone, and padded with any number of tokens."""
    problem = make_problem(
        0.2, seed=6, lengths=(9, 7, 2, 5), **{**sizes, "max_position_embeddings": 300}
    )
    run, (batch, positions) = run_of(problem, "cpu"), chosen_rows(problem, np.arange(4))
    expected = all_logits(problem, run, batch, positions)
    length = batch.input_ids.shape[1]
    for more in (1, 22, 23, 24, 55, 56, 100, 190, 256):
        arrays: list[Array] = [np.pad(array, ((0, 0), (0, more))) for array in batch]
        longer, words = all_logits(problem, run, Batch(*arrays), positions)
        np.testing.assert_array_equal(words, expected[1])
        tokens = batch.attention_mask
        np.testing.assert_array_equal(longer[:, :length][tokens], expected[0][tokens])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_by_the_formulas_other_rows_change_no_more_than_rounding(dtype: str) -> None:
    """A library multiplies there, and may sum in an order that depends on the rows."""
    problem = make_problem(0.2, seed=3, lengths=(37, 6, 1, 9), **DEEP)
    parameters = FlatParameters(problem.specs, problem.vector.astype(dtype))
    run = ForwardPass(reference, parameters, None)
    whole = all_logits(problem, run, *chosen_rows(problem, np.arange(4)))
    for row in range(4):
        alone = all_logits(problem, run, *chosen_rows(problem, np.array([row])))
        for got, expected in zip(alone, whole, strict=True):
            error = np.linalg.norm(got[0] - expected[row]) / np.linalg.norm(expected[row])
            assert error <= 64 * np.finfo(dtype).eps


@pytest.mark.parametrize("name", BACKENDS)
def test_memory_does_not_grow_with_the_depth(name: str) -> None:
    """The memory at one time, parameters apart: caches of every layer would be four times as many.

    The rows are many, so that the arrays outweigh by far what Python keeps for each layer.
    """
    peaks = []
    for layers in (3, 12):
        problem = make_problem(
            0.1, seed=5, lengths=(9,) * 64, num_hidden_layers=layers, hidden_size=64
        )
        run, discriminator = run_of(problem, name), discriminator_of(problem.config)
        detection_logits(run, discriminator, problem.masked.batch)  # compiles
        tracemalloc.start()
        detection_logits(run, discriminator, problem.masked.batch)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] <= 1.2 * peaks[0]
