"""How often each word occurs in texts of any size, in bounded memory.

At most DISTINCT_WORDS words with DISTINCT_CHARACTERS characters are counted. When there are more,
the rarest are forgotten until half of that is left. Of words with equal counts a hash of the word
decides, so the words that stay are an even sample of the whole text and not its beginning or its
end. Characters are never forgotten: those of a forgotten word stay counted.

A word that is forgotten and comes again starts from 0, as in lossy counting (Manku and Motwani
2002, "Approximate Frequency Counts over Data Streams").

Memory: about 100 bytes a word and 1 to 4 bytes a character, so at most 200 MB.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.text.normalization import CharacterTable, split_on_spaces
from electra_ref.text.wordpiece import MAX_CHARACTERS, PREFIX

CHARACTER_COVERAGE = 0.9999
DISTINCT_WORDS = 1_000_000
DISTINCT_CHARACTERS = 1 << 24
CHARACTERS_BETWEEN_FOLDS = 1 << 20
_WORDS_AT_A_TIME = 1 << 16

OnWork = Callable[[], None]  # called several times a second; may raise to stop


class WordCounts(NamedTuple):
    """The words of a text, and the characters of those that were forgotten."""

    words: Counter[str]
    forgotten: Counter[str]  # each character as a piece: ``w`` begins a word, ``##w`` does not


def count_words(
    texts: Iterable[str], *, lowercase: bool, strip_accents: bool, on_work: OnWork = lambda: None
) -> WordCounts:
    """Return how often each normalized word occurs, without words too long for WordPiece.

    The order of the texts does not matter, except for which words are forgotten.
    """
    table = CharacterTable(lowercase=lowercase, strip_accents=strip_accents)
    counts = WordCounts(Counter(), Counter())
    chunks: Counter[str] = Counter()  # text between spaces: counted, then normalized once
    characters = 0
    for text in texts:
        chunks.update(split_on_spaces(text))
        characters += len(text)
        if characters > CHARACTERS_BETWEEN_FOLDS:
            _fold(chunks, counts.words, table)
            on_work()
            if is_full(counts.words):
                forget_rarest(counts, on_work)
            characters = 0
    _fold(chunks, counts.words, table)
    if counts.forgotten or is_full(counts.words):
        forget_rarest(counts, on_work)
    return counts


def frequent_characters(counts: WordCounts) -> set[str]:
    """Return the most frequent characters that make up CHARACTER_COVERAGE of all words.

    Source: SentencePiece's ``character_coverage`` (Kudo and Richardson 2018, arXiv:1808.06226).
    """
    characters: Counter[str] = Counter()
    for piece, count in (count_characters(counts.words) + counts.forgotten).items():
        characters[piece[-1]] += count
    uncovered = characters.total()
    allowed = uncovered * (1 - CHARACTER_COVERAGE)
    kept = set()
    for character, count in sorted(characters.items(), key=lambda item: (-item[1], item[0])):
        if uncovered <= allowed:
            break
        kept.add(character)
        uncovered -= count
    return kept


def count_characters(words: Mapping[str, int]) -> Counter[str]:
    """Return how often each character occurs, as the pieces ``w`` and ``##w``."""
    keys, lengths = character_keys(words)
    weights = np.repeat(np.fromiter(words.values(), np.float64, len(words)), lengths)
    totals = np.bincount(keys, weights)  # exact below 2**53
    found = np.flatnonzero(totals)
    return Counter(
        {key_piece(k): int(n) for k, n in zip(found.tolist(), totals[found], strict=True)}
    )


def character_keys(words: Collection[str]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Return a number for each character of the words, and the length of each word.

    The number is twice the code point, plus 1 if the character does not begin its word.
    """
    keys = 2 * np.frombuffer("".join(words).encode("utf-32-le"), "<u4").astype(np.uint32) + 1
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    keys[np.cumsum(lengths) - lengths] -= 1
    return keys, lengths


def key_piece(key: int) -> str:
    """Return the piece that a number of ``character_keys`` stands for."""
    return PREFIX * (key % 2) + chr(key // 2)


def is_full(words: Counter[str]) -> bool:
    """Return whether there are more words, or characters in them, than are kept."""
    return len(words) > DISTINCT_WORDS or sum(map(len, words)) > DISTINCT_CHARACTERS


def forget_rarest(counts: WordCounts, on_work: OnWork) -> None:
    """Drop words until at most half of DISTINCT_WORDS and of DISTINCT_CHARACTERS are left.

    The words with the highest counts stay; of equals, those with the least hash.
    """
    words = list(counts.words)
    times = np.fromiter(counts.words.values(), np.int64, len(words))
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    levels, level_of = np.unique(-times, return_inverse=True)  # the highest counts first
    words_up_to = np.cumsum(np.bincount(level_of))
    characters_up_to = np.cumsum(np.bincount(level_of, lengths).astype(np.int64))
    most_words, most_characters = DISTINCT_WORDS // 2, DISTINCT_CHARACTERS // 2
    fits = (words_up_to <= most_words) & (characters_up_to <= most_characters)
    level = int(fits.sum())  # of the counts that not all words with them can stay
    if level == levels.size:
        return
    on_work()
    equals = np.flatnonzero(level_of == level)
    hashes = _hashes([words[i] for i in equals.tolist()], on_work)
    equals = equals[np.argsort(hashes, kind="stable")]
    before = np.append(0, characters_up_to)[level]
    stay = before + np.cumsum(lengths[equals]) <= most_characters
    stay[most_words - np.append(0, words_up_to)[level] :] = False
    leave = np.append(np.flatnonzero(level_of > level), equals[~stay])
    on_work()
    dropped = {words[i]: counts.words.pop(words[i]) for i in leave.tolist()}
    counts.forgotten.update(count_characters(dropped))


def _hashes(words: Sequence[str], on_work: OnWork) -> npt.NDArray[np.uint64]:
    """Return a number for each word that is the same everywhere and looks random."""
    digests = []
    for i in range(0, len(words), _WORDS_AT_A_TIME):
        on_work()
        for word in words[i : i + _WORDS_AT_A_TIME]:
            digests.append(hashlib.blake2b(word.encode(), digest_size=8).digest())
    return np.frombuffer(b"".join(digests), "<u8")


def _fold(chunks: Counter[str], words: Counter[str], table: CharacterTable) -> None:
    """Move the counts of ``chunks`` to the words they are made of."""
    for chunk, count in chunks.items():
        for word in table.normalize(chunk).split():
            if len(word) <= MAX_CHARACTERS:
                words[word] += count
    chunks.clear()
