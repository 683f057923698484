"""Vocabulary training against a program that counts again for each merge; vocabulary files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.batch import SPECIAL_TOKENS
from electra_ref.errors import UserError
from electra_ref.text import fast_merging, vocabulary
from electra_ref.text.fast_merging import find_merges
from electra_ref.text.merging import PairCounts
from electra_ref.text.vocabulary import load_vocabulary, save_vocabulary, train_vocabulary
from electra_ref.text.word_counts import WordCounts, frequent_characters
from electra_ref.text.wordpiece import WordPiece

SEEDS = st.integers(0, 2**32 - 1)  # hypothesis draws structure, the generator draws numbers


def draw_text(words: int, letters: int, seed: int) -> str:
    """Words of one to seven letters, the first letters of the alphabet the most frequent."""
    rng = np.random.default_rng(seed)
    alphabet = "abcdefghijklmnopqrstuvwxyz"[:letters]
    weights = 1 / np.arange(1, letters + 1)
    return " ".join(
        "".join(rng.choice(list(alphabet), rng.integers(1, 8), p=weights / weights.sum()))
        for _ in range(words)
    )


def merges_counted_anew(text: str, count: int) -> list[str]:
    """The definition: count all pairs, join the most frequent (the first by text), repeat."""
    words = [[word[0], *("##" + c for c in word[1:])] for word in text.split()]
    known = {piece for word in words for piece in word}
    found: list[str] = []
    while len(found) < count:
        pairs = Counter(pair for word in words for pair in pairwise(word))
        if not pairs or max(pairs.values()) < 2:
            break
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merged = left + right[2:]
        for word in words:
            i = 0
            while i + 1 < len(word):
                if word[i] == left and word[i + 1] == right:
                    word[i : i + 2] = [merged]
                i += 1
        if merged not in known:
            known.add(merged)
            found.append(merged)
    return found


@given(words=st.integers(1, 80), letters=st.integers(1, 5), seed=SEEDS)
def test_merges_are_those_of_the_definition(words: int, letters: int, seed: int) -> None:
    text = draw_text(words, letters, seed)
    trained = train_vocabulary([text], 60)
    characters = sorted(
        {word[0] for word in text.split()} | {"##" + c for word in text.split() for c in word[1:]},
        key=lambda piece: (piece.startswith("##"), piece),
    )
    room = 60 - len(SPECIAL_TOKENS) - len(characters)
    assert trained == [*SPECIAL_TOKENS, *characters, *merges_counted_anew(text, room)]


def test_merges_by_hand() -> None:
    # Pairs: a ##b 5, ##b ##c 4, x ##y 2, x ##z 1. First ab; then ab ##c 4 = abc; then xy.
    trained = train_vocabulary(["abc abc ab", "Abc ABC. xy xy xz"], 100)
    assert trained == [
        *SPECIAL_TOKENS,
        *(".", "a", "x", "##b", "##c", "##y", "##z"),
        *("ab", "abc", "xy"),
    ]


def test_a_run_of_one_letter_is_joined_from_the_left() -> None:
    pairs = PairCounts({"aaaaa": 1})
    assert pairs.pop_most_frequent() == (("##a", "##a"), 3)
    assert pairs.merge(("##a", "##a")) == "##aa"
    assert pairs.words == [["a", "##aa", "##aa"]]
    assert pairs.pop_most_frequent() == (("##aa", "##aa"), 1)


def test_a_pair_that_is_gone_is_not_found_again() -> None:
    pairs = PairCounts({"abc": 1})
    for expected, merged in [(("##b", "##c"), "##bc"), (("a", "##bc"), "abc")]:
        assert pairs.pop_most_frequent() == (expected, 1)
        assert pairs.merge(expected) == merged
    assert pairs.pop_most_frequent() is None


@given(seed=SEEDS, parts=st.integers(1, 9))
def test_only_the_words_matter_not_their_order(seed: int, parts: int) -> None:
    words = draw_text(120, 6, seed).split()
    shuffled = list(np.random.default_rng(seed).permutation(words))
    texts = [" ".join(shuffled[i::parts]) for i in range(parts)]
    assert train_vocabulary(texts, 70) == train_vocabulary([" ".join(words)], 70)


@given(words=st.integers(1, 200), letters=st.integers(1, 26), seed=SEEDS)
def test_what_was_trained_on_is_never_unknown(words: int, letters: int, seed: int) -> None:
    text = draw_text(words, letters, seed)
    trained = train_vocabulary([text], 90)
    assert len(trained) <= 90
    assert len(set(trained)) == len(trained)
    ids, tokens, _ = WordPiece(trained).encode_with_offsets(text)
    assert 1 not in ids
    assert "".join(tokens).replace("##", "") == text.replace(" ", "")


@pytest.mark.parametrize("lowercase", [True, False])
def test_text_is_cleaned_as_it_will_be_when_it_is_encoded(lowercase: bool) -> None:
    trained = train_vocabulary(["Élan, élan\u200b 力加"], 100, lowercase=lowercase)
    assert ("E" in trained) is False
    assert ("é" in trained) is not lowercase
    assert ("É" in trained) is not lowercase
    assert {"力", "加", ","} <= set(trained)
    assert not {"##力", "##加", "##,"} & set(trained)


def test_characters_too_rare_get_no_piece() -> None:
    def frequent(**words: int) -> set[str]:
        return frequent_characters(WordCounts(Counter(words), Counter()))

    assert frequent(ab=20_000, c=10_000, z=5) == {"a", "b", "c"}  # 5 of 50,005
    assert frequent(ab=20_000, c=10_000, z=6) == {"a", "b", "c", "z"}  # 6 of 50,006
    assert frequent(q=1) == {"q"}
    trained = train_vocabulary(["ab " * 20_000 + "abz azb"], 100)
    assert trained == [*SPECIAL_TOKENS, "a", "##b", "ab"]


def test_a_small_corpus_gives_a_small_vocabulary() -> None:
    assert train_vocabulary(["ab ab"], 30_522) == [*SPECIAL_TOKENS, "a", "##b", "ab"]


def test_a_size_below_the_alphabet_is_refused() -> None:
    assert train_vocabulary(["abc"], 8) == [*SPECIAL_TOKENS, "a", "##b", "##c"]
    with pytest.raises(UserError, match=r"7 tokens is too small.* alone are 8;"):
        train_vocabulary(["abc"], 7)


def test_a_size_that_may_grow_leaves_half_of_itself_for_merges() -> None:
    chinese = "".join(chr(0x4E00 + i) for i in range(30))
    text = f"{chinese} abcd abcd abcd"
    alphabet = len(SPECIAL_TOKENS) + 34
    trained = train_vocabulary([text], 4, may_grow=True)
    assert trained[:5] == list(SPECIAL_TOKENS)
    assert trained[alphabet:] == ["##bc", "##bcd"]
    assert len(train_vocabulary([text], 40, may_grow=True)) == alphabet + 3
    assert train_vocabulary([text], 78, may_grow=True) == train_vocabulary([text], 78)


def test_large_texts_are_merged_by_the_compiled_program(monkeypatch: pytest.MonkeyPatch) -> None:
    assert vocabulary.COMPILED_FROM == 2**18
    texts = ["abcabc abd bcd"] * 3
    characters = len("abcabcabdbcd")
    plain = train_vocabulary(texts, 50)
    used: list[int] = []

    def find(words: dict[str, int], *rest: Any) -> Iterator[str]:
        used.append(len(words))
        return find_merges(words, *rest)

    monkeypatch.setattr(fast_merging, "find_merges", find)
    for least, uses in ((characters + 1, []), (characters, [3])):
        monkeypatch.setattr(vocabulary, "COMPILED_FROM", least)
        assert train_vocabulary(texts, 50) == plain
        assert used == uses


def test_a_stop_is_heard_while_merging() -> None:
    told: list[tuple[int, int]] = []

    def stop(done: int, wanted: int) -> None:
        told.append((done, wanted))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_vocabulary(["abcdefg abcdefg"], 15, on_merges=stop)
    assert set(told) == {(0, 3), (1, 3), (2, 3)}


@pytest.mark.parametrize("texts", [[], [""], [" \n", "\u200b\0"]])
def test_a_corpus_without_words_is_refused(texts: list[str]) -> None:
    with pytest.raises(UserError, match="no words"):
        train_vocabulary(texts, 100)


TOKENS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda token: "\n" not in token and not token.endswith("\r") and token not in SPECIAL_TOKENS
)


@given(tokens=st.lists(TOKENS, unique=True, max_size=20))
def test_a_saved_vocabulary_is_read_back(
    tokens: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    save_vocabulary(path, [*tokens, *SPECIAL_TOKENS])
    assert load_vocabulary(path) == [*tokens, *SPECIAL_TOKENS]


def test_windows_line_ends_and_a_missing_last_one_are_read(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes("\r\n".join([*SPECIAL_TOKENS, "a\u2028"]).encode())
    assert load_vocabulary(str(path)) == [*SPECIAL_TOKENS, "a\u2028"]


def test_a_byte_order_mark_is_no_part_of_a_special_token(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*SPECIAL_TOKENS, "a"]), encoding="utf-8-sig")
    assert load_vocabulary(path) == [*SPECIAL_TOKENS, "a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"[PAD]\n\nab\n", "an empty line 2"),
        (b"[PAD]\nab\n\xff\xfe\n", "not UTF-8 text .byte 9."),
        ("\n".join([*SPECIAL_TOKENS, "ab", "c", "ab"]).encode(), "'ab' twice, as ids 5 and 7"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n", r"lacks the special token \[MASK\]"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_vocabulary(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        load_vocabulary(tmp_path / "vocab.txt")
    with pytest.raises(UserError, match="Is a directory"):
        load_vocabulary(tmp_path)


@pytest.mark.parametrize("token", ["", "a\nb", "a\r"])
def test_what_cannot_be_read_back_is_not_written(tmp_path: Path, token: str) -> None:
    path = tmp_path / "vocab.txt"
    save_vocabulary(path, SPECIAL_TOKENS)
    with pytest.raises(ValueError, match="cannot hold the token"):
        save_vocabulary(path, [*SPECIAL_TOKENS, token])
    assert load_vocabulary(path) == list(SPECIAL_TOKENS)
    with pytest.raises(UserError, match="cannot write"):
        save_vocabulary(tmp_path / "nowhere" / "vocab.txt", SPECIAL_TOKENS)
    assert [file.name for file in tmp_path.iterdir()] == ["vocab.txt"]
