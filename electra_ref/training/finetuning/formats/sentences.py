"""A sentence of words with their tags: what all formats of tagged text say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import regex

from electra_ref.text.normalization import CHINESE, PUNCTUATION

UNTAGGED = ""  # a word whose tag is not known

_CHUNK = regex.compile(r"[^\t\n\r\p{Z}]+")
_PART = regex.compile(rf"{CHINESE.pattern}|[^{CHINESE.pattern[1:-1]}]+")


class Columns(NamedTuple):
    """Where words and tags stand in a file."""

    word_column: int  # of columns without names: counted from 1, or from the end if negative
    tag_column: int
    word_key: str  # name of a column or a key; empty: it is guessed
    tag_key: str


class Sentence(NamedTuple):
    """n words, and what is known of them."""

    place: str  # where it begins, for messages
    text: str  # which the words are of; of words alone: with a space between two
    words: tuple[str, ...]  # (n)
    offsets: tuple[tuple[int, int], ...]  # (n)  [start, end) in the text, in characters
    tags: tuple[str, ...] | None  # (n)  as the file spells them; None if there are none
    predicate: int | None = None  # number of the word whose semantic roles the tags are
    id: Any = None  # any JSON that the answer repeats


def sentence_of(
    place: str,
    words: Iterable[str],
    tags: Iterable[str] | None,
    predicate: int | None = None,
    id: Any = None,
) -> Sentence:
    """Return the sentence of ``words``, whose text has a space between two of them."""
    words = tuple(words)
    offsets, start = [], 0
    for word in words:
        offsets.append((start, start + len(word)))
        start += len(word) + 1
    known = None if tags is None else tuple(tags)
    return Sentence(place, " ".join(words), words, tuple(offsets), known, predicate, id)


def sentence_of_text(place: str, text: str, id: Any = None) -> Sentence:
    """Return the words of ``text``, as tagged text has them.

    A word ends at a space. Punctuation at its beginning and at its end is cut off, each character a
    word of its own; inside it stays, as in "well-known". Each Chinese character is a word, too.
    """
    offsets: list[tuple[int, int]] = []
    for chunk in _CHUNK.finditer(text):
        start, end = chunk.span()
        while start < end and PUNCTUATION.match(text[start]):
            offsets.append((start, start + 1))
            start += 1
        last = end
        while last > start and PUNCTUATION.match(text[last - 1]):
            last -= 1
        offsets += [part.span() for part in _PART.finditer(text, start, last)]
        offsets += [(mark, mark + 1) for mark in range(last, end)]
    words = tuple(text[start:end] for start, end in offsets)
    return Sentence(place, text, words, tuple(offsets), None, None, id)
