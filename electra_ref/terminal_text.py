"""Text of others on a terminal: visible, harmless, and as wide as it is counted.

Tokens, file names and values may hold control characters and escape sequences. A terminal obeys
them: they move the cursor, change colours or the window's title, or hide what follows. Format
characters change the order of the text around them. So each is written as Python writes it in a
string, such as \\x1b.

Widths are in columns: an ideograph takes two, a combining mark none. Source: Unicode Standard Annex
11, "East Asian Width", and 9, "Unicode Bidirectional Algorithm".
"""

from __future__ import annotations

import unicodedata
from typing import TextIO

NEITHER_SHOWN_NOR_SAFE = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})  # categories
RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})  # bidirectional classes
ISOLATE, END_OF_ISOLATE = "\u2068", "\u2069"
DOTTED_CIRCLE = "\u25cc"  # what Unicode's charts show a combining mark on


def visible(text: str) -> str:
    """Return ``text`` in one line, with an escape for each character that has no shape."""
    if text.isprintable():
        return text
    return "".join(map(_visible_character, text))


def columns_of(text: str) -> int:
    """Return how many columns of a terminal ``text`` takes; it must be ``visible``."""
    import wcwidth  # noqa: PLC0415  (--help need not wait for its tables)

    return max(0, int(wcwidth.wcswidth(text)))


def cell(text: str) -> str:
    """Return ``visible`` text that stays apart from its neighbours in a line.

    A combining mark at the start gets a dotted circle, so that it changes no other cell. Text with
    letters that are written from right to left is isolated, so that the cells keep their order.
    """
    text = visible(text)
    if text and unicodedata.category(text[0]).startswith("M"):
        text = DOTTED_CIRCLE + text
    if any(unicodedata.bidirectional(character) in RIGHT_TO_LEFT for character in text):
        text = ISOLATE + text + END_OF_ISOLATE
    return text


def encodable(text: str, stream: TextIO) -> str:
    """Return ``text`` with an escape for each character that the encoding of ``stream`` lacks."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _visible_character(character: str) -> str:
    if unicodedata.category(character) not in NEITHER_SHOWN_NOR_SAFE:
        return character
    return character.encode("unicode_escape").decode("ascii")
