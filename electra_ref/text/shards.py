"""How a corpus is divided into shards: what is tokenized, and cached, at a time.

A shard is a part of a large plain file, about SHARD_BYTES long and cut where a document begins; or
a compressed or Parquet file; or several small files that follow each other. The division depends on
the formats and sizes of the files and on the text at the cuts, not on how many processes there are.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from electra_ref.errors import UserError
from electra_ref.text.corpus_file import CorpusFile, opened
from electra_ref.text.cutting import document_start
from electra_ref.text.decoding import is_plain

# Tokenizing 32 MiB takes five seconds. So little is lost if a process is killed, and two processes
# share 1 GB of text to 3 % (with 64 MiB to 7 %). More shards than tens of thousands, those of a
# terabyte, would make opening them slow.
SHARD_BYTES = 1 << 25
TEXT_OF_COMPRESSED = 4  # bytes of text in a byte on disk, about


class Shard(NamedTuple):
    """Files, or a part of one, in the order of reading."""

    files: tuple[CorpusFile, ...]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(
            file.size if file.part is None else file.part[1] - file.part[0] for file in self.files
        )


def plan_shards(files: Sequence[CorpusFile]) -> list[Shard]:
    """Divide the files into shards; they keep their order.

    Raises UserError if a file cannot be read, and for a line of .jsonl that is longer than reading
    allows.
    """
    shards: list[Shard] = []
    together: list[CorpusFile] = []
    size = 0
    for file in files:
        weight = _text_bytes(file)
        if together and size + weight > SHARD_BYTES:
            shards.append(Shard(tuple(together)))
            together, size = [], 0
        if file.size > SHARD_BYTES and is_plain(file):
            shards += [Shard((part,)) for part in _parts(file)]
        else:
            together.append(file)
            size += weight
    if together:
        shards.append(Shard(tuple(together)))
    return shards


def open_to_others(shards: Sequence[Shard]) -> list[Shard] | None:
    """Return the shards by names under which other processes can open their files.

    Standard input, kept on disk, has only a descriptor. Return None where the system has no name
    for that.
    """
    named = []
    for shard in shards:
        files = []
        for file in shard.files:
            path = file.path
            if isinstance(path, int):
                path = f"/proc/{os.getpid()}/fd/{path}"
                if not os.path.exists(path):
                    return None
            files.append(file._replace(path=path))
        named.append(Shard(tuple(files)))
    return named


def hash_contents(contents: Sequence[str]) -> str:
    """Return one hash for those of all shards, in order."""
    return hashlib.sha256(json.dumps(list(contents)).encode()).hexdigest()


def _text_bytes(file: CorpusFile) -> int:
    return file.size if file.compression is None else TEXT_OF_COMPRESSED * file.size


def _parts(file: CorpusFile) -> Iterator[CorpusFile]:
    """Cut a file into parts of about equal size."""
    count = -(-file.size // SHARD_BYTES)
    try:
        with opened(file) as stream:
            wanted = (file.size * number // count for number in range(1, count))
            cuts = [document_start(stream, file, position) for position in wanted]
    except OSError as error:
        raise UserError(f"cannot read {file.name}: {error.strerror or error}") from error
    start = 0
    for end in [*cuts, file.size]:
        if start < end:
            yield file._replace(part=(start, end))
        start = max(start, end)
