"""Where lines come from: a file, compressed or not, or standard input; and how they are decoded.

Text is UTF-8, or UTF-16 or UTF-32 with a byte order mark. A byte that is not valid becomes one
character, U+FFFD, which the tokenizer drops. It is counted.

A pipe or a terminal may pause. Then what has come so far is answered before more is waited for.
"""

from __future__ import annotations

import codecs
import os
import select
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO, NamedTuple

from electra_ref.errors import UserError
from electra_ref.files import disk_errors
from electra_ref.text.compression import DamagedError, decompress
from electra_ref.text.corpus_file import CorpusFile
from electra_ref.text.decoding import (
    LARGEST_SHARE,
    begins_with_json,
    conversion_advice,
    encoding_of,
    refuse_other_formats,
    replace_surrogates,
)
from electra_ref.text.lines import End, read_lines
from electra_ref.text.listing import split_name
from electra_ref.training.prediction.counts import Counts

STANDARD_INPUT = "-"
FORMATS = ("text", "jsonl")
LONGEST_LINE = 1 << 22  # characters; a line is held in memory as a whole, with its answer
PAUSE_SECONDS = 0.02  # without new bytes; a program that writes steadily takes less

_BLOCK_BYTES = 1 << 18
_SECONDS_BETWEEN_LOOKS = 0.1  # at whether a signal came
_MARKS = (
    codecs.BOM_UTF8,
    codecs.BOM_UTF16_LE,
    codecs.BOM_UTF16_BE,
    codecs.BOM_UTF32_LE,
    codecs.BOM_UTF32_BE,
)
_LONGEST_MARK = 4  # of UTF-32


class BadLineError(UserError):
    """A line that cannot be used; the lines before it can."""


class Reader(NamedTuple):
    """What reading tells the rest of the program."""

    on_pause: Callable[[], None]  # nothing has come for PAUSE_SECONDS
    on_bytes: Callable[[int], None]  # with the bytes of the file that were read so far
    check: Callable[[], None]  # raises to stop


class Source(NamedTuple):
    """An open input."""

    file: CorpusFile  # how messages call it; a descriptor as ``path`` is standard input
    stream: BinaryIO  # without a buffer
    ending: str  # of the name, in lower case, without that of the compression
    is_json: bool
    is_chosen: bool  # whether the format was asked for; otherwise the name tells it
    is_regular: bool  # it never pauses, and its size is known

    @property
    def is_terminal(self) -> bool:
        """Whether a person types the lines."""
        return self.stream.isatty()

    def conversion(self) -> str:
        """Return how to convert the text to UTF-8 from a legacy encoding, for people."""
        return conversion_advice(self.file, self.ending)


@contextmanager
def open_source(path: str, input_format: str | None) -> Iterator[Source]:
    """Open ``path``, or standard input, for the block. Raises UserError if it cannot be read."""
    is_standard = path == STANDARD_INPUT
    if is_standard and sys.stdin is None:
        raise UserError("standard input is closed; name a file with --input")
    ending, compression = split_name("" if is_standard else path.lower())
    is_json = ending in (".jsonl", ".json") if input_format is None else input_format == "jsonl"
    name = "standard input" if is_standard else path
    if not path or "\0" in path:
        raise UserError(f"--input {path!r} names no file; leave it out for standard input")
    with ExitStack() as stack:
        with disk_errors(f"read {name}"):
            stream = stack.enter_context(
                open(0 if is_standard else path, "rb", buffering=0, closefd=not is_standard)
            )
            status = os.fstat(stream.fileno())
        file = CorpusFile(
            path=0 if is_standard else path,
            name=name,
            format="objects" if is_json else "text",
            text_key="text",
            compression=compression,
            size=status.st_size,
            modified=status.st_mtime_ns,
            is_standard_input=is_standard,
        )
        is_regular = stat.S_ISREG(status.st_mode)
        yield Source(file, stream, ending, is_json, input_format is not None, is_regular)


def read_source(source: Source, reader: Reader, counts: Counts) -> Iterator[str]:
    """Yield the lines of ``source``; they end at LF, CR LF or CR.

    Raises UserError for what is no text or cannot be read, BadLineError for a line that is longer
    than LONGEST_LINE.
    """
    lines = read_lines(read_blocks(source, reader, counts), LONGEST_LINE, sentence_ends="")
    for number, (line, end) in enumerate(lines, start=1):
        if end is End.CUT:
            raise BadLineError(
                f"{source.file.name}, line {number}: longer than {LONGEST_LINE:,} characters; "
                "cut it into several lines"
            )
        yield line


def read_blocks(source: Source, reader: Reader, counts: Counts) -> Iterator[str]:
    """Yield the text of ``source`` in blocks. Raises UserError as ``read_source`` does."""
    return _decoded(source, _blocks(source, reader), counts)


def _blocks(source: Source, reader: Reader) -> Iterator[bytes]:
    blocks = _plain_blocks(source, reader)
    if (compression := source.file.compression) is not None:
        blocks = decompress(compression, source.stream, _BLOCK_BYTES)
    with disk_errors(f"read {source.file.name}"):
        try:
            for block in blocks:
                reader.check()
                yield block
                if source.is_regular:
                    reader.on_bytes(source.stream.tell())
        except DamagedError as error:
            raise UserError(
                f"{source.file.name} is a damaged or truncated "
                f"{compression.ending if compression else ''} file, or none: {error}"
            ) from error


def _plain_blocks(source: Source, reader: Reader) -> Iterator[bytes]:
    descriptor = source.stream.fileno()
    while True:
        if not _has_bytes(descriptor, PAUSE_SECONDS):
            reader.on_pause()
            while not _has_bytes(descriptor, _SECONDS_BETWEEN_LOOKS):
                reader.check()
        block = os.read(descriptor, _BLOCK_BYTES)
        if not block:
            return
        yield block


def _has_bytes(descriptor: int, seconds: float) -> bool:
    """Return whether a read returns at once, with bytes or because there will be no more."""
    return bool(select.select([descriptor], [], [], seconds)[0])


def _decoded(source: Source, blocks: Iterator[bytes], counts: Counts) -> Iterator[str]:
    head = next(blocks, b"")
    while len(head) < _LONGEST_MARK and any(mark.startswith(head) for mark in _MARKS):
        if not (block := next(blocks, b"")):
            break
        head += block
    encoding = encoding_of(head)
    _refuse(source, head, encoding)
    decoder = codecs.getincrementaldecoder(encoding)(
        "surrogateescape" if encoding == "utf-8" else "replace"
    )
    counts.bytes += len(head)
    # a block is passed on before the next one is waited for
    yield _counted(decoder.decode(head).removeprefix("\ufeff"), encoding, counts)
    for block in blocks:
        counts.bytes += len(block)
        yield _counted(decoder.decode(block), encoding, counts)
    yield _counted(decoder.decode(b"", final=True), encoding, counts)


def _counted(text: str, encoding: str, counts: Counts) -> str:
    if encoding == "utf-8":
        text, invalid = replace_surrogates(text)
    else:
        invalid = text.count("\ufffd") * (2 if encoding == "utf-16" else 4)
    counts.invalid_bytes += invalid
    return text


def _refuse(source: Source, head: bytes, encoding: str) -> None:
    """Raise UserError if a file that begins with ``head`` is not what it should be."""
    name = source.file.name
    if head.startswith(b"\x93NUMPY"):
        raise UserError(
            f'{name} is an array saved by numpy.save; write a row a line as JSON: {{"ids": [...]}}'
        )
    refuse_other_formats(source.file, head)
    if encoding == "utf-8" and head.count(0) > LARGEST_SHARE * len(head):
        raise UserError(f"{name} is no text: it has NUL bytes; convert it to UTF-8, or extract it")
    if not source.is_json and not source.is_chosen and begins_with_json(head):
        raise UserError(
            f"{name} begins with a JSON object: choose --input-format jsonl, or text if each line "
            "is to be read as it is"
        )
