"""[UNK] are counted exactly, and their causes on a sample that costs little."""

from __future__ import annotations

import json
from typing import Any

import pytest

from electra_ref.batch import SPECIAL_TOKENS
from electra_ref.text import unknown_words
from electra_ref.text.unknown_words import UnknownWords, joined_facts
from electra_ref.text.wordpiece import WordPiece

VOCABULARY = [*SPECIAL_TOKENS, "a", "b", "##b", "the", "ab", "["]


def facts(*documents: list[str], lowercase: bool = True) -> dict[str, Any]:
    tokenizer = WordPiece(VOCABULARY, lowercase=lowercase)
    unknown = UnknownWords(tokenizer)
    for document in documents:
        unknown.count(document, tokenizer.encode_lines(document))
    return joined_facts([unknown.facts()])


def test_unknown_words_of_a_text() -> None:
    tokenizer = WordPiece(VOCABULARY)
    assert tokenizer.unknown_words("The abb\x0c zebra, aa [UNK] ab\u200bb") == [
        *("zebra", ",", "aa", "unk", "]")
    ]
    assert tokenizer.unknown_words("") == []


def test_known_text_has_none() -> None:
    assert facts(["the ab", "abb"], ["a"]) == {
        "unknown_tokens": 0,
        "unknown_examined": 0,
        "unknown_too_long": 0,
        "unknown_characters": 0,
        "missing_characters": [],
    }


def test_each_cause_is_counted() -> None:
    """``aa`` has no piece ##a, ``the`` would have one, and [UNK] is no piece."""
    found = facts(["the aa", "ab", "x" * 101 + " axx azz axy"], [], ["the", "the " + "b" * 101])
    assert found == {
        "unknown_tokens": 6,
        "unknown_examined": 6,
        "unknown_too_long": 2,
        "unknown_characters": 3,
        "missing_characters": ["x", "y", "z"],  # x in two words
    }


def test_special_tokens_are_no_alphabet() -> None:
    assert facts(["U N K"], lowercase=False)["unknown_characters"] == 3


def test_the_most_frequent_characters_are_named() -> None:
    found = facts(["q w y u i o q w y u i q w y u q w y q w q"])
    assert found["missing_characters"] == ["q", "w", "y", "u", "i"]


def test_the_parts_of_a_corpus_are_joined() -> None:
    """A character that is rare in each part may be common in all."""
    texts = (["xx", "aa yy yy zz"], ["zz yy", "x" * 101])
    parts = []
    for lines in texts:
        unknown = UnknownWords(tokenizer := WordPiece(VOCABULARY))
        unknown.count(lines, tokenizer.encode_lines(lines))
        parts.append(json.loads(json.dumps(unknown.facts())))
    assert joined_facts(parts) == facts(*texts)
    assert joined_facts(parts)["missing_characters"] == ["y", "z", "x"]


def test_a_sample_is_examined_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is examined follows the corpus: here its second half has another cause."""
    monkeypatch.setattr(unknown_words, "FIRST_EXAMINED", 10)
    monkeypatch.setattr(unknown_words, "TOKENS_AT_A_TIME", 100)
    first, second = ["zz"] * 5000, ["x" * 101] * 5000
    found = facts(*([line] for line in first + second))
    assert found["unknown_tokens"] == 10_000
    assert found["unknown_examined"] == 10 + 10_000 // 100
    assert found["unknown_too_long"] == 50


def test_limits_are_those_of_the_documentation() -> None:
    assert (unknown_words.FIRST_EXAMINED, unknown_words.TOKENS_PER_EXAMINED) == (1000, 100)
