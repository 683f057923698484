"""Packed examples on disk, and the batches that are assembled from them.

The examples of a corpus are packed once for each set of rules, shard by shard. They are kept beside
the token cache as a memory-mapped index: one file for training, one for the held-out documents. A
batch is assembled when it is needed. The step alone decides which examples it holds,
so a resumed run needs no position in the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from electra_ref.batch import Batch, SpecialTokens
from electra_ref.rng import EVALUATION, shuffled
from electra_ref.text.cache_folder import CacheFolder, cache_key, open_or_build
from electra_ref.text.example_index import ExampleIndex, IndexWriter
from electra_ref.text.holding_out import Division, choose, divide
from electra_ref.text.joined_tokens import JoinedTokens
from electra_ref.text.packing import PackingRules, pack
from electra_ref.text.token_cache import TokenCache

TRAINING, HELD_OUT = "training.bin", "held_out.bin"

OnTokens = Callable[[int, int], None]  # called with the tokens packed so far, and all; may raise
Part = tuple[Division, int]  # documents of a shard, and the number of the first in the corpus


@dataclass(frozen=True)
class ExampleSource:
    """The examples of one part of a corpus; numbered from 0."""

    cache: TokenCache
    folder: CacheFolder
    index: ExampleIndex
    documents: int  # that the examples come from

    @property
    def count(self) -> int:
        return len(self.index)

    @property
    def tokens(self) -> int:
        """Number of corpus tokens in all examples, without special tokens."""
        return self.index.tokens

    def batch(
        self, numbers: npt.NDArray[np.int64], max_length: int, special_tokens: SpecialTokens
    ) -> Batch:
        """Assemble the examples ``numbers`` (B,) as rows of T = ``max_length`` tokens.

        ``max_length`` must be that of the packing. Raises UserError if the cached files became
        shorter while they were mapped, and ValueError if an example is longer than ``max_length``.
        """
        examples = self.index.rows(numbers)
        self.cache.tokens.check(examples[:, 0])
        return assemble(self.cache.tokens, examples, max_length, special_tokens)

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
    tokens: npt.NDArray[Any] | JoinedTokens,
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
    on_tokens: OnTokens = lambda _done, _all: None,
    *,
    contents: bool = True,
) -> tuple[ExampleSource, ExampleSource]:
    """Return the examples for training and the held-out ones, packed now or in an earlier run.

    Which documents are held out depends on ``held_out_fraction`` and ``rules.seed``, not on the
    other rules: see ``holding_out``. ``contents`` is that of ``open_intact``.
    """
    key = cache_key("examples", tokens=cache.folder.key, held_out=held_out_fraction, rules=rules)

    def parts() -> Iterator[Part]:
        def looked_at(_: int) -> None:
            on_tokens(0, cache.tokens.size)

        shares = choose(cache, len(cache.shards), held_out_fraction, rules.seed, looked_at)
        for shard, first in enumerate(shares.first_documents):
            yield divide(cache.documents(shard), shares, shard), first

    def build(folder: Path) -> dict[str, Any]:
        return _write_examples(folder, cache, rules, parts(), on_tokens)

    folder = open_or_build(cache_dir, key, build, on_wait, contents=contents)
    return _source(cache, folder, TRAINING), _source(cache, folder, HELD_OUT)


def open_all_examples(
    cache_dir: Path,
    cache: TokenCache,
    rules: PackingRules,
    on_wait: Callable[[], None] = lambda: None,
    on_tokens: OnTokens = lambda _done, _all: None,
) -> ExampleSource:
    """Return the examples of all documents, packed now or in an earlier run."""
    key = cache_key("examples", tokens=cache.folder.key, held_out=1, rules=rules)

    def parts() -> Iterator[Part]:
        first = 0
        for shard in range(len(cache.shards)):
            _, sentence_ends, document_ends, _ = cache.documents(shard)
            everything = np.ones(document_ends.size, np.bool_)
            yield Division(sentence_ends, document_ends, everything), first
            first += document_ends.size

    def build(folder: Path) -> dict[str, Any]:
        return _write_examples(folder, cache, rules, parts(), on_tokens)

    return _source(cache, open_or_build(cache_dir, key, build, on_wait), HELD_OUT)


def _write_examples(
    folder: Path,
    cache: TokenCache,
    rules: PackingRules,
    parts: Iterator[Part],
    on_tokens: OnTokens,
) -> dict[str, Any]:
    """Write the files TRAINING and HELD_OUT; return the facts of each."""
    with ExitStack() as stack:
        streams = {n: stack.enter_context(open(folder / n, "wb")) for n in (TRAINING, HELD_OUT)}
        writers = {name: IndexWriter(stream) for name, stream in streams.items()}
        documents = dict.fromkeys(writers, 0)
        for shard, (division, first) in enumerate(parts):
            start = int(cache.tokens.starts[shard])
            on_tokens(start, cache.tokens.size)
            for name, mask in ((TRAINING, ~division.held_out), (HELD_OUT, division.held_out)):
                chosen = np.flatnonzero(mask)
                documents[name] += chosen.size
                for examples in pack(*division[:2], chosen, rules, first):
                    writers[name].append(examples + start)
        return {name: {**w.facts(), "documents": documents[name]} for name, w in writers.items()}


def _source(cache: TokenCache, folder: CacheFolder, name: str) -> ExampleSource:
    facts = folder.facts[name]
    return ExampleSource(cache, folder, ExampleIndex(folder, name, facts), facts["documents"])
