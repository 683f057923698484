"""What is timed of electra_ref: a training step on a backend, and the data work of a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.tokenizer import read_documents
from electra_ref import arrays
from electra_ref.backends import OpenedBackend, open_backend
from electra_ref.batch import Batch, SpecialTokens
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.errors import UserError
from electra_ref.freed_memory import keep_freed_memory
from electra_ref.masking import mask_tokens, masked_slots
from electra_ref.model.objectives.table import objective_of
from electra_ref.rng import Purpose, RandomStream
from electra_ref.sampling import corrupt, sample_tokens
from electra_ref.text.examples import assemble
from electra_ref.text.packing import PackingRules, pack
from electra_ref.text.vocabulary import train_vocabulary
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.pretraining.task import initial_state
from electra_ref.training.step import train_step

SPECIAL_TOKENS = SpecialTokens(pad=0, unknown=1, cls=2, sep=3, mask=4)
FIRST_WORD = 5
STREAM_TOKENS = 1 << 16
TOKENIZER_WORDS = 8192  # for the text of ``tokenizer``, whatever the vocabulary of the model
LONGEST_SENTENCE, SENTENCES_OF_A_DOCUMENT = 40, 24


def open_rival(device: str, precision: str) -> OpenedBackend:
    """Return the backend that computes on ``device`` in ``precision``.

    Raises UserError if there is none. (A training run would take float32 instead of bfloat16.)
    """
    opened = open_backend(device, precision)
    if precision == "bfloat16" and "bfloat16" not in opened.name:
        raise UserError("this processor has no AVX512_BF16")
    return opened


def prepare_electra_ref(
    config: PretrainingConfig, device: str, precision: str
) -> Callable[[Batch], dict[str, float]]:
    """Return a step that trains ``config`` on a batch: from masking to updated parameters."""
    opened = open_rival(device, precision)
    keep_freed_memory()  # as the training command does
    objective = objective_of(config)
    model = objective.model_of(config, config, SPECIAL_TOKENS)
    state = initial_state(config, opened.backend, model, opened.dtype)
    wait = synchronizer(opened)

    def step(batch: Batch) -> dict[str, float]:
        result = train_step(config, opened.backend, objective, model, state, [batch])
        wait()  # the update may still be under way
        figures = {"loss": result.loss}
        if opened.device == "gpu":
            figures["device_bytes"] = arrays.import_cupy().get_default_memory_pool().total_bytes()
        return figures

    return step


def synchronizer(opened: OpenedBackend) -> Callable[[], None]:
    """Return a function that waits until the device has finished all its work."""
    if opened.device == "gpu":
        synchronize: Callable[[], None] = arrays.import_cupy().cuda.Device().synchronize
        return synchronize
    return lambda: None


class TokenStream(NamedTuple):
    """Invented text, in the form of the token cache."""

    tokens: npt.NDArray[np.int32]  # (tokens,)
    sentence_ends: npt.NDArray[np.int64]  # (sentences,)  counts tokens
    document_ends: npt.NDArray[np.int64]  # (documents,)  counts sentences


def token_stream(vocab_size: int, seed: int) -> TokenStream:
    """Return uniform tokens, in sentences of random lengths and documents of 24 sentences."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, LONGEST_SENTENCE + 1, STREAM_TOKENS // (LONGEST_SENTENCE // 2))
    ends = np.cumsum(lengths)
    tokens = rng.integers(FIRST_WORD, vocab_size, ends[-1]).astype(np.int32)
    documents = np.arange(SENTENCES_OF_A_DOCUMENT, ends.size, SENTENCES_OF_A_DOCUMENT)
    return TokenStream(tokens, ends, np.append(documents, ends.size))


def packing_rules(config: PretrainingConfig) -> PackingRules:
    """Return the packing rules of a run of ``config``."""
    return PackingRules(
        config.row_length, config.single_segment_probability, config.short_probability, config.seed
    )


def make_batches(config: PretrainingConfig, count: int) -> Iterator[Batch]:
    """Yield ``count`` batches of packed rows, the same for every rival."""
    stream = token_stream(config.vocab_size, config.seed)
    documents = np.arange(stream.document_ends.size)
    parts = pack(stream.sentence_ends, stream.document_ends, documents, packing_rules(config))
    examples = np.concatenate(list(parts))
    rng = np.random.default_rng(config.seed)
    for _ in range(count):
        chosen = examples[rng.integers(0, len(examples), config.batch_size)]
        yield assemble(stream.tokens, chosen, config.row_length, SPECIAL_TOKENS)


def prepare_data_work(config: PretrainingConfig) -> Callable[[Any], dict[str, float]]:
    """Return a step that does the data work of one step and returns the seconds of each part.

    A run tokenizes and packs a corpus only once, so the seconds of these parts are scaled to the
    tokens that a step reads. The text is new to the tokenizer each time.
    """
    documents_of_text = read_documents(None)
    vocabulary = train_vocabulary(documents_of_text, TOKENIZER_WORDS)
    stream = token_stream(config.vocab_size, config.seed)
    documents = np.arange(stream.document_ends.size)
    rules = packing_rules(config)
    slots = masked_slots(config.row_length, config.mask_probability)
    rows = config.batch_size * slots
    logits = np.random.default_rng(0).standard_normal((rows, config.vocab_size), np.float32)
    random = RandomStream(config.seed, Purpose.MASK, 0)
    step_tokens = config.batch_size * config.row_length

    def step(_: Any) -> dict[str, float]:
        tokenizer = WordPiece(vocabulary)
        times = [time.perf_counter()]
        pieces = tokenizer.encode_lines(documents_of_text).ids.size
        times.append(time.perf_counter())
        parts = list(pack(stream.sentence_ends, stream.document_ends, documents, rules))
        times.append(time.perf_counter())
        chosen = np.resize(np.concatenate(parts), (config.batch_size, 3))
        batch = assemble(stream.tokens, chosen, config.row_length, SPECIAL_TOKENS)
        times.append(time.perf_counter())
        masked = mask_tokens(batch, SPECIAL_TOKENS, config.mask_probability, random)
        times.append(time.perf_counter())
        corrupt(masked, sample_tokens(logits, config.temperature, random, slots))
        times.append(time.perf_counter())
        tokenizing, packing, assembly, masking, sampling = np.diff(times).tolist()
        return {
            "tokenizing": tokenizing * step_tokens / pieces,
            "packing": packing * step_tokens / stream.tokens.size,
            "batch assembly": assembly,
            "masking": masking,
            "sampling": sampling,
        }

    return step
