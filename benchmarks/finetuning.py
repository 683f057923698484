"""What is timed of electra_ref: fine-tuning a classifier of rows, and asking it; and what rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.electra_step import FIRST_WORD, SPECIAL_TOKENS, open_rival
from benchmarks.prediction import DEVIATION, SEED
from electra_ref.arrays import Array
from electra_ref.backends import reference
from electra_ref.batch import Batch
from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.freed_memory import keep_freed_memory
from electra_ref.model.heads.classification import LabelTargets
from electra_ref.model.labelled import FineTuned, Head, LabelledBatch
from electra_ref.model.networks import full_size_encoder
from electra_ref.model.objectives import fine_tuning
from electra_ref.model.parameters import FlatParameters, initial_values
from electra_ref.model.passes import ForwardPass
from electra_ref.training.optimizer import TrainingState
from electra_ref.training.step import train_step

LABELS = 2
MULTIPLE = 8  # rows are padded to a multiple of it
SHORTEST, LONGEST = 3, 64
# Pieces of a row without [CLS] and [SEP] are drawn from a log-normal distribution: the mean and the
# standard deviation of their logarithm in SST-2 (phrases: train.tsv, sentences: dev.tsv).
WORKLOADS = {"phrases": (2.0, 0.93), "sentences": (3.0, 0.52)}
Logits = npt.NDArray[np.float32]


class Reading(NamedTuple):
    """Rows to learn from, or to answer, in one turn."""

    lengths: Sequence[int]  # tokens of each row
    batch_size: int
    learns: bool
    expected: Sequence[Logits] | None = None  # of each batch (B, K)


class Pair(NamedTuple):
    """The two things a rival can do with a batch."""

    learn: Callable[[LabelledBatch], float]  # take a training step, return the loss
    answer: Callable[[Batch], Array]  # return the logits (B, K), on the host


def row_lengths(workload: str, rows: int, longest: int) -> list[int]:
    """Return the tokens of ``rows`` rows of a ``workload``, at most ``longest``."""
    mean, deviation = WORKLOADS[workload]
    pieces = np.random.default_rng(SEED).lognormal(mean, deviation, rows)
    lengths = np.clip(np.rint(pieces) + 2, SHORTEST, min(LONGEST, longest))
    return [int(length) for length in lengths]


def batches_of(reading: Reading, vocab_size: int) -> Iterator[LabelledBatch]:
    """Yield the rows sorted by length, each batch padded to a multiple of ``MULTIPLE``.

    In training the batches come in a random order.
    """
    random = np.random.default_rng(SEED)
    lengths = np.sort(reading.lengths)
    starts = np.arange(0, lengths.size, reading.batch_size)
    for start in random.permutation(starts) if reading.learns else starts:
        rows = lengths[start : start + reading.batch_size]
        tokens = np.arange(-(-rows[-1] // MULTIPLE) * MULTIPLE) < rows[:, None]
        ids = random.integers(FIRST_WORD, vocab_size, tokens.shape)
        ids[:, 0] = SPECIAL_TOKENS.cls
        ids[np.arange(rows.size), rows - 1] = SPECIAL_TOKENS.sep
        ids[~tokens] = SPECIAL_TOKENS.pad
        batch = Batch(ids.astype(np.int32), np.zeros(ids.shape, np.int32), tokens)
        labels = random.integers(0, LABELS, rows.size).astype(np.int32)
        yield LabelledBatch(batch, LabelTargets(labels, np.ones(rows.size, np.float32)))


def model_of(config: FinetuningConfig) -> FineTuned:
    """Return the classifier; its head is that of Hugging Face's class."""
    head = Head("classification", "huggingface", LABELS, config.head_dropout)
    return FineTuned(full_size_encoder(config), head)


def drawn_parameters(config: FinetuningConfig, deviation: float) -> FlatParameters:
    """Return drawn parameters in float32."""
    specs = fine_tuning.parameter_specs(model_of(config))
    return FlatParameters(specs, initial_values(specs, config.seed, deviation, "float32"))


def expected_logits(config: FinetuningConfig, reading: Reading) -> list[Logits]:
    """Return the logits (B, K) of each batch by the reference formulas in float64.

    The parameters are larger than initial ones, so that all parts of the network move the logits.
    """
    parameters = drawn_parameters(config, DEVIATION)
    exact = FlatParameters(parameters.specs, parameters.vector.astype(np.float64))
    run, model = ForwardPass(reference, exact, None), model_of(config)
    return [
        fine_tuning.answer(run, model, batch).astype(np.float32)
        for batch in batches_of(reading, config.vocab_size)
    ]


def stepper(
    config: FinetuningConfig, pair_with: Callable[[float], Pair]
) -> Callable[[Reading], dict[str, float]]:
    """Return a step that learns from, or answers, the rows of a ``Reading``.

    ``pair_with`` returns a rival whose parameters are drawn with this standard deviation.
    """
    initial, checked = pair_with(config.initializer_range), pair_with(DEVIATION)

    def step(reading: Reading) -> dict[str, float]:
        batches = batches_of(reading, config.vocab_size)
        if reading.expected is not None:
            found = np.concatenate([checked.answer(batch.tokens) for batch in batches])
            wanted = np.concatenate(reading.expected)
            return {"error": float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))}
        if reading.learns:
            return {"loss": float(np.mean([initial.learn(batch) for batch in batches]))}
        for batch in batches:
            initial.answer(batch.tokens)
        return {}

    return step


def prepare_electra_ref(
    config: FinetuningConfig, device: str, precision: str
) -> Callable[[Reading], dict[str, float]]:
    """Return a step of this project's classifier."""
    opened = open_rival(device, precision)
    keep_freed_memory()  # as the commands do
    backend, model = opened.backend, model_of(config)

    def pair_with(deviation: float) -> Pair:
        parameters = drawn_parameters(config, deviation)
        state = TrainingState(backend, list(parameters.specs), parameters.vector)
        run = ForwardPass(backend, state.parameters, None)
        return Pair(
            lambda batch: train_step(config, backend, fine_tuning, model, state, [batch]).loss,
            lambda batch: fine_tuning.answer(run, model, _without_labels(batch)),
        )

    return stepper(config, pair_with)


def _without_labels(batch: Batch) -> LabelledBatch:
    rows = len(batch.input_ids)
    return LabelledBatch(batch, LabelTargets(np.zeros(rows, np.int32), np.zeros(rows, np.float32)))
