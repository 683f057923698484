"""From the bytes of a file to characters. A file that is no text is refused, with what to do.

Text is UTF-8, or UTF-16 or UTF-32 if the file begins with a byte order mark of these. Bytes that
are not valid become U+FFFD, which BERT's cleaning drops later. They are counted. Byte order marks
are dropped, wherever they stand.

Refused are
    files of other formats and files with compressed content, known by their first bytes;
    JSON in a file whose name announces text;
    files of which more than LARGEST_SHARE is invalid (a legacy encoding) or NUL. This holds for the
    whole file, and for any block of BLOCK_BYTES: a file may turn bad late.
"""

from __future__ import annotations

import codecs
import re
import shlex
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np

from electra_ref.errors import UserError
from electra_ref.text.compression import COMPRESSIONS
from electra_ref.text.corpus_file import (
    BLOCK_BYTES,
    BytesRead,
    CorpusFile,
    CorpusReport,
    opened,
    read_blocks,
)

LARGEST_SHARE = 0.01
BINARY_SHARE = 0.02  # of control characters among the bytes of a file that is refused
HEAD_BYTES = 1 << 16  # of a file show its format

_SURROGATE = re.compile("[\ud800-\udfff]")
_JSON = re.compile(r'[\s\ufeff\[]*\{\s*"(?:[^"\\]|\\.)*"\s*:')  # one object, or an array of objects
_CONTROL = re.compile("[\0-\x08\x0e-\x1f\x7f]")
# Which byte of two is often NUL. In UTF-32 few bytes are valid, so that this need not be asked.
_WIDE_ENCODINGS = {"UTF-32LE": None, "UTF-32BE": None, "UTF-16LE": 1, "UTF-16BE": 0}
_ENDS_AND_TABS = [ord(character) for character in "\t\n\v\f\r"]
_DELETE = b"\x7f"


class _Format(NamedTuple):
    magic: re.Pattern[bytes]
    name: str
    advice: str


_OTHER_FORMATS = (
    _Format(
        re.compile(rb"PK\x03\x04|PK\x05\x06|7z\xbc\xaf\x27\x1c"),
        "an archive (.zip, .7z, .docx, .epub)",
        "extract its text first",
    ),
    _Format(re.compile(rb"(?s:.{257})ustar"), "a tar archive", "unpack it first: tar -xf"),
    _Format(re.compile(rb"%PDF-"), "a PDF document", "extract its text first: pdftotext"),
    _Format(
        re.compile(rb"PAR1"),
        "a Parquet file",
        "let its name end in .parquet; --text-key names the column of the text",
    ),
    _Format(
        re.compile(rb"ARROW1\0"),
        "an Arrow file",
        "write it as Parquet, for example with pyarrow: "
        "parquet.write_table(ipc.open_file(FILE).read_all(), 'NEW.parquet')",
    ),
    _Format(
        re.compile(rb"\x93NUMPY"), "an array saved by numpy.save", "give token ids with --tokens"
    ),
)


def decode(
    file: CorpusFile, report: CorpusReport, on_bytes: BytesRead | None = None
) -> Iterator[str]:
    """Yield the characters of a file in blocks; add its counts of bytes to ``report``.

    Of a part, only whole blocks are judged: its share is not that of the file. Raises UserError for
    a file that cannot be read or is refused.
    """
    head, blocks = _split_head(read_blocks(file, on_bytes))
    encoding = "utf-8"
    if file.is_start:
        refuse_other_formats(file, head)
        _refuse_json(file, head)
        encoding = encoding_of(head)
    errors = "surrogateescape" if encoding == "utf-8" else "replace"
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    found = _Found(file, encoding)
    for block in blocks:
        text = decoder.decode(block)
        if encoding == "utf-8":
            text, invalid = replace_surrogates(text)
            found.add(len(block), block, invalid)
        else:
            unit = 2 if encoding == "utf-16" else 4
            found.add(len(block), text.encode("utf-8"), unit * text.count("\ufffd"))
        if found.size == len(head):  # before an error in its text is
            found.refuse_bad_file()
        yield text.replace("\ufeff", "")
    found.refuse_bad_file()
    # A character that is cut off by the end of the file says nothing about its encoding.
    text, invalid = replace_surrogates(decoder.decode(b"", final=True))
    report.bytes += found.size
    report.invalid_bytes += found.invalid + max(invalid, text.count("\ufffd"))
    report.control_characters += found.controls
    yield text


def count_control_characters(text: str) -> int:
    """Return how many characters of ``text`` are those that CorpusReport counts."""
    return len(_CONTROL.findall(text))


def replace_surrogates(text: str) -> tuple[str, int]:
    """Return ``text`` with U+FFFD in place of surrogates, and the number of these."""
    return (text, 0) if text.isascii() else _SURROGATE.subn("\ufffd", text)


def encoding_of(head: bytes) -> str:
    """Return the codec for a file that begins with ``head``: utf-8, or what its mark names."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # LE begins as UTF-16's
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8"


def is_plain(file: CorpusFile) -> bool:
    """Return whether a file may be cut at any line: not compressed, no Parquet, and UTF-8.

    Raises UserError if it cannot be read.
    """
    if file.compression is not None or file.format == "rows":
        return False
    try:
        with opened(file) as stream:
            return encoding_of(stream.read(4)) == "utf-8"
    except OSError as error:
        raise UserError(f"cannot read {file.name}: {error.strerror or error}") from error


def holds_json(file: CorpusFile) -> bool:
    """Return whether a file begins with a JSON object. Raises UserError if it cannot be read."""
    return begins_with_json(_split_head(read_blocks(file))[0])


def _split_head(blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Return the first HEAD_BYTES or more, and all blocks with these."""
    first: list[bytes] = []
    size = 0
    while size < HEAD_BYTES and (block := next(blocks, None)) is not None:
        first.append(block)
        size += len(block)
    return b"".join(first), chain(first, blocks)


def begins_with_json(head: bytes) -> bool:
    """Return whether a file with this ``head`` begins with a JSON object, or an array of these."""
    return _JSON.match(head[:HEAD_BYTES].decode(encoding_of(head), "ignore")) is not None


def refuse_other_formats(file: CorpusFile, head: bytes) -> None:
    """Raise UserError if a file that begins with ``head`` is compressed or of a known format."""
    for compression in COMPRESSIONS:
        if compression.magic.match(head):
            raise UserError(
                f"the content of {file.name} is compressed; "
                + (
                    f"pipe it through {compression.command}"
                    if file.is_standard_input
                    else f"decompress it with {compression.command}, or let its name end in "
                    f"{compression.ending}"
                )
            )
    for other in _OTHER_FORMATS:
        if other.magic.match(head):
            save = "save it as a file; " if file.is_standard_input else ""
            raise UserError(f"{file.name} is {other.name}, not text; {save}{other.advice}")


def _refuse_json(file: CorpusFile, head: bytes) -> None:
    if file.format == "text" and begins_with_json(head):
        raise UserError(
            f"{file.name} begins with a JSON object; if each line is one, let its name end in "
            ".jsonl; --text-key names the key of the text"
        )


class _Found:
    """The counts of one file, and the verdict on them."""

    def __init__(self, file: CorpusFile, encoding: str) -> None:
        self.file, self.encoding = file, encoding
        self.size = self.invalid = self.controls = self.nuls = 0
        self.newest = b""  # the last HEAD_BYTES

    def add(self, size: int, utf8: bytes, invalid: int) -> None:
        """Count a block of ``size`` bytes in the file, which is ``utf8``. Raises UserError."""
        self.newest = (self.newest + utf8 if len(utf8) < HEAD_BYTES else utf8)[-HEAD_BYTES:]
        values = np.frombuffer(utf8, np.uint8)
        low = np.bincount(values[values < 32], minlength=32)
        nuls = int(low[0])
        self.controls += int(low.sum() - low[_ENDS_AND_TABS].sum()) + utf8.count(_DELETE)
        self.size += size
        self.invalid += invalid
        self.nuls += nuls
        self.refuse_bad(BLOCK_BYTES, invalid, nuls)

    def refuse_bad_file(self) -> None:
        """Raise UserError if too much of what was counted is invalid or NUL."""
        if self.file.part is None:
            self.refuse_bad(self.size, self.invalid, self.nuls)

    def refuse_bad(self, size: int, invalid: int, nuls: int) -> None:
        """Raise UserError if too many of ``size`` bytes are invalid or NUL."""
        if max(invalid, nuls) <= LARGEST_SHARE * size:
            return
        name, wide = self.file.place, self._wide_encoding()
        if wide:
            reason = f"{name} is {wide} without a byte order mark; convert it to UTF-8"
            raise UserError(f"{reason}: {_conversion(self.file, wide, self._ending())}")
        size = min(size, self.size)
        place = "its bytes" if size == self.size else f"{size:,} bytes before byte {self.size:,}"
        share = f"{100 * max(invalid, nuls) / size:.1f} % of {place}"
        is_binary = nuls > invalid or self.controls > BINARY_SHARE * self.size
        if is_binary or self.encoding != "utf-8":  # a mark of UTF-16 names what it should be
            raise UserError(
                f"{name} is no text: {share} are not valid in text; leave it out, or extract its "
                "text first"
            )
        raise UserError(
            f"{name} is in another encoding: {share} are not valid UTF-8; "
            f"{conversion_advice(self.file, self._ending())}"
        )

    def _wide_encoding(self) -> str | None:
        """Return UTF-16LE, UTF-16BE, UTF-32LE or UTF-32BE if the newest bytes are text in it."""
        if self.encoding != "utf-8":
            return None
        sample = self.newest[(len(self.newest) - self.size) % 4 :]  # where a character begins
        for encoding, high in _WIDE_ENCODINGS.items():
            try:
                text = codecs.getincrementaldecoder(encoding)().decode(sample)
            except UnicodeDecodeError:
                continue
            # Spaces and line ends stand in any language; in records of binary data they do not.
            is_text = (" " in text or "\n" in text) and not _CONTROL.search(text)
            if is_text and (high is None or sample[high::2].count(0) > 0.6 * sample.count(0)):
                return encoding
        return None

    def _ending(self) -> str:
        return ".jsonl" if self.file.format == "objects" else ".txt"


def conversion_advice(file: CorpusFile, ending: str) -> str:
    """Return how to convert ``file`` from a legacy encoding; ``ending`` is that of the result."""
    command = _conversion(file, "WINDOWS-1252", ending)
    return (
        f"convert it, for example: {command} (or from WINDOWS-1251, GB18030, SHIFT_JIS, ...; "
        "iconv -l lists them all)"
    )


def _conversion(file: CorpusFile, encoding: str, ending: str) -> str:
    """Return the command. Files that are converted one after the other get names of their own."""
    convert = f"iconv -f {encoding} -t UTF-8"
    if file.is_standard_input:
        return f"... | {convert} | ..."
    path, new = shlex.quote(str(file.path)), shlex.quote(f"{file.path}.utf8{ending}")
    if file.compression is not None:
        return f"{file.compression.command} {path} | {convert} > {new}"
    return f"{convert} {path} > {new}"
