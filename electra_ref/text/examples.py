"""Packed examples on disk, and the batches that are assembled from them.

The examples of a corpus are packed once for each set of rules. They are kept beside the token cache
as memory-mapped rows (start, split, end) of int64: one file for training, one for the held-out
documents. A batch is assembled when it is needed. The step alone decides which examples it holds,
so a resumed run needs no position in the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from electra_ref.batch import Batch, SpecialTokens
from electra_ref.rng import EVALUATION, shuffled
from electra_ref.text.cache_folder import (
    CacheFolder,
    cache_key,
    check_size,
    map_array,
    open_or_build,
)
from electra_ref.text.holding_out import divide
from electra_ref.text.packing import PackingRules, pack
from electra_ref.text.token_cache import TokenCache

TRAINING, HELD_OUT = "training.bin", "held_out.bin"


@dataclass(frozen=True)
class ExampleSource:
    """The examples of one part of a corpus; numbered from 0."""

    cache: TokenCache
    folder: CacheFolder
    file_name: str
    examples: npt.NDArray[np.int64]  # (count, 3)  start, split, end; mapped
    documents: int  # that the examples come from

    @property
    def count(self) -> int:
        return len(self.examples)

    @property
    def tokens(self) -> int:
        """Number of corpus tokens in all examples, without special tokens."""
        return int(self.examples[:, 2].sum() - self.examples[:, 0].sum())

    def batch(
        self, numbers: npt.NDArray[np.int64], max_length: int, special_tokens: SpecialTokens
    ) -> Batch:
        """Assemble the examples ``numbers`` (B,) as rows of T = ``max_length`` tokens.

        ``max_length`` must be that of the packing. Raises UserError if the cached files became
        shorter while they were mapped, and ValueError if an example is longer than ``max_length``.
        """
        check_size(self.cache.folder, "tokens.bin")
        check_size(self.folder, self.file_name)
        return assemble(self.cache.tokens, self.examples[numbers], max_length, special_tokens)

    def training_examples(self, step: int, batch_size: int, seed: int) -> npt.NDArray[np.int64]:
        """Return the numbers (batch_size,) of the examples of step 0, 1, 2, ...

        Every epoch is a permutation of all examples, keyed by (seed, epoch). A batch may hold the
        end of one epoch and the start of the next.
        """
        positions = np.arange(step * batch_size, (step + 1) * batch_size)
        epochs = positions // self.count
        numbers = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            chosen = epochs == epoch
            numbers[chosen] = shuffled(positions[chosen] % self.count, self.count, seed, epoch)
        return numbers

    def evaluation_examples(self, most: int, seed: int) -> npt.NDArray[np.int64]:
        """Return the numbers of at most ``most`` different examples, the same at every call.

        They come from a permutation that no epoch of training has.
        """
        return shuffled(np.arange(min(most, self.count)), self.count, seed, epoch=EVALUATION)


def assemble(
    tokens: npt.NDArray[Any],
    examples: npt.NDArray[np.int64],
    max_length: int,
    special_tokens: SpecialTokens,
) -> Batch:
    """Put ``examples`` (B, 3) of the stream ``tokens`` into rows of T = ``max_length``.

    A row is [CLS] A [SEP] or [CLS] A [SEP] B [SEP], then padding. Segment 1 is B and its [SEP].
    Raises ValueError if a row would be longer.
    """
    input_ids = np.full((len(examples), max_length), special_tokens.pad, np.int32)
    token_type_ids = np.zeros_like(input_ids)
    lengths = examples[:, 2] - examples[:, 0] + 2 + (examples[:, 1] < examples[:, 2])
    if lengths.max(initial=0) > max_length:
        raise ValueError(f"an example of {lengths.max()} tokens does not fit {max_length}")
    input_ids[:, 0] = special_tokens.cls
    for ids, types, (start, split, end) in zip(
        input_ids, token_type_ids, examples.tolist(), strict=True
    ):
        first_end = 1 + split - start
        ids[1:first_end] = tokens[start:split]
        ids[first_end] = special_tokens.sep
        if end > split:
            second_end = first_end + 1 + end - split
            ids[first_end + 1 : second_end] = tokens[split:end]
            ids[second_end] = special_tokens.sep
            types[first_end + 1 : second_end + 1] = 1
    return Batch(input_ids, token_type_ids, np.arange(max_length) < lengths[:, None])


def open_examples(
    cache_dir: Path,
    cache: TokenCache,
    rules: PackingRules,
    held_out_fraction: float,
    on_wait: Callable[[], None] = lambda: None,
) -> tuple[ExampleSource, ExampleSource]:
    """Return the examples for training and the held-out ones, packed now or in an earlier run.

    Which documents are held out depends on ``held_out_fraction`` and ``rules.seed``, not on the
    other rules: see ``holding_out``.
    """
    key = cache_key("examples", tokens=cache.folder.key, held_out=held_out_fraction, rules=rules)

    def build(folder: Path) -> dict[str, Any]:
        sentence_ends, document_ends, held_out = divide(
            cache.tokens, cache.sentence_ends, cache.document_ends, held_out_fraction, rules.seed
        )
        for name, part in ((TRAINING, ~held_out), (HELD_OUT, held_out)):
            with open(folder / name, "wb") as stream:
                for examples in pack(sentence_ends, document_ends, np.flatnonzero(part), rules):
                    stream.write(examples.tobytes())
        return {TRAINING: int((~held_out).sum()), HELD_OUT: int(held_out.sum())}

    folder = open_or_build(cache_dir, key, build, on_wait)
    return _source(cache, folder, TRAINING), _source(cache, folder, HELD_OUT)


def open_all_examples(
    cache_dir: Path,
    cache: TokenCache,
    rules: PackingRules,
    on_wait: Callable[[], None] = lambda: None,
) -> ExampleSource:
    """Return the examples of all documents, packed now or in an earlier run."""
    key = cache_key("examples", tokens=cache.folder.key, held_out=1, rules=rules)

    def build(folder: Path) -> dict[str, Any]:
        documents = np.arange(cache.document_ends.size)
        with open(folder / HELD_OUT, "wb") as stream:
            for examples in pack(cache.sentence_ends, cache.document_ends, documents, rules):
                stream.write(examples.tobytes())
        return {HELD_OUT: documents.size}

    return _source(cache, open_or_build(cache_dir, key, build, on_wait), HELD_OUT)


def _source(cache: TokenCache, folder: CacheFolder, name: str) -> ExampleSource:
    examples = map_array(folder, name, np.int64, columns=3)
    return ExampleSource(cache, folder, name, examples, folder.facts[name])
