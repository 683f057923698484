"""What is timed of electra_ref: reading texts with the discriminator; and what texts there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.electra_step import FIRST_WORD, SPECIAL_TOKENS, open_rival, synchronizer
from electra_ref.arrays import Array
from electra_ref.backends import reference
from electra_ref.batch import Batch
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.freed_memory import keep_freed_memory
from electra_ref.model.encoder import encoder_specs
from electra_ref.model.heads.detection import detection_head_specs
from electra_ref.model.inference import detection_logits
from electra_ref.model.networks import discriminator_of
from electra_ref.model.parameters import FlatParameters, initial_values
from electra_ref.model.passes import ForwardPass

LONGEST_SENTENCE = 128
LONG_TEXTS_TOKENS = 8192  # of all texts of a workload of one length
SEED = 0
DEVIATION = 0.1  # of the parameters
Logits = npt.NDArray[np.float32]


class Reading(NamedTuple):
    """Texts to read in one turn."""

    lengths: Sequence[int]  # tokens of each text
    batch_tokens: int  # most tokens of a batch, padding included, if it has more than one text
    expected: Sequence[Logits] | None = None  # of each batch (B, T)


def text_lengths(workload: str, texts: int, longest: int) -> list[int]:
    """Return the tokens of each text of a ``workload``, at most ``longest``."""
    if workload != "sentences":
        length = min(int(workload), longest)
        return [length] * max(1, LONG_TEXTS_TOKENS // length)
    lengths = np.array(sentence_lengths())
    chosen = np.random.default_rng(SEED).choice(lengths, texts)
    return [int(length) for length in np.minimum(chosen, min(LONGEST_SENTENCE, longest))]


def sentence_lengths() -> list[int]:
    """Return the words and punctuation marks of each sentence of Python's documentation, plus 2."""
    from pydoc_data.topics import topics  # noqa: PLC0415  (large, and not always needed)

    paragraphs = re.split(r"\n\s*\n", "\n\n".join(topics.values()))
    lines = (" ".join(paragraph.split()) for paragraph in paragraphs)
    sentences = (sentence for line in lines for sentence in re.split(r"(?<=[.!?:])\s+", line))
    return [2 + len(re.findall(r"\w+|[^\w\s]", s)) for s in sentences if re.search(r"\w", s)]


def batches_of(reading: Reading, vocab_size: int) -> Iterator[Batch]:
    """Yield the texts, the longest first, in batches padded to their longest text."""
    random = np.random.default_rng(SEED)
    lengths = sorted(reading.lengths, reverse=True)
    while lengths:
        count = max(1, reading.batch_tokens // lengths[0])
        rows, lengths = np.array(lengths[:count]), lengths[count:]
        tokens = np.arange(rows[0]) < rows[:, None]
        ids = random.integers(FIRST_WORD, vocab_size, tokens.shape)
        ids[:, 0] = SPECIAL_TOKENS.cls
        ids[np.arange(rows.size), rows - 1] = SPECIAL_TOKENS.sep
        ids[~tokens] = SPECIAL_TOKENS.pad
        yield Batch(ids.astype(np.int32), np.zeros(ids.shape, np.int32), tokens)


def discriminator_parameters(config: PretrainingConfig) -> FlatParameters:
    """Return drawn parameters of the discriminator alone, in float32.

    They are larger than initial ones, so that all parts of the network move the logits.
    """
    network = discriminator_of(config)
    specs = [*encoder_specs(network), *detection_head_specs(network)]
    values = initial_values(specs, config.seed, DEVIATION, "float32")
    return FlatParameters(specs, values)


def expected_logits(config: PretrainingConfig, reading: Reading) -> list[Logits]:
    """Return the logits (B, T) of each batch, by the reference formulas in float64."""
    parameters = discriminator_parameters(config)
    exact = FlatParameters(parameters.specs, parameters.vector.astype(np.float64))
    run = ForwardPass(reference, exact, None)
    network = discriminator_of(config)
    return [
        detection_logits(run, network, batch).reshape(batch.input_ids.shape).astype(np.float32)
        for batch in batches_of(reading, config.vocab_size)
    ]


def reader(
    config: PretrainingConfig, logits_of: Callable[[Batch], Array]
) -> Callable[[Reading], dict[str, float]]:
    """Return a step that reads texts with ``logits_of``, which returns (B, T) on the host."""

    def step(reading: Reading) -> dict[str, float]:
        found, padding, size = [], 0, 0
        for batch in batches_of(reading, config.vocab_size):
            logits = logits_of(batch)
            size += batch.attention_mask.size
            padding += batch.attention_mask.size - int(batch.attention_mask.sum())
            if reading.expected is not None:
                found.append((logits, batch.attention_mask))
        figures = {"padding": padding / size}
        if reading.expected is not None:
            figures["error"] = relative_error(found, reading.expected)
        return figures

    return step


def relative_error(found: Sequence[tuple[Array, Array]], expected: Sequence[Logits]) -> float:
    """Return the norm of the differences relative to that of the logits, padding left out."""
    differences = [
        (logits - right)[tokens] for (logits, tokens), right in zip(found, expected, strict=True)
    ]
    wanted = [right[tokens] for (_, tokens), right in zip(found, expected, strict=True)]
    difference, norm = (np.linalg.norm(np.concatenate(parts)) for parts in (differences, wanted))
    return float(difference / norm)


def prepare_electra_ref(
    config: PretrainingConfig, device: str, precision: str
) -> Callable[[Reading], dict[str, float]]:
    """Return a step that reads texts with this project's discriminator."""
    opened = open_rival(device, precision)
    keep_freed_memory()  # as the command does
    backend, network = opened.backend, discriminator_of(config)
    parameters = discriminator_parameters(config)
    on_device = FlatParameters(parameters.specs, backend.to_device(parameters.vector))
    run, wait = ForwardPass(backend, on_device, None), synchronizer(opened)

    def logits_of(batch: Batch) -> Array:
        logits = detection_logits(run, network, Batch(*map(backend.to_device, batch)))
        wait()
        return backend.to_host(logits).reshape(batch.input_ids.shape)

    return reader(config, logits_of)
