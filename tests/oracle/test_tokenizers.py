"""The same words, ids and offsets as Hugging Face's ``tokenizers``, except where it is listed.

The exceptions, all of them:

- ``EXTENSION_E``: Chinese characters in a range that starts later in ``tokenizers`` than in the
  original.
- Newer characters: format characters, marks and punctuation that are not in the Unicode tables of
  ``tokenizers``, which treats them as letters.
- ``RECLASSIFIED``: characters whose category has changed since those tables.
- Capitals that are not in the tables of this Python: they stay capitals here.
- Spacing marks out of canonical order: they and their offsets stay as they are here.
- "[MASK]" in a text, which becomes the special token there if it was declared as one.
"""

from __future__ import annotations

import sys
import unicodedata
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import regex

from electra_ref.batch import SPECIAL_TOKENS
from electra_ref.text.normalization import CharacterTable
from electra_ref.text.vocabulary import train_vocabulary
from electra_ref.text.wordpiece import WordPiece

tokenizers = pytest.importorskip("tokenizers", reason="needs the extra: oracle")
pytestmark = pytest.mark.oracle

EXTENSION_E = range(0x2B820, 0x2B920)
BLOCK = 1 << 10
RECLASSIFIED = {
    "\u166d": "punctuation to symbol",
    "\u1734": "non-spacing to spacing mark",
    "\u1885": "letter to non-spacing mark",
    "\u1886": "letter to non-spacing mark",
    "\U000111c9": "punctuation to non-spacing mark",
    "\U0001171e": "non-spacing to spacing mark",
}
OPTIONS = [  # lowercase, strip_accents; the last two are seldom asked for
    (True, True),
    (False, False),
    pytest.param(True, False, marks=pytest.mark.slow),
    pytest.param(False, True, marks=pytest.mark.slow),
]


def is_old(character: str) -> bool:
    """Whether Unicode 3.2 (2002) had it: then every table in use knows it."""
    return unicodedata.ucd_3_2_0.category(character) != "Cn"


def is_exception(character: str, here: list[str], there: list[str], text: str) -> bool:
    """Whether the list above says that ``text`` with ``character`` may give different words."""
    if ord(character) in EXTENSION_E:
        return here != [text] == there
    if character in RECLASSIFIED:
        return True
    newer = not is_old(character) and (
        regex.match(r"[\p{Cf}\p{M}\p{P}]", character) is not None
        or unicodedata.normalize("NFD", character) != character
    )
    if newer and there == [text]:
        return True
    return unicodedata.category(character) == "Cn" and here == [text] != there


def their_words(text: str, lowercase: bool, strip_accents: bool) -> list[str]:
    """Return the words of ``text`` before they are cut into pieces."""
    normalizer = tokenizers.normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents
    )
    words = tokenizers.pre_tokenizers.BertPreTokenizer().pre_tokenize_str(
        normalizer.normalize_str(text)
    )
    return [word for word, _ in words]


def their_tokenizer(vocabulary: list[str], lowercase: bool, strip_accents: bool) -> Any:
    """Return what Hugging Face builds for a BERT vocabulary, with no template around a text."""
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(
            {token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]"
        )
    )
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return tokenizer


def split_at_bars(words: list[str]) -> list[list[str]]:
    """Cut a list of words at each ``|``, which stands alone because it is punctuation."""
    bars = [-1, *(i for i, word in enumerate(words) if word == "|"), len(words)]
    return [words[start + 1 : end] for start, end in pairwise(bars)]


@pytest.mark.parametrize(("lowercase", "strip_accents"), OPTIONS)
def test_every_code_point(lowercase: bool, strip_accents: bool) -> None:
    """Alone and in a word; all but the surrogates, which ``tokenizers`` cannot be given."""
    table = CharacterTable(lowercase=lowercase, strip_accents=strip_accents)
    exceptions = set()
    for start in range(0, sys.maxunicode + 1, BLOCK):
        characters = [chr(i) for i in range(start, start + BLOCK) if not 0xD800 <= i < 0xE000]
        texts = [text for c in characters if c != "|" for text in (c, f"a{c}b")]
        joined = "|".join(texts)
        here = table.normalize(joined).split()
        there = their_words(joined, lowercase, strip_accents)
        if here == there:
            continue
        for text, ours, theirs in zip(
            texts, split_at_bars(here), split_at_bars(there), strict=True
        ):
            if ours != theirs:
                character = text[len(text) // 2]
                exceptions.add(character)
                assert is_exception(character, ours, theirs, text), (ascii(text), ours, theirs)
    assert len(EXTENSION_E) < len(exceptions) < 1_500


SCRIPTS = {
    "Latin": (0x20, 0x250),
    "Greek and Cyrillic": (0x370, 0x530),
    "Hebrew and Arabic": (0x590, 0x700),
    "Indic": (0x900, 0xE00),
    "Thai and Lao": (0xE00, 0xF00),
    "Tibetan and Burmese": (0xF00, 0x10A0),
    "Hangul letters and Ethiopic": (0x1100, 0x1400),
    "Khmer and Mongolian": (0x1780, 0x18B0),
    "Latin and Greek with accents": (0x1E00, 0x2000),
    "punctuation and symbols": (0x2000, 0x2C00),
    "kana": (0x3000, 0x3200),
    "Chinese": (0x4E00, 0x5000),
    "Hangul syllables": (0xAC00, 0xAE00),
    "private, compatible and special": (0xF8F0, 0x10000),
    "beyond 16 bits": (0x1D100, 0x1D800),
    "more Chinese": (0x20000, 0x20100),
}


def draw_texts(count: int, rng: np.random.Generator) -> list[str]:
    """Texts of up to 40 characters from one to three scripts, with spaces and marks between."""
    movable = {
        chr(i)
        for i in range(sys.maxunicode + 1)
        if any(
            unicodedata.combining(c) and unicodedata.category(c) == "Mc"
            for c in unicodedata.normalize("NFD", chr(i))
        )
    }
    alphabets = [
        [c for c in map(chr, range(*ends)) if is_old(c) and c not in movable | RECLASSIFIED.keys()]
        for ends in SCRIPTS.values()
    ]
    common = list("etaoin shrdlu ETAOIN, .-'[]#_0129\t\n\u00ad\u200d\0\u0301\u0323\u0308İßΣéÅ力각")
    texts = []
    for _ in range(count):
        chosen = [alphabets[i] for i in rng.integers(len(alphabets), size=rng.integers(1, 4))]
        pool = [common, *chosen]
        which = rng.integers(len(pool), size=rng.integers(0, 41))
        texts.append("".join(pool[i][rng.integers(len(pool[i]))] for i in which))
    return texts


@pytest.mark.parametrize(
    "count", [3_000, pytest.param(50_000, marks=pytest.mark.slow)], ids=["some", "many"]
)
@pytest.mark.parametrize(("lowercase", "strip_accents"), OPTIONS)
def test_ids_and_offsets_of_random_texts(lowercase: bool, strip_accents: bool, count: int) -> None:
    rng = np.random.default_rng([count, lowercase, strip_accents])
    texts = draw_texts(count, rng)
    vocabulary = train_vocabulary(texts, 30_000, lowercase=lowercase)
    # Without some of the characters there are unknown words, too.
    vocabulary = [t for t in vocabulary if t in SPECIAL_TOKENS or rng.random() < 0.97]
    ours = WordPiece(vocabulary, lowercase=lowercase, strip_accents=strip_accents)
    theirs = their_tokenizer(vocabulary, lowercase, strip_accents).encode_batch(texts)
    unknown = pieces = 0
    for text, expected in zip(texts, theirs, strict=True):
        encoding = ours.encode_with_offsets(text)
        assert encoding.ids == expected.ids, text
        assert encoding.tokens == expected.tokens, text
        assert encoding.offsets == expected.offsets, text
        assert ours.encode(text) == expected.ids, text
        unknown += expected.tokens.count("[UNK]")
        pieces += len(expected.ids)
    assert 0 < unknown < pieces / 2, "the texts must show known and unknown words"


@pytest.mark.parametrize("length", [99, 100, 101, 200])
def test_the_longest_word(length: int) -> None:
    vocabulary = [*SPECIAL_TOKENS, "a", "##a", "e"]
    text = "é" + "a" * (length - 1) + " a"
    expected = their_tokenizer(vocabulary, True, True).encode(text)
    encoding = WordPiece(vocabulary).encode_with_offsets(text)
    assert encoding.ids == expected.ids
    assert encoding.offsets == expected.offsets


def test_a_literal_special_token_is_text_here_and_special_there() -> None:
    vocabulary = [*SPECIAL_TOKENS, "[", "]", "mask"]
    tokenizer = their_tokenizer(vocabulary, True, True)
    assert WordPiece(vocabulary).encode("[MASK]") == tokenizer.encode("[MASK]").ids == [5, 7, 6]
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    assert tokenizer.encode("[MASK]").ids == [4]


def test_marks_out_of_order_are_left_so_here_and_sorted_there() -> None:
    text = "\u302e\u1b44"
    assert CharacterTable(lowercase=True, strip_accents=True).normalize(text) == text
    assert their_words(text, True, True) == [text[::-1]]
