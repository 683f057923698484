"""Text cleaning, greedy matching and offsets, against BERT's algorithm written pass by pass."""

from __future__ import annotations

import sys
import time
import unicodedata
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from electra_ref.batch import SPECIAL_TOKENS, SpecialTokens
from electra_ref.errors import UserError
from electra_ref.text import wordpiece
from electra_ref.text.normalization import FALSE_SPACES, CharacterTable, split_on_spaces
from electra_ref.text.wordpiece import WordPiece

# What has gone wrong in tokenizers before: characters that grow, shrink, vanish, join or split.
PECULIAR = (
    "aAbzZ09 \t\n\r.,'#[]_-$^`~«。İıẞßΣσςéÅÅﬁŉǅ각가ﾟ力加\uf900\U0002f800\U0002b820が🦙👩‍🚀कि"
    "\u0301\u0323\u0344\u0345\u200d\u00ad\ufeff\ufffd\0\x07\x0b\x0c\x1c\x85\xa0\u2028\u3000\u037e"
    "\u1680\ue000\ud800\udfff\u0378\U0010fffd\U0010ffff"
)
# Spacing marks that canonical ordering could move, and the notes and vowels that decompose into
# one; see the docstring of normalization.py.
MOVABLE_MARKS = "".join(
    chr(i)
    for i in range(sys.maxunicode + 1)
    if any(
        unicodedata.combining(c) and unicodedata.category(c) == "Mc"
        for c in unicodedata.normalize("NFD", chr(i))
    )
)
TEXT = st.text(
    st.one_of(
        st.sampled_from(PECULIAR),
        st.characters(max_codepoint=0x24F),
        st.characters(exclude_categories=(), exclude_characters=MOVABLE_MARKS),
    ),
    max_size=60,
)
PIECES = (
    *"abcdefghijklmnopqrstuvwxyz0123456789.,'[]#_-",
    *("##" + letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789"),
    *"力加豈éσ\u1100कA",
    *("##" + letter for letter in "éσ\u1161\u11a8िAZ"),
    *("play", "##play", "##ing", "re", "mask", "##ab", "abz", "##zz"),
)
VOCABULARY = (*SPECIAL_TOKENS, *PIECES)
OPTIONS = [(True, True), (True, False), (False, False), (False, True)]  # lowercase, strip_accents


def bert_words(text: str, lowercase: bool, strip_accents: bool) -> list[str]:
    """Basic tokenization as the original does it: pass after pass over the whole text."""
    text = regex.sub(r"(?V1)[\p{Cc}\p{Cf}\p{Co}\p{Cs}\uFFFD--[\t\n\r]]", "", text)
    text = regex.sub(r"[\t\n\r\p{Zs}\p{Zl}\p{Zp}]", " ", text)
    text = "".join(f" {c} " if is_chinese(ord(c)) else c for c in text)
    if strip_accents:
        text = regex.sub(r"\p{Mn}", "", unicodedata.normalize("NFD", text))
    if lowercase:
        text = "".join(c.lower() for c in text)
    separated: str = regex.sub(r"[\p{P}$+<=>^`|~]", r" \g<0> ", text)
    return separated.split()


def is_chinese(code_point: int) -> bool:
    """The original's ranges."""
    return any(
        first <= code_point <= last
        for first, last in [
            *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
            *((0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
        ]
    )


def bert_pieces(word: str, vocabulary: tuple[str, ...], longest_word: int = 100) -> list[str]:
    """Greedy longest-match-first, trying every end from the far one down."""
    pieces: list[str] = []
    while word and len(word) <= longest_word:
        prefix = "##" if pieces else ""
        fits = [n for n in range(len(word), 0, -1) if prefix + word[:n] in vocabulary]
        if not fits:
            return ["[UNK]"]
        pieces.append(prefix + word[: fits[0]])
        word = word[fits[0] :]
    return ["[UNK]"] if word else pieces


@pytest.mark.parametrize(("lowercase", "strip_accents"), OPTIONS)
@given(text=TEXT)
@example(text=PECULIAR)
@example(text="a\x0bb\x85c\x1cd" + FALSE_SPACES)
def test_both_paths_do_what_the_original_does(
    lowercase: bool, strip_accents: bool, text: str
) -> None:
    tokenizer = WordPiece(VOCABULARY, lowercase=lowercase, strip_accents=strip_accents)
    words = bert_words(text, lowercase, strip_accents)
    expected = [piece for word in words for piece in bert_pieces(word, VOCABULARY)]
    encoding = tokenizer.encode_with_offsets(text)
    assert encoding.tokens == expected
    assert encoding.ids == [VOCABULARY.index(token) for token in expected]
    assert tokenizer.encode(text) == encoding.ids
    assert tokenizer.encode(text) == encoding.ids, "what is remembered is what was computed"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Replaying", ["re", "##play", "##ing"]),
        ("play, PLAY", ["play", ",", "play"]),
        ("abzzing", ["abz", "##z", "##ing"]),  # greedy: abz, not a ##b ##zz
        ("cab", ["c", "##ab"]),
        ("playé", ["play", "##e"]),
        ("plaŷ plāying", ["play", "play", "##ing"]),
        ("a\u0301\u0301b", ["a", "##b"]),
        ("x\u4e16", ["x", "[UNK]"]),  # Chinese, and not in the vocabulary
        ("力加a", ["力", "加", "a"]),
        ("ab\u200b\u00adz", ["abz"]),  # format characters vanish
        ("ab\0z\ufffd", ["abz"]),
        ("a\tb\r\nc\u3000d\u2028e", ["a", "b", "c", "d", "e"]),
        ("a\x0bb\x85c", ["a", "##b", "##c"]),  # controls, though Python calls them space
        ("don't_#1", ["d", "##o", "##n", "'", "t", "_", "#", "1"]),
        ("[MASK]", ["[", "mask", "]"]),
        ("##ing", ["#", "#", "i", "##n", "##g"]),
        ("played ☃", ["play", "##e", "##d", "[UNK]"]),
        ("ab☃c d", ["[UNK]", "d"]),  # one character unknown, the word is
        ("ΣΘΣ \u03c3", ["[UNK]", "\u03c3"]),
        ("Σ\u03c3", ["\u03c3", "##\u03c3"]),  # medial sigma, wherever it stands
        ("\ud800a\udfff", ["a"]),
        ("", []),
        (" \n\t", []),
    ],
)
def test_cutting_by_hand(text: str, tokens: list[str]) -> None:
    tokenizer = WordPiece(VOCABULARY)
    assert tokenizer.encode_with_offsets(text).tokens == tokens
    assert [tokenizer.vocab[i] for i in tokenizer.encode(text)] == tokens


def test_accents_and_case_can_be_kept() -> None:
    def tokens(text: str, **options: bool) -> list[str]:
        return WordPiece(VOCABULARY, **options).encode_with_offsets(text).tokens

    assert tokens("Éa", lowercase=True) == ["e", "##a"]
    assert tokens("Éa", lowercase=True, strip_accents=False) == ["é", "##a"]
    assert tokens("Aé", lowercase=False) == ["A", "##é"]
    assert tokens("Aé", lowercase=False, strip_accents=True) == ["A", "##e"]


@pytest.mark.parametrize(
    ("text", "offsets"),
    [
        ("Re playing", [(0, 2), (3, 7), (7, 10)]),
        ("  a\u0301b.", [(2, 3), (4, 5), (5, 6)]),  # the accent is nobody's
        ("\u00e9a", [(0, 1), (1, 2)]),
        ("İ1", [(0, 1), (1, 2)]),  # i and a dot above, which is stripped
        ("ab\u200dz", [(0, 4)]),  # dropped inside a piece
        ("\0a\0", [(1, 2)]),  # and outside
        ("각", [(0, 1), (0, 1), (0, 1)]),  # one syllable, three letters
        ("a☃b 力", [(0, 3), (4, 5)]),  # an unknown word is one place
        ("b" * 101 + " a", [(0, 101), (102, 103)]),
    ],
)
def test_offsets_by_hand(text: str, offsets: list[tuple[int, int]]) -> None:
    assert WordPiece(VOCABULARY).encode_with_offsets(text).offsets == offsets


def test_an_expanding_capital_keeps_its_place() -> None:
    table = CharacterTable(lowercase=True, strip_accents=False)
    assert table.normalize_with_sources("aİb") == [("a", 0), ("i", 1), ("\u0307", 1), ("b", 2)]


@given(text=TEXT)
@example(text=PECULIAR)
def test_offsets_point_at_what_the_pieces_are_made_of(text: str) -> None:
    tokenizer = WordPiece(VOCABULARY)
    _, tokens, offsets = tokenizer.encode_with_offsets(text)
    assert all(0 <= start < end <= len(text) for start, end in offsets)
    for (start, end), (next_start, next_end) in pairwise(offsets):
        assert start <= next_start
        assert end <= next_end
        assert end <= next_start or end - 1 == next_start == start, "only one character is shared"
    for token, (start, end) in zip(tokens, offsets, strict=True):
        here = "".join(bert_words(text[start:end], True, True))
        letters = token.removeprefix("##") if token != "##" else token
        assert token == "[UNK]" or letters == here or (end == start + 1 and letters in here)


@given(text=TEXT)
@example(text=PECULIAR)
def test_every_kept_character_is_in_a_piece(text: str) -> None:
    _, tokens, offsets = WordPiece(VOCABULARY).encode_with_offsets(text)
    covered = "".join(
        "".join(bert_words(text[start:end], True, True))
        if token == "[UNK]"
        else token[2:]
        if token.startswith("##")
        else token
        for token, (start, end) in zip(tokens, offsets, strict=True)
    )
    assert covered == "".join(bert_words(text, True, True))


@pytest.mark.parametrize(("lowercase", "strip_accents"), OPTIONS)
@given(text=TEXT)
@example(text=PECULIAR)
def test_normalizing_twice_is_normalizing_once(
    lowercase: bool, strip_accents: bool, text: str
) -> None:
    table = CharacterTable(lowercase=lowercase, strip_accents=strip_accents)
    words = table.normalize(text).split()
    assert table.normalize(" ".join(words)).split() == words


@given(lines=st.lists(TEXT, max_size=5))
def test_lines_are_encoded_as_each_alone(lines: list[str]) -> None:
    tokenizer = WordPiece(VOCABULARY)
    ids, lengths = tokenizer.encode_lines(iter(lines))
    assert ids.dtype == np.int32
    assert lengths.dtype == np.int64
    alone = [tokenizer.encode(line) for line in lines]
    assert lengths.tolist() == [len(line) for line in alone]
    assert ids.tolist() == [i for line in alone for i in line]


def test_a_movable_mark_is_not_moved() -> None:
    text = "\u302e\u1b44"  # combining classes 224 and 9: NFD would swap them
    assert unicodedata.normalize("NFD", text) != text
    assert CharacterTable(lowercase=True, strip_accents=True).normalize(text) == text


def test_words_over_the_limit_are_unknown() -> None:
    assert WordPiece(VOCABULARY).encode("a" * 100) == [
        VOCABULARY.index("a"),
        *[VOCABULARY.index("##a")] * 99,
    ]
    assert WordPiece(VOCABULARY).encode("a" * 101) == [1]
    assert len(WordPiece(VOCABULARY, max_characters=200).encode("a" * 200)) == 200
    assert WordPiece(VOCABULARY).encode("a\u0301" * 100) == WordPiece(VOCABULARY).encode("a" * 100)


@pytest.mark.slow
def test_python_and_bert_agree_on_space_but_for_the_listed_characters() -> None:
    table = CharacterTable(lowercase=False, strip_accents=False)
    characters = [chr(i) for i in range(sys.maxunicode + 1)]
    spaces = {c for c in characters if c.isspace()}
    assert {c for c in characters if table.normalize(c) == " "} == spaces - set(FALSE_SPACES)
    assert all(table.normalize(c) == "" for c in FALSE_SPACES)
    assert split_on_spaces(FALSE_SPACES.join("ab") + " c") == ["ab", "c"]


@pytest.mark.parametrize(
    "step", [101, pytest.param(1, marks=pytest.mark.slow)], ids=["a sample", "all of them"]
)
@pytest.mark.parametrize(("lowercase", "strip_accents"), OPTIONS)
def test_every_code_point(step: int, lowercase: bool, strip_accents: bool) -> None:
    """Alone and in a word: both paths agree with the passes of the original; nothing raises."""
    table = CharacterTable(lowercase=lowercase, strip_accents=strip_accents)
    tokenizer = WordPiece(VOCABULARY, lowercase=lowercase, strip_accents=strip_accents)
    code_points = range(0, sys.maxunicode + 1, step)
    for start in range(0, len(code_points), 256):
        block = map(chr, code_points[start : start + 256])
        text = " ".join(f"{character} a{character}b" for character in block)
        assert table.normalize(text).split() == bert_words(text, lowercase, strip_accents)
        assert tokenizer.encode(text) == tokenizer.encode_with_offsets(text).ids


def test_memory_for_what_was_seen_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordpiece, "REMEMBERED_TEXTS", 10)
    tokenizer = WordPiece(VOCABULARY)
    fresh = WordPiece(VOCABULARY)
    texts = [f"a{i % 25}b {'z' * i}" for i in range(200)]
    for text in texts:
        assert tokenizer.encode(text) == fresh.encode_with_offsets(text).ids
        for remembered in (tokenizer._chunks, tokenizer._words):
            assert len(remembered) <= 10
            assert all(len(key) <= wordpiece.REMEMBERED_CHARACTERS for key in remembered)


class CountingPieces(dict[str, int]):
    """A dictionary that counts the characters of what it is asked for."""

    characters = 0

    def get(self, key: str, default: int | None = None) -> int | None:  # type: ignore[override]
        self.characters += len(key)
        return super().get(key, default)


ADVERSARIAL: dict[str, Callable[[int], str]] = {
    "one letter": lambda n: "a" * n,
    "words at the limit": lambda n: ("a" * 99 + "☃ ") * (n // 101),
    "marks": lambda n: "a" + "\u0301\u0316" * (n // 2),
    "movable marks": lambda n: "a" + "\u302e\u1b44" * (n // 2),
    "Chinese": lambda n: "力加" * (n // 2),
    "brackets": lambda n: "[" * n,
    "spaces": lambda n: " " * n,
    "false spaces": lambda n: FALSE_SPACES * (n // len(FALSE_SPACES)),
    "alternating": lambda n: "a." * (n // 2),
    "distinct words": lambda n: " ".join(f"w{i:04}" for i in range(n // 6)),
    "surrogates": lambda n: "\ud800" * n,
    "dropped": lambda n: "\u200d\0" * (n // 2),
}


@pytest.mark.parametrize("family", ADVERSARIAL)
def test_look_ups_grow_no_faster_than_the_text(family: str) -> None:
    """Counted exactly: at most longest + ... + 1 characters looked up for each one of the text."""
    counts = []
    for n in (4_000, 8_000):
        tokenizer = WordPiece(VOCABULARY)
        tokenizer._first = CountingPieces(tokenizer._first)
        tokenizer._inner = CountingPieces(tokenizer._inner)
        tokenizer.encode_with_offsets(ADVERSARIAL[family](n))
        counts.append(tokenizer._first.characters + tokenizer._inner.characters)
    longest = max(map(len, VOCABULARY))
    assert counts[1] <= 8_000 * longest * (longest + 1) // 2
    assert counts[1] <= 2.1 * counts[0] + 1_000


@pytest.mark.slow
@pytest.mark.parametrize("family", ADVERSARIAL)
@pytest.mark.parametrize("method", ["encode", "encode_with_offsets"])
def test_time_grows_no_faster_than_the_text(family: str, method: str) -> None:
    """16 times the text: linear time takes 16 times as long, quadratic time 256 times.

    The clock counts this process only, so that a busy machine changes little.
    """

    def fastest_of_three(n: int) -> float:
        text = ADVERSARIAL[family](n)
        seconds = []
        for _ in range(3):
            encode = getattr(WordPiece(VOCABULARY), method)
            start = time.process_time()
            encode(text)
            seconds.append(time.process_time() - start)
        return min(seconds)

    assert fastest_of_three(64_000) < 80 * fastest_of_three(4_000) + 0.02


def test_special_tokens_are_found_wherever_they_stand() -> None:
    vocabulary = ["a", "[MASK]", "[SEP]", "b", "[CLS]", "[UNK]", "[PAD]"]
    tokenizer = WordPiece(vocabulary)
    assert tokenizer.special_tokens == SpecialTokens(pad=6, unknown=5, cls=4, sep=2, mask=1)
    assert tokenizer.vocab == tuple(vocabulary)
    assert tokenizer.encode("a☃ b") == [5, 3]


@pytest.mark.parametrize("missing", SPECIAL_TOKENS)
def test_a_missing_special_token_is_named(missing: str) -> None:
    with pytest.raises(UserError, match=regex.escape(missing)):
        WordPiece([token for token in VOCABULARY if token != missing])


def test_a_token_that_stands_twice_is_named() -> None:
    with pytest.raises(UserError, match=r"'play' twice, as ids 7 and 9"):
        WordPiece([*SPECIAL_TOKENS, "a", "b", "play", "c", "play"])
