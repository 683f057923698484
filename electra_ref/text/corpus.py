"""Read text files as a stream of documents, in memory that does not grow with the files.

A document is a list of sentences. A sentence is one line of text; it need not be a sentence of the
language. In text files a blank line ends a document, as in build_pretraining_dataset.py of
google-research/electra. In JSON lines each object is a document, and its text may hold several
lines, blank ones too.

Lines end at LF, CR LF or CR. Vertical tab, form feed, NEL (U+0085), U+2028 and U+2029 end a
sentence but not the line: where they stand alone between two sentences, no line is blank. A line
is blank if nothing in it can be seen: white space, control, format and zero-width characters.

Three limits keep memory small for any input. Packing loses no token at these cuts:
    a sentence longer than LONGEST_SENTENCE characters is cut at a space;
    a document longer than LONGEST_DOCUMENT characters is passed on in pieces;
    a line of JSON longer than LONGEST_OBJECT characters is an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import pairwise

import regex

from electra_ref.errors import UserError
from electra_ref.text.corpus_file import (
    BLOCK_BYTES,
    BytesRead,
    CorpusFile,
    CorpusReport,
    opened,
    read_blocks,
)
from electra_ref.text.decoding import (
    count_control_characters,
    decode,
    is_plain,
    replace_surrogates,
)
from electra_ref.text.lines import End, read_lines
from electra_ref.text.parquet import read_rows

LONGEST_SENTENCE = 1 << 16  # characters
LONGEST_DOCUMENT = 1 << 20
LONGEST_OBJECT = 1 << 24
KEYS_SHOWN = 10

_BLANK = regex.compile(r"[\p{Cc}\p{Cf}\p{Z}\p{Default_Ignorable_Code_Point}]*")


def hash_files(files: Sequence[CorpusFile], on_bytes: BytesRead | None = None) -> str:
    """Return a SHA-256 of the formats and contents of the files or parts, in order (about 1 GB/s).

    Names and dates are left out, so a corpus that was moved or copied keeps its hash.
    """
    total = hashlib.sha256()
    for file in files:
        one = hashlib.sha256()
        if file.part is not None and file.format == "rows":  # row groups: texts, with their lengths
            for text in read_rows(file, on_bytes):
                data = text.encode("utf-8", "surrogatepass")
                one.update(len(data).to_bytes(8, "little") + data)
        else:
            for block in read_blocks(file, on_bytes, decompressed=False):
                one.update(block)
        key = None if file.format == "text" else file.text_key
        compression = file.compression and file.compression.ending
        total.update(json.dumps([file.format, key, compression, one.hexdigest()]).encode())
    return total.hexdigest()


def read_documents(
    files: Sequence[CorpusFile], report: CorpusReport, on_bytes: BytesRead | None = None
) -> Iterator[list[str]]:
    """Yield each document of the files as a non-empty list of non-blank sentences.

    Each document that is read adds to ``report``. Raises UserError for a file that cannot be read,
    is damaged, is no text, has no text under its key, or has changed since it was listed.
    """
    for file in files:
        report.files += file.is_start
        if file.format == "objects":
            report.object_files += file.is_start
            documents = _object_documents(file, decode(file, report, on_bytes), report)
        elif file.format == "rows":
            report.row_files += file.is_start
            documents = _row_documents(file, report, on_bytes)
        else:
            lines = read_lines(decode(file, report, on_bytes), LONGEST_SENTENCE)
            documents = _text_documents(_complete(file, lines), report)
        for document in documents:
            report.documents += 1
            report.sentences += len(document)
            yield document


def _complete(file: CorpusFile, lines: Iterator[tuple[str, End]]) -> Iterator[tuple[str, End]]:
    """Yield ``lines``, without the last one where only the first bytes of a file are read.

    A part of a plain file ends with a line; that of a compressed file does not.
    """
    if file.part is None or is_plain(file):
        yield from lines
    else:
        yield from (line for line, _ in pairwise(lines))


def _text_documents(
    lines: Iterator[tuple[str, End]], report: CorpusReport, *, ends_at_blank_lines: bool = True
) -> Iterator[list[str]]:
    document: list[str] = []
    length = 0
    blank = True  # the line so far
    for part, end in lines:
        sentence = part.strip()
        if sentence and (sentence[0].isalnum() or not _BLANK.fullmatch(sentence)):
            blank = False
            if document and length + len(sentence) > LONGEST_DOCUMENT:
                yield document
                document, length = [], 0
            document.append(sentence)
            length += len(sentence)
        if end is End.LINE:
            if blank and document and ends_at_blank_lines:
                yield document
                document, length = [], 0
            blank = True
        elif end is End.CUT:
            report.cut_sentences += 1
    if document:
        yield document


def _object_documents(
    file: CorpusFile, blocks: Iterator[str], report: CorpusReport
) -> Iterator[list[str]]:
    lines = _complete(file, read_lines(blocks, LONGEST_OBJECT, sentence_ends=""))
    for number, (line, end) in enumerate(lines, start=1):
        if end is End.CUT:
            raise UserError(
                f"{_line_of(file, number)}: longer than {LONGEST_OBJECT} characters; "
                "each line should be one JSON object"
            )
        if line.strip():
            text = _text_of(file, number, line)
            holds_escapes = "\\u00" in line  # JSON can hold control characters in no other way
            yield from _documents_of(text, report, counts_controls=holds_escapes)


def _row_documents(
    file: CorpusFile, report: CorpusReport, on_bytes: BytesRead | None
) -> Iterator[list[str]]:
    for text in read_rows(file, on_bytes):
        report.bytes += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        yield from _documents_of(text, report, counts_controls=True)


def _documents_of(text: str, report: CorpusReport, *, counts_controls: bool) -> Iterator[list[str]]:
    """Yield the document of an object or a row; more than one if it is very long."""
    text, invalid = replace_surrogates(text)
    report.invalid_bytes += invalid
    if counts_controls:
        report.control_characters += count_control_characters(text)
    lines = read_lines(iter([text.replace("\ufeff", "")]), LONGEST_SENTENCE)
    yield from _text_documents(lines, report, ends_at_blank_lines=False)


def _line_of(file: CorpusFile, number: int) -> str:
    """Return the name of a file and the number of a line in it, counted from its start."""
    start = 0 if file.part is None else file.part[0]
    if start and is_plain(file):
        with opened(file) as stream:
            while start > 0 and (block := stream.readline(min(start, BLOCK_BYTES))):
                start -= len(block)
                number += block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n")
    return f"{file.name}, line {number}"


def _text_of(file: CorpusFile, number: int, line: str) -> str:
    """Return the text of one line of JSON. Raises UserError if it has none."""
    key = file.text_key
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{_line_of(file, number)}: expected one JSON object with a string {key!r}; jq -c . "
            "makes such lines of objects over several lines, jq -c '.[]' of an array"
        ) from error
    if isinstance(value, dict) and isinstance(text := value.get(key), str):
        return text
    place = _line_of(file, number)
    if not isinstance(value, dict):
        raise UserError(
            f"{place}: expected one JSON object with a string {key!r}, not {_kind(value)}; "
            "jq -c '.[]' makes lines of an array"
        )
    if key not in value:
        keys = ", ".join(repr(name)[:40] for name in list(value)[:KEYS_SHOWN]) or "none"
        raise UserError(
            f"{place}: the JSON object has no {key!r}; its keys are {keys}; choose that of the "
            "text with --text-key"
        )
    raise UserError(f"{place}: expected a string {key!r}, not {_kind(value[key])}")


def _kind(value: object) -> str:
    """Name what JSON calls ``value``."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")
