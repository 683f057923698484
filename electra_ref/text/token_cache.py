"""A corpus as token ids on disk: one long stream, and where its sentences and documents end.

    tokens.bin         (tokens,)     uint16, or uint32 for a vocabulary above 65,536 entries
    sentence_ends.bin  (sentences,)  int64, number of tokens up to the end of each sentence
    document_ends.bin  (documents,)  int64, number of sentences up to the end of each document

Sentence s is tokens[sentence_ends[s - 1] : sentence_ends[s]]. No sentence or document is empty. The
files are written as streams and then memory-mapped, so a corpus may be larger than memory. The key
of the folder is a hash of the corpus and of everything else that the ids depend on.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.errors import UserError
from electra_ref.text.cache_folder import CacheFolder, map_array

FEWEST_TOKENS = 200  # a twentieth of less is no row to evaluate on

_BUFFER_TOKENS = 1 << 20


class EncodedDocument(NamedTuple):
    """The ids of one document, sentence after sentence."""

    ids: npt.NDArray[np.integer[Any]]  # (n,)
    lengths: npt.NDArray[np.int64]  # (sentences,)  they add up to n


class TokenCache(NamedTuple):
    """A tokenized corpus, mapped."""

    folder: CacheFolder
    tokens: npt.NDArray[np.uint16] | npt.NDArray[np.uint32]  # (tokens,)
    sentence_ends: npt.NDArray[np.int64]  # (sentences,)  in tokens
    document_ends: npt.NDArray[np.int64]  # (documents,)  in sentences


def token_dtype(vocab_size: int) -> type[np.uint16 | np.uint32]:
    """Return uint16 if it holds all ids of the vocabulary, otherwise uint32."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def write_tokens(folder: Path, documents: Iterable[EncodedDocument], vocab_size: int) -> None:
    """Write the documents as the three files of a cache.

    Empty sentences and documents are left out. Memory is about 10 bytes a token, for a million
    tokens or for the longest document. Raises OSError if the disk fails.
    """
    dtype = token_dtype(vocab_size)
    tokens = sentences = 0
    with ExitStack() as stack:
        token_writer, sentence_writer, document_writer = (
            _ArrayWriter(stack.enter_context(open(folder / f"{name}.bin", "wb")), kind)
            for name, kind in zip(TokenCache._fields[1:], (dtype, np.int64, np.int64), strict=True)
        )
        for ids, lengths in documents:
            ends = tokens + np.cumsum(lengths[lengths > 0], dtype=np.int64)
            if ends.size:
                tokens, sentences = int(ends[-1]), sentences + ends.size
                token_writer.append(ids)
                sentence_writer.append(ends)
                document_writer.append([sentences])
        for writer in (token_writer, sentence_writer, document_writer):
            writer.flush()


class _ArrayWriter:
    """Collects short arrays and writes them as one array."""

    def __init__(self, stream: BinaryIO, dtype: type[np.integer[Any]]) -> None:
        self._stream, self._dtype = stream, dtype
        self._waiting: list[npt.NDArray[Any]] = []
        self._length = 0

    def append(self, values: npt.ArrayLike) -> None:
        """Append integers (n,) that fit the type."""
        array = np.asarray(values, self._dtype)
        self._waiting.append(array)
        self._length += array.size
        if self._length >= _BUFFER_TOKENS:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self._stream.write(np.concatenate(self._waiting).tobytes())
        self._waiting, self._length = [], 0


def open_tokens(folder: CacheFolder, vocab_size: int) -> TokenCache:
    """Map the files that ``write_tokens`` wrote.

    Raises UserError if there are fewer than FEWEST_TOKENS tokens.
    """
    tokens = map_array(folder, "tokens.bin", token_dtype(vocab_size))
    if tokens.size < FEWEST_TOKENS:
        raise UserError(
            f"the corpus is too small: {tokens.size} tokens, need at least {FEWEST_TOKENS}"
        )
    sentence_ends = map_array(folder, "sentence_ends.bin", np.int64)
    document_ends = map_array(folder, "document_ends.bin", np.int64)
    return TokenCache(folder, tokens, sentence_ends, document_ends)
