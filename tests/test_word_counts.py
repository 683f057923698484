"""Counting words in bounded memory: exact below the limits, an even sample above them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.text import word_counts
from electra_ref.text.vocabulary import train_vocabulary
from electra_ref.text.word_counts import (
    WordCounts,
    character_keys,
    count_characters,
    count_words,
    forget_rarest,
    frequent_characters,
    key_piece,
)
from electra_ref.text.wordpiece import WordPiece
from tests.test_vocabulary import draw_text


def limit(monkeypatch: pytest.MonkeyPatch, *, words: int, characters: int = 1 << 24) -> None:
    monkeypatch.setattr(word_counts, "DISTINCT_WORDS", words)
    monkeypatch.setattr(word_counts, "DISTINCT_CHARACTERS", characters)
    monkeypatch.setattr(word_counts, "CHARACTERS_BETWEEN_FOLDS", 50)


def numbers_in_hexadecimal(count: int) -> list[str]:
    """Distinct words, in an order that tells nothing."""
    drawn = np.random.default_rng(0).choice(16**6, count, replace=False)
    return [f"{number:06x}" for number in drawn]


def test_words_too_long_to_encode_are_not_counted() -> None:
    counts = count_words(["a" * 100, "b" * 101, "c"], lowercase=True, strip_accents=True)
    assert counts == ({"a" * 100: 1, "c": 1}, {})


def test_counts_are_the_same_however_often_they_are_folded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = [draw_text(30, 4, seed) for seed in range(20)]
    whole = count_words(texts, lowercase=True, strip_accents=True)
    monkeypatch.setattr(word_counts, "CHARACTERS_BETWEEN_FOLDS", 100)
    assert count_words(iter(texts), lowercase=True, strip_accents=True) == whole
    assert whole == (Counter(" ".join(texts).split()), {})


@given(st.lists(st.text("ab\u00e9\U0001f600", min_size=1, max_size=5), unique=True))
def test_characters_are_counted_as_pieces(words: list[str]) -> None:
    counts = {word: 1 + 3 * i for i, word in enumerate(words)}
    expected: Counter[str] = Counter()
    for word, count in counts.items():
        for piece in [word[0], *("##" + character for character in word[1:])]:
            expected[piece] += count
    assert count_characters(counts) == expected
    keys, lengths = character_keys(words)
    assert lengths.tolist() == [len(word) for word in words]
    pieces = [key_piece(key) for key in keys.tolist()]
    assert "".join(pieces).replace("##", "") == "".join(words)


def test_memory_for_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, words=100)
    texts = [f"common rare{i} often{i % 7}" for i in range(500)]
    most = 0

    def look(counts: WordCounts, on_work: Callable[[], None]) -> None:
        nonlocal most
        most = max(most, len(counts.words))
        forget_rarest(counts, on_work)

    monkeypatch.setattr(word_counts, "forget_rarest", look)
    words = count_words(texts, lowercase=True, strip_accents=True).words
    assert most < 110, "words are forgotten while the text is read"
    assert len(words) == 50
    assert words["common"] == 500
    assert all(words[f"often{i}"] in (71, 72) for i in range(7))
    assert sum(word.startswith("rare") for word in words) == 50 - 8
    limit(monkeypatch, words=10_000, characters=600)
    words = count_words(texts, lowercase=True, strip_accents=True).words
    assert words["common"] == 500
    assert 290 < sum(map(len, words)) <= 300


def test_nothing_is_forgotten_up_to_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    words = numbers_in_hexadecimal(20)
    for most_words, most_characters in ((20, 1000), (1000, 120)):
        limit(monkeypatch, words=most_words, characters=most_characters)
        assert count_words(words, lowercase=True, strip_accents=True) == (Counter(words), {})
    for most_words, most_characters in ((19, 1000), (1000, 119)):
        limit(monkeypatch, words=most_words, characters=most_characters)
        assert len(count_words(words, lowercase=True, strip_accents=True).words) == 9


def test_the_rarest_words_are_forgotten_until_half_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def left(most: int, characters: int = 1000, **words: int) -> dict[str, int]:
        limit(monkeypatch, words=most, characters=characters)
        counts = WordCounts(Counter(words), Counter())
        forget_rarest(counts, lambda: None)
        assert count_characters(counts.words) + counts.forgotten == count_characters(words)
        return counts.words

    words = {"a": 5, "b": 5, "c": 1, "d": 1, "e": 3, "f": 2, "g": 2}
    assert left(6, **words) == {"a": 5, "b": 5, "e": 3}
    assert left(14, **words) == words
    assert left(1000, 6, **words) == {"a": 5, "b": 5, "e": 3}
    five = left(10, **words)
    assert len(five) == 5
    assert five.items() >= {"a": 5, "b": 5, "e": 3, "f": 2, "g": 2}.items()
    assert len(left(8, **words)) == 4, "of f and g, the hash decides"
    assert len(left(3, **dict.fromkeys("abcdef", 1))) == 1
    assert left(1000, 10, abc=1, defgh=1, ij=2).keys() in ({"ij", "abc"}, {"ij"})


def test_of_words_with_equal_counts_an_even_sample_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, words=400)
    words = numbers_in_hexadecimal(2000)
    kept = count_words(words, lowercase=True, strip_accents=True).words
    assert len(kept) == 200
    halves = [sum(word in kept for word in half) for half in (words[:1000], words[1000:])]
    assert 70 < halves[0] < 130, halves
    assert count_words(words[::-1], lowercase=True, strip_accents=True).words == kept, (
        "whatever their order"
    )


def test_characters_of_forgotten_words_stay_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, words=20)
    words = numbers_in_hexadecimal(300)
    counts = count_words(words, lowercase=True, strip_accents=True)
    assert len(counts.words) == 10
    assert count_characters(counts.words) + counts.forgotten == count_characters(Counter(words))


def test_frequent_characters_are_those_of_all_text() -> None:
    counts = WordCounts(Counter({"ab": 20_000, "xy": 1}), Counter({"y": 10_000, "##z": 1}))
    assert frequent_characters(counts) == {"a", "b", "y"}


def test_text_of_distinct_words_gives_a_vocabulary_that_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit(monkeypatch, words=60)
    sentence = "the quick brown fox jumps over a lazy dog"
    texts = [*[sentence] * 50, *numbers_in_hexadecimal(3000)]
    for some in (texts, texts[50:]):
        tokenizer = WordPiece(train_vocabulary(some, 300))
        assert not any(1 in tokenizer.encode(text) for text in some)


def test_characters_of_forgotten_words_have_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, words=4)
    trained = train_vocabulary(numbers_in_hexadecimal(3000), 100)
    digits = set("0123456789abcdef")
    assert {*digits, *("##" + digit for digit in digits)} <= set(trained)


def test_a_stop_is_heard_while_words_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, words=20)
    monkeypatch.setattr(word_counts, "_WORDS_AT_A_TIME", 10)
    called: list[None] = []
    count_words(
        [" ".join(numbers_in_hexadecimal(300))],
        lowercase=True,
        strip_accents=True,
        on_work=lambda: called.append(None),
    )
    assert len(called) >= 300 / 10


def test_limits_are_those_of_the_documentation() -> None:
    assert word_counts.DISTINCT_WORDS == 1_000_000
    assert word_counts.DISTINCT_CHARACTERS == 2**24
    assert word_counts.CHARACTER_COVERAGE == 0.9999
