"""A corpus as token ids on disk: shards, each a folder of its own, and a folder that lists them.

A shard holds the ids of some files, or of a part of a file:

    tokens.bin         (tokens,)     uint16, or uint32 for a vocabulary above 65,536 entries
    sentence_ends.bin  (sentences,)  int64, number of tokens up to the end of each sentence
    document_ends.bin  (documents,)  int64, number of sentences up to the end of each document
    digests.bin        (documents,)  uint64, a hash of the ids of each document

All numbers count from the start of the shard. Sentence s is
tokens[sentence_ends[s - 1] : sentence_ends[s]]. No sentence or document is empty, but a shard may
be. The files are written as streams and then memory-mapped, so a corpus may be larger than memory.
The key of a shard is a hash of its text and of everything else that the ids depend on, so a corpus
that was interrupted or has grown is tokenized from where it differs. The key of the folder that
lists the shards stands for the whole corpus.

Source of the hash: RFC 7693 (BLAKE2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.errors import UserError
from electra_ref.text.cache_folder import (
    CacheFolder,
    is_key,
    map_array,
    open_intact,
    open_or_build,
)
from electra_ref.text.joined_tokens import FILE_NAME, JoinedTokens, Tokens

SENTENCES, DOCUMENTS, DIGESTS = "sentence_ends.bin", "document_ends.bin", "digests.bin"

_BUFFER_TOKENS = 1 << 20


class EncodedDocument(NamedTuple):
    """The ids of one document, sentence after sentence."""

    ids: npt.NDArray[np.integer[Any]]  # (n,)
    lengths: npt.NDArray[np.int64]  # (sentences,)  they add up to n


class Documents(NamedTuple):
    """The documents of one shard, mapped."""

    tokens: Tokens  # (tokens,)
    sentence_ends: npt.NDArray[np.int64]  # (sentences,)  in tokens
    document_ends: npt.NDArray[np.int64]  # (documents,)  in sentences
    digests: npt.NDArray[np.uint64]  # (documents,)  equal for documents with the same ids


class TokenCache(NamedTuple):
    """A tokenized corpus."""

    folder: CacheFolder  # lists the shards; its key is that of the corpus
    shards: Sequence[CacheFolder]
    tokens: JoinedTokens  # (tokens,)  of all shards

    def documents(self, shard: int) -> Documents:
        """Map the documents of one shard. Raises UserError if a file has changed its size."""
        folder = self.shards[shard]
        return Documents(
            self.tokens.of(shard),
            map_array(folder, SENTENCES, np.int64),
            map_array(folder, DOCUMENTS, np.int64),
            map_array(folder, DIGESTS, np.uint64),
        )


def token_dtype(vocab_size: int) -> type[np.uint16 | np.uint32]:
    """Return uint16 if it holds all ids of the vocabulary, otherwise uint32."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def digest_of(ids: npt.NDArray[Any]) -> bytes:
    """Return the eight bytes that stand for the ids (n,) of a document."""
    return hashlib.blake2b(ids.data, digest_size=8).digest()


def write_tokens(folder: Path, documents: Iterable[EncodedDocument], vocab_size: int) -> None:
    """Write the documents as the four files of a shard.

    Empty sentences and documents are left out. Memory is about 10 bytes a token, for a million
    tokens or for the longest document. Raises OSError if the disk fails.
    """
    dtype = token_dtype(vocab_size)
    names = (FILE_NAME, SENTENCES, DOCUMENTS, DIGESTS)
    tokens = sentences = 0
    with ExitStack() as stack:
        writers = [
            _ArrayWriter(stack.enter_context(open(folder / name, "wb")), kind)
            for name, kind in zip(names, (dtype, np.int64, np.int64, np.uint64), strict=True)
        ]
        token_writer, sentence_writer, document_writer, digest_writer = writers
        for ids, lengths in documents:
            ends = tokens + np.cumsum(lengths[lengths > 0], dtype=np.int64)
            if ends.size:
                tokens, sentences = int(ends[-1]), sentences + ends.size
                stored = np.ascontiguousarray(ids, dtype)
                token_writer.append(stored)
                sentence_writer.append(ends)
                document_writer.append([sentences])
                digest_writer.append(np.frombuffer(digest_of(stored), np.uint64))
        for writer in writers:
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


def join_shards(
    cache_dir: Path,
    key: str,
    shards: Sequence[str],
    vocab_size: int,
    report: Callable[[Sequence[CacheFolder]], Mapping[str, Any]],
    on_wait: Callable[[], None] = lambda: None,
) -> TokenCache:
    """Return the corpus ``key`` that consists of the shards with the keys ``shards``, in order.

    ``report`` makes one report of those of the shards; it is kept. Raises UserError if a shard is
    missing.
    """

    def build(_: Path) -> dict[str, Any]:
        folders = [open_intact(cache_dir, shard, contents=False) for shard in shards]
        if None in folders:
            raise UserError(f"a part of the corpus is gone from {cache_dir}; start again")
        found = [folder for folder in folders if folder is not None]
        return {"shards": list(shards), "entries": vocab_size, "report": dict(report(found))}

    open_or_build(cache_dir, key, build, on_wait)
    cache = open_tokens(cache_dir, key)
    if cache is None:
        raise UserError(f"a part of the corpus is gone from {cache_dir}; start again")
    return cache


def open_tokens(
    cache_dir: Path, key: str, on_bytes: Callable[[int, int], None] | None = None
) -> TokenCache | None:
    """Open the corpus ``key``; return None if a part of it is missing or damaged.

    With ``on_bytes`` every byte is compared with its SHA-256, and it is called with the bytes that
    were read and those that there are; otherwise sizes are compared, which takes less than a
    millisecond a shard.
    """
    folder = open_intact(cache_dir, key)
    if folder is None or not _lists_shards(folder.facts):
        return None
    shards: list[CacheFolder] = []
    for shard in folder.facts["shards"]:
        found = open_intact(cache_dir, shard, contents=False)
        if found is None:
            return None
        shards.append(found)
    if on_bytes is not None and not _contents_are_intact(cache_dir, shards, on_bytes):
        return None
    return TokenCache(folder, shards, JoinedTokens(shards, token_dtype(folder.facts["entries"])))


def _lists_shards(facts: Mapping[str, Any]) -> bool:
    """Check types: anybody can seal a folder, and that must not end in a traceback."""
    shards = facts.get("shards")
    return (
        isinstance(shards, list)
        and all(map(is_key, shards))
        and type(facts.get("entries")) is int
        and isinstance(facts.get("report"), dict)
    )


def _contents_are_intact(
    cache_dir: Path, shards: Sequence[CacheFolder], on_bytes: Callable[[int, int], None]
) -> bool:
    done, total = 0, sum(sum(shard.sizes.values()) for shard in shards)
    for shard in shards:
        on_bytes(done, total)
        if open_intact(cache_dir, shard.key) is None:
            return False
        done += sum(shard.sizes.values())
    on_bytes(done, total)
    return True
