"""A corpus as token ids on disk: one long stream, and where its sentences and documents end.

    tokens.bin         (tokens,)     uint16, or uint32 for a vocabulary above 65,536 entries
    sentence_ends.bin  (sentences,)  int64, number of tokens up to the end of each sentence
    document_ends.bin  (documents,)  int64, number of sentences up to the end of each document

Sentence s is tokens[sentence_ends[s - 1] : sentence_ends[s]]. No sentence or document is empty. The
files are written as streams and then memory-mapped, so a corpus may be larger than memory. The key
of the folder is a hash of the corpus and of everything else that the ids depend on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.batch import SPECIAL_TOKENS
from electra_ref.errors import UserError
from electra_ref.text.cache_folder import CacheFolder, map_array

FEWEST_TOKENS = 200  # a twentieth of less is no row to evaluate on
LONGEST_ID_DOCUMENT = 1 << 16  # tokens; a longer row or stream of ids is cut into documents
LARGEST_ID = 10_000_000  # every id needs a name and a row of the embedding table
ID_SHIFT = 5  # [PAD] [UNK] [CLS] [SEP] [MASK] take ids 0 to 4

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


def open_id_array(path: str) -> npt.NDArray[np.integer[Any]]:
    """Map the .npy file of ``--tokens``: integers, (tokens,) or (documents, tokens).

    Raises UserError for any other file and for an array without elements.
    """
    if not os.path.isfile(path):
        raise UserError(f"cannot read the token ids {path!r}: no such file")
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # unlike numpy.load, it reads no pickles
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is no array of integers saved by numpy.save: {reason}") from error
    if array.dtype.kind not in "iu":
        raise UserError(f"{path} holds {array.dtype}, but token ids are integers")
    if array.size == 0:
        raise UserError(f"{path} is an array without elements")
    if array.ndim not in (1, 2):
        raise UserError(
            f"{path} has the shape {array.shape}; expected (tokens,) or (documents, tokens)"
        )
    return array


def largest_id(ids: npt.NDArray[np.integer[Any]], path: str) -> int:
    """Return the largest id; read the mapped array in pieces.

    Raises UserError if all ids are negative (padding) or one is above LARGEST_ID.
    """
    largest = max(int(piece.max()) for piece in _pieces(ids))
    if largest < 0:
        raise UserError(f"{path} holds nothing but padding: every id is negative")
    if largest > LARGEST_ID:
        raise UserError(f"{path} holds the id {largest}; renumber to at most {LARGEST_ID}")
    return largest


def id_documents(
    ids: npt.NDArray[np.integer[Any]], on_ids: Callable[[int], None] | None = None
) -> Iterator[EncodedDocument]:
    """Yield the documents of an array of ids, with ID_SHIFT added to each id.

    A document is a row. A longer row and a (tokens,) stream are cut into documents of
    LONGEST_ID_DOCUMENT tokens. A document is one sentence, so it is always segment A. Negative ids
    are padding and are dropped.
    """
    for piece in _pieces(ids):
        shifted = piece[piece >= 0].astype(np.int64) + ID_SHIFT
        yield EncodedDocument(shifted, np.array([shifted.size]))
        if on_ids is not None:
            on_ids(piece.size)


def _pieces(ids: npt.NDArray[np.integer[Any]]) -> Iterator[npt.NDArray[np.integer[Any]]]:
    for row in ids if ids.ndim == 2 else (ids,):
        for start in range(0, row.size, LONGEST_ID_DOCUMENT):
            yield row[start : start + LONGEST_ID_DOCUMENT]


def id_vocabulary(largest: int) -> list[str]:
    """Return names for the ids of an array: the five special tokens, then 0 to ``largest``."""
    return [*SPECIAL_TOKENS, *map(str, range(largest + 1))]
