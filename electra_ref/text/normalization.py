"""BERT's text cleaning and basic tokenization, as one table from character to text.

Before WordPiece, BERT changes raw text one character at a time:

    drop          control, format, private-use and surrogate characters, NUL, U+FFFD
    space         tab, line feed, carriage return, Unicode's separators (Z)
    isolate       Chinese characters and punctuation: each a word of its own
    strip accents canonical decomposition (NFD), then drop the non-spacing marks (Mn)
    lower-case    one character at a time

So a table from character to text does all of it. Afterwards spaces separate the words.
Sources: google-research/electra, model/tokenization.py (the passes and the Chinese ranges), and
Hugging Face's BertNormalizer. Where the two differ, the ids are those of Hugging Face, except that
U+2B820..2B91F are Chinese characters here, as in the original.

Differences from the original:

- Unassigned code points are kept, not dropped. Otherwise the tokens of a text would depend on the
  version of the Unicode tables. Categories come from the ``regex`` package, whose tables are newer
  than Python's. Decomposition and case come from Python, because ``regex`` has neither.
- A capital sigma always becomes a medial sigma. The original's ``str.lower`` looks at the
  neighbours and may write a final sigma.
- Accents can be stripped without lower-casing, on request. The original then keeps them, and so do
  runs of this package (``DataConfig.strips_accents``).
- Decomposed characters are not sorted into canonical order. Sorting could only move spacing marks
  (25 characters, viramas and musical stems) past one another, and it takes quadratic time on long
  runs of marks.
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

# ``str.split`` splits at these; BERT drops them and joins the text on both sides.
FALSE_SPACES = "\x0b\x0c\x1c\x1d\x1e\x1f\x85"


class CharacterTable(dict[int, str]):
    """What each code point becomes, for ``str.translate``; an entry is made at its first use.

    A value is empty (dropped), a space, letters, or a Chinese or punctuation character between
    spaces. A table has at most 1,114,112 entries, one for each code point of Unicode.
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
        """Return ``text`` with every character replaced; spaces now separate the words."""
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
            # One character has no neighbours, so ``lower`` makes a capital sigma a medial one.
            character = "".join(letter.lower() for letter in character)
        if isolated:
            return f" {character} "
        return "".join(f" {c} " if PUNCTUATION.match(c) else c for c in character)


def split_on_spaces(text: str) -> list[str]:
    """Cut raw ``text`` into chunks, wherever BERT's cleaning puts a space.

    The ids of a chunk do not depend on its neighbours.
    """
    for character in FALSE_SPACES:
        if character in text:
            text = text.replace(character, "")
    return text.split()
