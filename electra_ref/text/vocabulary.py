"""The vocabulary: trained from texts, written as ``vocab.txt``, read back.

The format is that of BERT and ELECTRA: one token a line; the id of a token is its line number, from
0. A trained vocabulary starts with [PAD] [UNK] [CLS] [SEP] [MASK]. Single characters follow, then
merged pieces in the order in which ``merging.py`` finds them.

The rarest characters, together one ten-thousandth of the text, get no piece. A word with such a
character is [UNK].
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from electra_ref.batch import SPECIAL_TOKENS
from electra_ref.errors import UserError
from electra_ref.files import write_text_atomically
from electra_ref.text import fast_merging, merging
from electra_ref.text.word_counts import count_characters, count_words, frequent_characters
from electra_ref.text.wordpiece import PREFIX, find_special_tokens

COMPILED_FROM = 1 << 18  # characters of distinct words; fewer take less time than compiling does
MINIMUM_PAIR_COUNT = 2  # a pair seen once says nothing about other text


def train_vocabulary(
    texts: Iterable[str],
    size: int,
    *,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    may_grow: bool = False,
    name: str = "the corpus",
    on_work: Callable[[], None] = lambda: None,
    on_merges: Callable[[int, int], None] = lambda _done, _all: None,
) -> list[str]:
    """Return at most ``size`` tokens for ``texts``; fewer if the texts hold no more.

    With ``may_grow`` at least half of ``size`` is left for merged pieces: the vocabulary is larger
    where special tokens and characters take more than the other half. Chinese text, say, has
    thousands of characters.

    ``strip_accents`` is equal to ``lowercase`` if it is not given, as in ``WordPiece``.

    The result depends only on how often each word occurs. The order of the texts does not matter,
    except above the limits of ``count_words``. ``texts`` is read once and never kept, so it may be
    larger than memory. ``on_work`` is called several times a second while there is other work than
    reading, and ``on_merges`` with the merged pieces found and wanted. Both may raise to stop.

    Raises UserError if the texts, which it calls ``name``, hold no words, or if the special tokens
    and the characters alone are more than ``size``.
    """
    strip_accents = lowercase if strip_accents is None else strip_accents
    counts = count_words(texts, lowercase=lowercase, strip_accents=strip_accents, on_work=on_work)
    if not counts.words:
        raise UserError(f"{name} holds no words to train a vocabulary from; name files of text")
    on_work()
    kept = frequent_characters(counts)
    on_work()
    words = Counter({w: count for w, count in counts.words.items() if kept.issuperset(w)})
    on_work()
    alphabet = {*count_characters(words), *(p for p in counts.forgotten if p[-1] in kept)}
    vocabulary = [*SPECIAL_TOKENS, *sorted(alphabet, key=_characters_that_begin_words_first)]
    if may_grow:
        size = max(size, len(vocabulary) + size // 2)
    if size < len(vocabulary):
        raise UserError(
            f"a vocabulary of {size} tokens is too small: the special tokens and the characters of "
            f"this corpus alone are {len(vocabulary)}; ask for at least {len(vocabulary)} "
            "(max_vocab_size)"
        )
    _add_merges(vocabulary, words, size, on_merges)
    return vocabulary


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
    if (first := vocabulary[0].removeprefix("\ufeff")) in SPECIAL_TOKENS:
        vocabulary[0] = first  # some editors begin a file of UTF-8 with a mark
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


def _add_merges(
    vocabulary: list[str],
    words: Mapping[str, int],
    size: int,
    on_merges: Callable[[int, int], None],
) -> None:
    known = set(vocabulary)
    characters = len(vocabulary)

    def tell() -> None:
        on_merges(len(vocabulary) - characters, size - characters)

    tell()
    if sum(map(len, words)) < COMPILED_FROM:
        pieces = merging.find_merges(words, MINIMUM_PAIR_COUNT)
    else:
        pieces = fast_merging.find_merges(words, MINIMUM_PAIR_COUNT, tell)
    for piece in pieces:
        if len(vocabulary) == size:
            break
        if piece not in known:  # two different pairs can spell the same piece
            known.add(piece)
            vocabulary.append(piece)
        tell()


def _characters_that_begin_words_first(piece: str) -> tuple[bool, str]:
    return piece.startswith(PREFIX), piece
