"""Read text files as a stream of documents, in memory that does not grow with the files.

A document is a list of sentences. A sentence is one line of text; it need not be a sentence of the
language. In .txt a blank line ends a document, as in build_pretraining_dataset.py of
google-research/electra. In .jsonl each object is a document, and ``text`` may hold several lines.

Text is UTF-8. A byte that is not part of a valid sequence becomes U+FFFD, which BERT's cleaning
drops later; the report counts these bytes. Lines end at LF, CR LF, CR, NEL (U+0085), U+2028,
U+2029, vertical tab or form feed. Byte order marks are dropped.

Three limits keep memory small for any input. Packing loses no token at these cuts:
    a line of .txt longer than LONGEST_SENTENCE characters is cut at a space;
    a document longer than LONGEST_DOCUMENT characters is passed on in pieces;
    a line of .jsonl longer than LONGEST_OBJECT characters is an error.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import os
import re
import stat
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Literal, NamedTuple, cast

from electra_ref.errors import UserError

LONGEST_SENTENCE = 1 << 16  # characters
LONGEST_DOCUMENT = 1 << 20
LONGEST_OBJECT = 1 << 24
BLOCK_BYTES = 1 << 20
ENDINGS = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")

_TEXT_LINE_END = re.compile("\r\n|[\n\r\v\f\x85\u2028\u2029]")
_OBJECT_LINE_END = re.compile("\r\n|[\n\r]")  # U+2028 and NEL may stand inside a JSON string
_SURROGATE = re.compile("[\ud800-\udfff]")

BytesRead = Callable[[int], None]  # called with the number of bytes read from disk since last time


class CorpusFile(NamedTuple):
    """One file to read, and what it looked like when it was listed."""

    path: str
    name: str  # for messages
    format: Literal["text", "objects"]
    compressed: bool
    size: int  # bytes on disk
    modified: int  # nanoseconds
    part: tuple[int, int] | None = None  # the bytes to read, if not all; of an uncompressed file


@dataclass
class CorpusReport:
    """What reading has found so far; the counts grow with each document that is read."""

    files: int = 0
    bytes: int = 0  # after decompression
    documents: int = 0
    sentences: int = 0
    invalid_bytes: int = 0  # bytes that are not valid UTF-8, each replaced by U+FFFD
    cut_sentences: int = 0  # cuts in lines longer than LONGEST_SENTENCE


def list_files(paths: Sequence[str]) -> list[CorpusFile]:
    """Return the files among ``paths`` and in the folders among them, in the order of reading.

    A folder is searched with its subfolders, in sorted order, for files whose names end in one of
    ENDINGS. Names that start with a dot are skipped. A folder that is reached twice (a loop of
    symbolic links) is read once. Raises UserError for a path that is missing, unreadable or not a
    regular file, for a named file that ends in none of ENDINGS, and for a folder without files.
    """
    files: list[CorpusFile] = []
    entered: set[str] = set()
    for path in paths:
        if os.path.isdir(path):
            found = [corpus_file(name) for name in _search(path, entered)]
            if not found:
                raise UserError(f"no file in {path} ends in {', '.join(ENDINGS)}")
            files.extend(found)
        else:
            files.append(corpus_file(path))
    return files


def _search(folder: str, entered: set[str]) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in entered:
        return
    entered.add(real)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
    for name in names:
        path = os.path.join(folder, name)
        if name.startswith("."):
            continue
        if os.path.isdir(path):
            yield from _search(path, entered)
        elif name.lower().endswith(ENDINGS):
            yield path


def corpus_file(path: str, *, name: str | None = None) -> CorpusFile:
    """Describe the file at ``path``; messages call it ``name``, or ``path`` without a name.

    A file with a ``name`` (standard input, copied to disk) is plain text, whatever its path.
    Raises UserError if it is missing, is not a regular file, or ends in none of ENDINGS.
    """
    ending = path.lower() if name is None else ".txt"
    name = path if name is None else name
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read the corpus {name!r}: {reason}") from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{name} is neither a regular file nor a folder; pipe it in with -")
    if not ending.endswith(ENDINGS):
        raise UserError(f"cannot tell what {name} holds: its name should end in {_any_ending()}")
    return CorpusFile(
        path=path,
        name=name,
        format="objects" if ending.removesuffix(".gz").endswith(".jsonl") else "text",
        compressed=ending.endswith(".gz"),
        size=status.st_size,
        modified=status.st_mtime_ns,
    )


def _any_ending() -> str:
    return f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"


def hash_files(files: Sequence[CorpusFile], on_bytes: BytesRead | None = None) -> str:
    """Return a SHA-256 of the formats and contents of the files, in order (about 1 GB/s).

    Names and dates are left out, so a corpus that was moved or copied keeps its hash.
    """
    total = hashlib.sha256()
    for file in files:
        one = hashlib.sha256()
        for block in _blocks(file, on_bytes, decompress=False):
            one.update(block)
        total.update(f"{file.format} {file.compressed} {one.hexdigest()}\n".encode())
    return total.hexdigest()


def read_documents(
    files: Sequence[CorpusFile], report: CorpusReport, on_bytes: BytesRead | None = None
) -> Iterator[list[str]]:
    """Yield each document of the files as a non-empty list of non-blank sentences.

    Each document that is read adds to ``report``. Raises UserError for a file that cannot be read,
    is a damaged .gz, is not JSON lines with ``text``, or has changed since it was listed.
    """
    for file in files:
        report.files += 1
        blocks = _decoded(_blocks(file, on_bytes), report)
        if file.format == "objects":
            documents = _object_documents(file, blocks, report)
        else:
            documents = _text_documents(blocks, report)
        for document in documents:
            report.documents += 1
            report.sentences += len(document)
            yield document


def _blocks(
    file: CorpusFile, on_bytes: BytesRead | None, *, decompress: bool = True
) -> Iterator[bytes]:
    """Yield the content of a file, or of a part of it, in blocks of BLOCK_BYTES."""
    before, end = file.part or (0, sys.maxsize)
    try:
        with open(file.path, "rb") as raw:
            stream: IO[bytes] = raw
            if file.compressed and decompress:
                stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
            raw.seek(before)
            while block := stream.read(min(BLOCK_BYTES, end - raw.tell())):
                yield block
                if on_bytes is not None:
                    on_bytes(raw.tell() - before)
                    before = raw.tell()
            _check_unchanged(file, os.fstat(raw.fileno()))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{file.name} is a damaged or truncated gzip file: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {file.name}: {error.strerror or error}") from error


def _check_unchanged(file: CorpusFile, status: os.stat_result) -> None:
    if (status.st_size, status.st_mtime_ns) != (file.size, file.modified):
        raise UserError(f"{file.name} has changed while it was being used; start again")


def _decoded(blocks: Iterator[bytes], report: CorpusReport) -> Iterator[str]:
    """Decode UTF-8 across block ends; count invalid bytes and put U+FFFD in their place."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    for block in blocks:
        report.bytes += len(block)
        yield _without_surrogates(decoder.decode(block), report)
    yield _without_surrogates(decoder.decode(b"", final=True), report)


def _without_surrogates(text: str, report: CorpusReport) -> str:
    text, invalid = _SURROGATE.subn("\ufffd", text) if not text.isascii() else (text, 0)
    report.invalid_bytes += invalid
    return text.replace("\ufeff", "")


def _lines(
    blocks: Iterator[str], line_end: re.Pattern[str], longest: int
) -> Iterator[tuple[str, bool]]:
    """Yield (line, True), or (first part of a line, False) where a line is longer than allowed."""
    pending = ""
    for block in blocks:
        pending += block
        # A CR that ends the block may be half of a CR LF.
        *lines, rest = line_end.split(pending.removesuffix("\r"))
        pending = rest + "\r" if pending.endswith("\r") else rest
        for line in lines:
            *parts, last = _cut(line, longest)
            yield from ((part, False) for part in parts)
            yield last, True
        *parts, pending = _cut(pending, longest)
        yield from ((part, False) for part in parts)
    if pending:
        yield pending.removesuffix("\r"), True


def _cut(line: str, longest: int) -> list[str]:
    """Cut a line into parts of at most ``longest`` characters, after a space if there is one."""
    parts = []
    start = 0
    while len(line) - start > longest:
        space = line.rfind(" ", start, start + longest)
        end = space + 1 if space >= start else start + longest
        parts.append(line[start:end])
        start = end
    return [*parts, line[start:]]


def _text_documents(blocks: Iterator[str], report: CorpusReport) -> Iterator[list[str]]:
    document: list[str] = []
    length = 0
    for line, complete in _lines(blocks, _TEXT_LINE_END, LONGEST_SENTENCE):
        report.cut_sentences += not complete
        sentence = line.strip()
        if document and (not sentence or length + len(sentence) > LONGEST_DOCUMENT):
            yield document
            document, length = [], 0
        if sentence:
            document.append(sentence)
            length += len(sentence)
    if document:
        yield document


def _object_documents(
    file: CorpusFile, blocks: Iterator[str], report: CorpusReport
) -> Iterator[list[str]]:
    lines = _lines(blocks, _OBJECT_LINE_END, LONGEST_OBJECT)
    for number, (line, complete) in enumerate(lines, start=1):
        if not complete:
            raise UserError(
                f"{file.name}, line {number}: longer than {LONGEST_OBJECT} characters; "
                "each line should be one JSON object"
            )
        if line.strip():
            text = _without_surrogates(_text_of(file, number, line), report)
            # A blank line inside ``text`` ends no document: the object is the document.
            lines_of_text = (s for s in _TEXT_LINE_END.split(text) if s and not s.isspace())
            yield from _text_documents(iter(["\n".join(lines_of_text)]), report)


def _text_of(file: CorpusFile, number: int, line: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(_OBJECT_EXPECTED.format(name=file.name, number=number)) from error
    if not isinstance(text, str):
        raise UserError(_OBJECT_EXPECTED.format(name=file.name, number=number))
    return text


_OBJECT_EXPECTED = '{name}, line {number}: expected one JSON object with a string "text"'
