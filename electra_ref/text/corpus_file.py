"""One file of a corpus: how to read its bytes, and the counts of what reading found."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Literal, NamedTuple

from electra_ref.errors import UserError
from electra_ref.text.compression import Compression, DamagedError, decompress

BLOCK_BYTES = 1 << 20

BytesRead = Callable[[int], None]  # called with the number of bytes read from disk since last time


Format = Literal["text", "objects", "rows"]
"""Lines of text, a JSON object a line, or the rows of a Parquet file."""


class CorpusFile(NamedTuple):
    """One file to read, and what it looked like when it was listed."""

    path: str | int  # an open descriptor of standard input, which was copied to disk
    name: str  # for messages
    format: Format
    text_key: str  # of the text in each object, or the name of its column
    compression: Compression | None
    size: int  # bytes on disk
    modified: int  # nanoseconds
    part: tuple[int, int] | None = None  # what to read, if not all: bytes on disk, of a file that
    # is not ``is_plain`` the first ones; or numbers of row groups
    is_standard_input: bool = False  # also where others open it by a name of its descriptor

    @property
    def is_start(self) -> bool:
        """Return whether the beginning of the file is read."""
        return self.part is None or self.part[0] == 0

    @property
    def place(self) -> str:
        """Return the name with where the part begins, for messages."""
        return (
            self.name
            if self.is_start or self.part is None
            else f"{self.name} from byte {self.part[0]}"
        )


@dataclass
class CorpusReport:
    """What reading has found so far; the counts grow with each document that is read."""

    files: int = 0
    object_files: int = 0  # those of JSON lines
    row_files: int = 0  # those of Parquet
    bytes: int = 0  # after decompression
    documents: int = 0
    sentences: int = 0
    invalid_bytes: int = 0  # bytes that are not valid in their encoding, replaced by U+FFFD
    control_characters: int = 0  # of ASCII, without those that end lines and without tabs
    cut_sentences: int = 0  # cuts in lines that are too long


@contextmanager
def opened(file: CorpusFile) -> Iterator[BinaryIO]:
    """Open a file at its start for the block; a descriptor stays open. Raises OSError."""
    with open(file.path, "rb", closefd=isinstance(file.path, str)) as stream:
        stream.seek(0)  # a descriptor stands where it was left
        yield stream


def read_blocks(
    file: CorpusFile, on_bytes: BytesRead | None = None, *, decompressed: bool = True
) -> Iterator[bytes]:
    """Yield the content of a file, or of a part of it, in blocks of at most BLOCK_BYTES.

    The part of a compressed file may end a block later than asked for.

    Raises UserError for a file that cannot be read, is damaged, or changed since it was listed.
    """
    before, end = file.part or (0, sys.maxsize)
    try:
        with opened(file) as stream:
            stream.seek(before)
            for block in _blocks(stream, file.compression if decompressed else None, end):
                yield block
                after = min(stream.tell(), end)
                if on_bytes is not None:
                    on_bytes(after - before)
                before = after
            check_unchanged(file, os.fstat(stream.fileno()))
    except DamagedError as error:
        assert file.compression is not None
        kind = file.compression.ending
        raise UserError(
            f"{file.name} is a damaged or truncated {kind} file, or none: {error}"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {file.name}: {error.strerror or error}") from error


def _blocks(stream: BinaryIO, compression: Compression | None, end: int) -> Iterator[bytes]:
    if compression is not None:
        for block in decompress(compression, stream, BLOCK_BYTES):
            yield block
            if stream.tell() >= end:
                return
    else:
        while block := stream.read(min(BLOCK_BYTES, end - stream.tell())):
            yield block


def check_unchanged(file: CorpusFile, status: os.stat_result) -> None:
    """Raise UserError if a file has another size or date than when it was listed."""
    if (status.st_size, status.st_mtime_ns) != (file.size, file.modified):
        raise UserError(f"{file.name} has changed while it was being used; start again")
