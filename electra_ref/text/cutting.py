"""Where a large plain file may be cut: at the start of a line, if possible of a document.

Nothing is lost or read twice at a cut: a part begins where the one before it ends. A line of .txt
with WINDOW bytes after the wanted place is cut at a space, as reading cuts it.
"""

from __future__ import annotations

import re
from typing import IO

from electra_ref.errors import UserError
from electra_ref.text.corpus import LONGEST_DOCUMENT, LONGEST_OBJECT, LONGEST_SENTENCE
from electra_ref.text.corpus_file import CorpusFile

WINDOW = LONGEST_SENTENCE  # bytes; as far a line end is looked for in .txt

_LINE_END = re.compile(rb"\r\n|[\n\r]")
_BLANK_LINE = re.compile(rb"(?>\r\n|[\n\r])[ \t]*(?>\r\n|[\n\r])")
_INSIDE_A_CHARACTER = bytes(range(0x80, 0xC0))  # UTF-8's continuation bytes


def document_start(stream: IO[bytes], file: CorpusFile, position: int) -> int:
    """Return where the first document begins after ``position``, in bytes.

    A line of .jsonl is a document. In .txt it is the text after a blank line; where none follows
    within LONGEST_DOCUMENT bytes, it is the next line: reading passes on so long a document in
    pieces anyway. Raises what ``line_start`` raises.
    """
    if file.format == "text" and 0 < position < file.size:
        stream.seek(position)
        if found := _BLANK_LINE.search(stream.read(LONGEST_DOCUMENT)):
            return position + found.end()
    return line_start(stream, file, position)


def line_start(stream: IO[bytes], file: CorpusFile, position: int) -> int:
    """Return where the first line begins at or after ``position``, in bytes.

    Raises OSError, and UserError for a line of .jsonl that is longer than reading allows.
    """
    if position == 0 or position >= file.size:
        return min(position, file.size)
    start = position - 1
    stream.seek(start)
    for _ in range(1 if file.format == "text" else 4 * LONGEST_OBJECT // WINDOW):
        window = stream.read(WINDOW)
        if found := _LINE_END.search(window):
            return start + found.end()
        if len(window) < WINDOW:
            return file.size
        start += WINDOW
    if file.format == "objects":
        raise UserError(
            f"{file.name}, after byte {position}: a line is longer than {LONGEST_OBJECT} "
            "characters; each line should be one JSON object"
        )
    space = window.find(b" ")
    if space >= 0:
        return position + space
    return position + len(window[1:]) - len(window[1:].lstrip(_INSIDE_A_CHARACTER))
