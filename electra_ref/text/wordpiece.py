"""WordPiece: from text to the ids of the longest pieces in the vocabulary.

A word is cut from the left, each time into the longest piece that the vocabulary has. A piece that
does not begin the word is written ``##piece``. A word that cannot be cut, or is longer than
``max_characters``, becomes one [UNK].
Sources: google-research/electra, model/tokenization.py; Hugging Face's BertTokenizer, whose ids
are reproduced.

Differences: a word may have 100 characters, as in Hugging Face; the original allows 200, which
``max_characters`` can set. The text "[MASK]" is a word between two brackets, as in the original;
Hugging Face makes it the special token.

Words repeat, so the ids of each chunk of text between two spaces are remembered. For ordinary text
this leaves one split, and one dictionary look-up a chunk. ``encode_with_offsets`` also remembers
the places of the pieces, which it finds character by character; tests compare the two.

Time is linear in the length of the text: a word over the limit is not cut, and no look-up is longer
than the longest piece. Memory for remembered chunks is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import regex

from electra_ref.batch import SPECIAL_TOKENS, SpecialTokens
from electra_ref.config.normalization import NormalizationConfig
from electra_ref.errors import UserError
from electra_ref.text.normalization import CharacterTable, split_on_spaces

PREFIX = "##"
_CHUNK = regex.compile(r"[^\t\n\r\p{Z}]+")  # between two spaces, see ``normalization.SPACE``
MAX_CHARACTERS = 100
REMEMBERED_TEXTS = 1 << 17  # all are dropped when full; about 30 MB of ordinary text
REMEMBERED_CHARACTERS = 40  # a longer text is seldom seen twice


class Encoding(NamedTuple):
    """The n pieces of one text."""

    ids: list[int]  # (n)
    tokens: list[str]  # (n)  as the vocabulary spells them, with ## and [UNK]
    offsets: list[tuple[int, int]]  # (n)  [start, end) in the original text, in characters


class EncodedLines(NamedTuple):
    """The pieces of several texts, one after the other."""

    ids: npt.NDArray[np.int32]  # (total)
    lengths: npt.NDArray[np.int64]  # (texts)  pieces of each text; they add up to ``total``


class WordPiece:
    """A vocabulary, and how to cut text with it. Ids are positions in ``vocabulary``.

    ``strip_accents`` is equal to ``lowercase`` if it is not given, as in Hugging Face.
    Raises UserError if the vocabulary lacks a special token or has a token twice.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        *,
        lowercase: bool = True,
        strip_accents: bool | None = None,
        max_characters: int = MAX_CHARACTERS,
    ) -> None:
        self.vocab = tuple(vocabulary)
        self.special_tokens = find_special_tokens(self.vocab)
        self.max_characters = max_characters
        self._characters = CharacterTable(
            lowercase=lowercase,
            strip_accents=lowercase if strip_accents is None else strip_accents,
        )
        self._first = {token: i for i, token in enumerate(self.vocab)}
        self._inner = {
            token.removeprefix(PREFIX): i
            for token, i in self._first.items()
            if token.startswith(PREFIX)
        }
        self._longest = max(map(len, self.vocab))
        self._words = _Remembered(self._encode_word)
        self._chunks = _Remembered(self._encode_chunk)
        self._placed = _Remembered(self._place_chunk)

    def encode(self, text: str) -> list[int]:
        """Return the ids of the pieces of ``text``, without [CLS] and [SEP]."""
        return list(chain.from_iterable(map(self._chunks.__getitem__, split_on_spaces(text))))

    def encode_lines(self, lines: Iterable[str]) -> EncodedLines:
        """Return the ids of all ``lines``; used to read a corpus.

        The result takes 4 bytes a piece and 8 a line, so pass a few megabytes of text at a time.
        """
        encoded = [self.encode(line) for line in lines]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        total = int(lengths.sum())
        return EncodedLines(np.fromiter(chain.from_iterable(encoded), np.int32, total), lengths)

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of ``text``, normalized, that become [UNK]."""
        unknown = (self.special_tokens.unknown,)
        words = self._characters.normalize(text).split()
        return [word for word in words if self._words[word] == unknown]

    def encode_with_offsets(self, text: str) -> Encoding:
        """Return the ids of ``encode(text)``, each with its token and its place in ``text``.

        A dropped character inside a piece belongs to its place. Two pieces have the same place if
        one character became both, as a Hangul syllable can. Places ascend.
        """
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for chunk in _CHUNK.finditer(text):
            pieces, places = self._placed[chunk.group()]
            start = chunk.start()
            ids.extend(pieces)
            offsets.extend([(start + first, start + end) for first, end in places])
        return Encoding(ids, [self.vocab[i] for i in ids], offsets)

    def _encode_chunk(self, chunk: str) -> tuple[int, ...]:
        words = self._characters.normalize(chunk).split()
        return tuple(chain.from_iterable(map(self._words.__getitem__, words)))

    def _place_chunk(self, chunk: str) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        """Return the ids of the pieces of ``chunk``, and their places in it."""
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        for word in _words(self._characters.normalize_with_sources(chunk)):
            start = 0
            for piece, end in self._cut("".join(character for character, _ in word)):
                ids.append(piece)
                places.append((word[start][1], word[end - 1][1] + 1))
                start = end
        return tuple(ids), tuple(places)

    def _encode_word(self, word: str) -> tuple[int, ...]:
        return tuple(piece for piece, _ in self._cut(word))

    def _cut(self, word: str) -> list[tuple[int, int]]:
        """Return (id, end in the word) of each piece of a normalized word."""
        if len(word) > self.max_characters:
            return [(self.special_tokens.unknown, len(word))]
        pieces: list[tuple[int, int]] = []
        start = 0
        while start < len(word):
            known = self._inner if start else self._first
            for end in range(min(start + self._longest, len(word)), start, -1):
                piece = known.get(word[start:end])
                if piece is not None:
                    break
            else:
                return [(self.special_tokens.unknown, len(word))]
            pieces.append((piece, end))
            start = end
        return pieces


def tokenizer_of(vocabulary: Sequence[str], config: NormalizationConfig) -> WordPiece:
    """Return WordPiece with ``vocabulary`` that changes text as ``config`` says."""
    return WordPiece(vocabulary, lowercase=config.lowercase, strip_accents=config.strips_accents)


def find_special_tokens(vocabulary: Sequence[str]) -> SpecialTokens:
    """Return the ids of BERT's five special tokens.

    Raises UserError if one of them is missing or any token is in ``vocabulary`` twice.
    """
    ids = {token: i for i, token in enumerate(vocabulary)}
    for i, token in enumerate(vocabulary):
        if ids[token] != i:
            raise UserError(
                f"the vocabulary has {token!r} twice, as ids {i} and {ids[token]}: remove one"
            )
    for token in SPECIAL_TOKENS:
        if token not in ids:
            raise UserError(f"the vocabulary lacks the special token {token}: add it")
    return SpecialTokens(*(ids[token] for token in SPECIAL_TOKENS))


_Result = TypeVar("_Result")


class _Remembered(dict[str, _Result]):
    """Results of ``compute`` by text: a dictionary of bounded size that fills itself."""

    def __init__(self, compute: Callable[[str], _Result]) -> None:
        super().__init__()
        self._compute = compute

    def __missing__(self, text: str) -> _Result:
        result = self._compute(text)
        if len(text) <= REMEMBERED_CHARACTERS:
            if len(self) >= REMEMBERED_TEXTS:
                self.clear()
            self[text] = result
        return result


def _words(characters: list[tuple[str, int]]) -> Iterable[list[tuple[str, int]]]:
    """Cut normalized characters, each with the index of its source, into words at the spaces."""
    word: list[tuple[str, int]] = []
    for pair in characters:
        if pair[0] != " ":
            word.append(pair)
        elif word:
            yield word
            word = []
    if word:
        yield word
