"""BERT's text cleaning and basic tokenization, as one table from character to text.

Everything BERT does to raw text before WordPiece looks at one character at a time:

    drop          control, format, private-use and surrogate characters, NUL, U+FFFD
    space         tab, line feed, carriage return, Unicode's separators (Z)
    isolate       Chinese characters and punctuation: each a word of its own
    strip accents canonical decomposition (NFD), then drop the non-spacing marks (Mn)
    lower-case    one character at a time

So a text is normalized by looking each character up, and its words are what spaces separate then.
Sources: google-research/electra, model/tokenization.py (the passes and the Chinese ranges) and
Hugging Face's BertNormalizer, whose ids are reproduced wherever the two differ, except that
U+2B820..2B91F are Chinese characters here, as in the original.

Where this differs from the original:

- Unassigned code points are kept, not dropped: what a text is cut into should not depend on how
  new the tables are. Categories come from the ``regex`` package, which is newer than the tables
  of Python; decomposition and case come from Python, because ``regex`` has neither.
- A capital sigma becomes a medial sigma everywhere: the original's ``str.lower`` looks at the
  neighbours to write a final one.
- Accents can be stripped without lower-casing, if asked for (the original then keeps them).
- Decomposed characters are not put into canonical order. That could only move spacing marks (25
  characters, viramas and musical stems) past one another, and sorting long runs of marks is how
  NFD gets quadratic.
"""

from __future__ import annotations

import unicodedata

import regex

DROPPED = regex.compile(r"[\p{Cc}\p{Cf}\p{Co}\p{Cs}\uFFFD]")
SPACE = regex.compile(r"[\t\n\r\p{Z}]")
PUNCTUATION = regex.compile(r"[!-/:-@\[-`{-~\p{P}]")
ACCENT = regex.compile(r"\p{Mn}")
CHINESE = regex.compile(
    "[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    "\U0002b820-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f]"
)

# ``str.split`` takes these for white space; BERT drops them and joins what they stand between.
FALSE_SPACES = "\x0b\x0c\x1c\x1d\x1e\x1f\x85"


class CharacterTable(dict[int, str]):
    """What each code point becomes, for ``str.translate``; filled in as characters are met.

    A value is empty (dropped), a space, letters, or a Chinese or punctuation character between
    spaces. A table never holds more than Unicode has: 1,114,112 entries.
    """

    def __init__(self, *, lowercase: bool, strip_accents: bool) -> None:
        super().__init__()
        self.lowercase = lowercase
        self.strip_accents = strip_accents

    def __missing__(self, code_point: int) -> str:
        normalized = self._normalize_character(chr(code_point))
        self[code_point] = normalized
        return normalized

    def normalize(self, text: str) -> str:
        """Return ``text`` with every character replaced: its words are what spaces separate."""
        return text.translate(self)

    def normalize_with_sources(self, text: str) -> list[tuple[str, int]]:
        """Return the characters of ``normalize(text)``, each with the index of its source."""
        return [
            (character, source)
            for source, original in enumerate(text)
            for character in self[ord(original)]
        ]

    def _normalize_character(self, character: str) -> str:
        if SPACE.match(character):
            return " "
        if DROPPED.match(character):
            return ""
        isolated = CHINESE.match(character) is not None
        if self.strip_accents:
            character = ACCENT.sub("", unicodedata.normalize("NFD", character))
        if self.lowercase:
            # A lone capital sigma has no neighbours, so ``lower`` makes it a medial one.
            character = "".join(letter.lower() for letter in character)
        if isolated:
            return f" {character} "
        return "".join(f" {c} " if PUNCTUATION.match(c) else c for c in character)


def split_on_spaces(text: str) -> list[str]:
    """Cut raw ``text`` where BERT's cleaning puts a space, into the chunks between.

    What a chunk becomes does not depend on its neighbours.
    """
    for character in FALSE_SPACES:
        if character in text:
            text = text.replace(character, "")
    return text.split()
