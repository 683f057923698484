"""The vocabulary: trained from texts, written as ``vocab.txt``, read back.

The format is that of BERT and ELECTRA: one token a line; the id of a token is its line number, from
0. A trained vocabulary starts with [PAD] [UNK] [CLS] [SEP] [MASK]. Single characters follow, then
merged pieces in the order in which ``merging.py`` finds them.

The rarest characters, together one ten-thousandth of the text, get no piece. A word with such a
character is [UNK]. Source: SentencePiece's ``character_coverage`` (Kudo and Richardson 2018,
arXiv:1808.06226).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from electra_ref.batch import SPECIAL_TOKENS
from electra_ref.errors import UserError
from electra_ref.files import write_text_atomically
from electra_ref.text.merging import PairCounts, split_characters
from electra_ref.text.normalization import CharacterTable, split_on_spaces
from electra_ref.text.wordpiece import MAX_CHARACTERS, PREFIX, find_special_tokens

CHARACTER_COVERAGE = 0.9999
MINIMUM_PAIR_COUNT = 2  # a pair seen once says nothing about other text
DISTINCT_WORDS = 1_000_000
CHARACTERS_BETWEEN_FOLDS = 1 << 22


def train_vocabulary(texts: Iterable[str], size: int, *, lowercase: bool = True) -> list[str]:
    """Return at most ``size`` tokens for ``texts``; fewer if the texts hold no more.

    The result depends only on how often each word occurs. The order of the texts does not matter,
    except with more than a million distinct words: then the rarest are dropped during counting.
    ``texts`` is read once and never kept, so it may be larger than memory.

    Raises UserError if the texts hold no words, or if the special tokens and the characters alone
    are more than ``size``.
    """
    words = count_words(texts, lowercase=lowercase)
    if not words:
        raise UserError("the corpus holds no words to train a vocabulary from: is it text?")
    kept = frequent_characters(words)
    words = {word: count for word, count in words.items() if kept.issuperset(word)}
    alphabet = {piece for word in words for piece in split_characters(word)}
    vocabulary = [*SPECIAL_TOKENS, *sorted(alphabet, key=_characters_that_begin_words_first)]
    if size < len(vocabulary):
        raise UserError(
            f"a vocabulary of {size} tokens is too small: the special tokens and the characters of "
            f"this corpus alone are {len(vocabulary)}; ask for more than that"
        )
    _add_merges(vocabulary, words, size)
    return vocabulary


def count_words(texts: Iterable[str], *, lowercase: bool) -> Mapping[str, int]:
    """Return how often each normalized word occurs, without words too long for WordPiece.

    When there are more than a million distinct words, the rarest so far are dropped.
    """
    table = CharacterTable(lowercase=lowercase, strip_accents=lowercase)
    words: Counter[str] = Counter()
    chunks: Counter[str] = Counter()  # text between spaces: counted, then normalized once
    characters = 0
    for text in texts:
        chunks.update(split_on_spaces(text))
        characters += len(text)
        if characters > CHARACTERS_BETWEEN_FOLDS:
            _fold(chunks, words, table)
            _forget_rarest(words)
            characters = 0
    _fold(chunks, words, table)
    _forget_rarest(words)
    return words


def frequent_characters(words: Mapping[str, int]) -> set[str]:
    """Return the most frequent characters that make up ``CHARACTER_COVERAGE`` of all words."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    uncovered = counts.total()
    allowed = uncovered * (1 - CHARACTER_COVERAGE)
    kept = set()
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if uncovered <= allowed:
            break
        kept.add(character)
        uncovered -= count
    return kept


def load_vocabulary(path: str | os.PathLike[str]) -> list[str]:
    """Return the tokens of a ``vocab.txt``.

    Raises UserError if the file cannot be read, is not UTF-8, is empty, has an empty line, has a
    token twice, or has not all special tokens.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"cannot read the vocabulary {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"the vocabulary {path} is not UTF-8 text (byte {error.start}): is it the right file?"
        ) from error
    # Not ``splitlines``: a token may be a character at which it splits, such as U+2028.
    vocabulary = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if vocabulary == [""]:
        raise UserError(f"the vocabulary {path} is empty")
    if "" in vocabulary:
        raise UserError(
            f"the vocabulary {path} has an empty line {vocabulary.index('') + 1}: "
            "it must have one token a line"
        )
    try:
        find_special_tokens(vocabulary)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return vocabulary


def save_vocabulary(path: str | os.PathLike[str], vocabulary: Sequence[str]) -> None:
    """Write a ``vocab.txt``; it appears complete or not at all, even if the machine stops.

    Raises UserError if it cannot be written, ValueError if a token is empty or holds a line end.
    """
    for token in vocabulary:
        if not token or "\n" in token or token.endswith("\r"):
            raise ValueError(f"a vocabulary file cannot hold the token {token!r}")
    write_text_atomically(Path(path), "".join(token + "\n" for token in vocabulary))


def _add_merges(vocabulary: list[str], words: Mapping[str, int], size: int) -> None:
    pairs = PairCounts(words)
    known = set(vocabulary)
    while len(vocabulary) < size:
        best = pairs.pop_most_frequent()
        if best is None or best[1] < MINIMUM_PAIR_COUNT:
            break
        piece = pairs.merge(best[0])
        if piece not in known:  # two different pairs can spell the same piece
            known.add(piece)
            vocabulary.append(piece)


def _characters_that_begin_words_first(piece: str) -> tuple[bool, str]:
    return piece.startswith(PREFIX), piece


def _fold(chunks: Counter[str], words: Counter[str], table: CharacterTable) -> None:
    """Move the counts of ``chunks`` to the words they are made of."""
    for chunk, count in chunks.items():
        for word in table.normalize(chunk).split():
            if len(word) <= MAX_CHARACTERS:
                words[word] += count
    chunks.clear()


def _forget_rarest(words: Counter[str]) -> None:
    """If there are too many words, drop the rarest until at most half of DISTINCT_WORDS are left.

    Words with equal counts are all kept or all dropped.
    """
    if len(words) <= DISTINCT_WORDS:
        return
    words_with_count = Counter(words.values())
    left = len(words)
    for lowest in sorted(words_with_count):
        left -= words_with_count[lowest]
        if left <= DISTINCT_WORDS // 2:
            break
    for word in [word for word, count in words.items() if count <= lowest]:
        del words[word]
