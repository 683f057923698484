"""Cut text into lines and sentences, the long ones into parts, in memory that stays small."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

SENTENCE_ENDS = "\f\v\x85\u2028\u2029"  # they end a sentence inside a line; the first is canonical


class End(Enum):
    """What stands behind a part of the text."""

    LINE = 0
    SENTENCE = 1  # the line goes on
    CUT = 2  # the sentence goes on: it is longer than allowed


def read_lines(
    blocks: Iterator[str], longest: int, sentence_ends: str = SENTENCE_ENDS
) -> Iterator[tuple[str, End]]:
    """Yield the parts of the text, each at most ``longest`` characters, and how each ends.

    The end of the text ends a line. Without ``sentence_ends`` a part is a line or a cut.
    """
    pending = ""
    for block in blocks:
        text = pending + block
        held = "\r" if text.endswith("\r") else ""  # it may be half of a CR LF
        text = _with_canonical_ends(text.removesuffix("\r"), sentence_ends)
        *lines, rest = text.split("\n")
        for line in lines:
            if len(line) <= longest and "\f" not in line:
                yield line, End.LINE
            else:
                yield from _parts(line, longest, sentence_ends)
        if len(rest) > longest or "\f" in rest:
            *parts, (rest, _) = _parts(rest, longest, sentence_ends)
            yield from parts
        pending = rest + held
    if pending:
        yield pending.removesuffix("\r"), End.LINE


def _with_canonical_ends(text: str, sentence_ends: str) -> str:
    """Return ``text`` with LF for all ends of a line, form feed for all other ends."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    for end in sentence_ends[1:]:
        if end in text:
            text = text.replace(end, sentence_ends[0])
    return text


def _parts(line: str, longest: int, sentence_ends: str) -> Iterator[tuple[str, End]]:
    """Yield the sentences of a line, the long ones in parts."""
    sentences = line.split("\f") if sentence_ends else [line]
    for sentence in sentences[:-1]:
        *parts, last = _cut(sentence, longest)
        yield from ((part, End.CUT) for part in parts)
        yield last, End.SENTENCE
    *parts, last = _cut(sentences[-1], longest)
    yield from ((part, End.CUT) for part in parts)
    yield last, End.LINE


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
