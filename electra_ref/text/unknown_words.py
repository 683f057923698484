"""How many tokens of a corpus are [UNK], and why: measured while it is tokenized.

[UNK] are counted one by one. Why a word is unknown is found out for a sample of lines, spread over
the corpus, because its ids no longer tell: it is too long, it has a character that no piece of the
vocabulary has, or its characters have no pieces where they stand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from electra_ref.batch import SPECIAL_TOKENS
from electra_ref.text.wordpiece import PREFIX, EncodedLines, WordPiece

FIRST_EXAMINED = 1000  # words; then one for every TOKENS_PER_EXAMINED tokens, so it costs little
TOKENS_PER_EXAMINED = 100
TOKENS_AT_A_TIME = 4096
CHARACTERS_SHOWN = 5
CHARACTERS_KEPT = 1000  # for each part of a corpus
_NUMBERS = ("unknown_tokens", "unknown_examined", "unknown_too_long", "unknown_characters")


class UnknownWords:
    """Counts over the documents that were encoded with ``tokenizer``."""

    def __init__(self, tokenizer: WordPiece) -> None:
        self._tokenizer = tokenizer
        pieces = (token.removeprefix(PREFIX) for token in tokenizer.vocab)
        self._alphabet = set().union(*(p for p in pieces if p not in SPECIAL_TOKENS))
        self._waiting: list[tuple[Sequence[str], EncodedLines]] = []
        self._tokens = self._counted = self._unknown = 0
        self._examined = self._too_long = self._foreign = 0
        self._missing: Counter[str] = Counter()  # characters that no piece has

    def count(self, lines: Sequence[str], encoded: EncodedLines) -> None:
        """Add one document: its lines, and ``encode_lines(lines)``."""
        self._waiting.append((lines, encoded))
        self._tokens += encoded.ids.size
        if self._tokens - self._counted >= TOKENS_AT_A_TIME:
            self._count_waiting()

    def _count_waiting(self) -> None:
        """Look at several documents at once: they may be very short."""
        ids = np.concatenate([encoded.ids for _, encoded in self._waiting])
        lengths = np.concatenate([encoded.lengths for _, encoded in self._waiting])
        lines = list(chain.from_iterable(lines for lines, _ in self._waiting))
        self._waiting, self._counted = [], self._tokens
        places = np.flatnonzero(ids == self._tokenizer.special_tokens.unknown)
        self._unknown += places.size
        with_unknown = np.unique(np.searchsorted(np.cumsum(lengths), places, side="right"))
        for line in with_unknown.tolist():
            if self._examined >= FIRST_EXAMINED + self._tokens // TOKENS_PER_EXAMINED:
                return
            for word in self._tokenizer.unknown_words(lines[line]):
                self._examine(word)

    def _examine(self, word: str) -> None:
        self._examined += 1
        if len(word) > self._tokenizer.max_characters:
            self._too_long += 1
        elif missing := set(word) - self._alphabet:
            self._foreign += 1
            self._missing.update(missing)

    def facts(self) -> dict[str, Any]:
        """Return what was counted, as plain JSON: see ``joined_facts``."""
        if self._waiting:
            self._count_waiting()
        return {
            "unknown_tokens": self._unknown,
            "unknown_examined": self._examined,
            "unknown_too_long": self._too_long,
            "unknown_characters": self._foreign,  # words with a character that no piece has
            "missing_characters": dict(_commonest(self._missing)[:CHARACTERS_KEPT]),
        }


def joined_facts(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the facts of several parts of a corpus as those of the whole.

    Of the missing characters the most common are named.
    """
    joined: dict[str, Any] = {name: sum(part[name] for part in parts) for name in _NUMBERS}
    missing: Counter[str] = Counter()
    for part in parts:
        missing.update(part["missing_characters"])
    names = [character for character, _ in _commonest(missing)[:CHARACTERS_SHOWN]]
    return {**joined, "missing_characters": names}


def _commonest(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
