"""From texts to rows: special tokens, segments, and what is cut of a pair."""

from __future__ import annotations

import pytest

from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.finetuning.rows import kept_of_pair, row_of, text_row
from electra_ref.training.finetuning.tally import Tally
from tests.tiny_electra import SPECIAL_TOKENS

VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c")
TOKENIZER = WordPiece(VOCABULARY)
A, B, C = 5, 6, 7
CLS, SEP = 2, 3


def popped(first: list[int], second: list[int], room: int) -> tuple[int, int]:
    """Leave out one token after the other, as the original does."""
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()
    return len(first), len(second)


@pytest.mark.parametrize("first", range(7))
@pytest.mark.parametrize("second", range(7))
def test_as_many_tokens_remain_as_if_one_was_left_out_after_the_other(
    first: int, second: int
) -> None:
    for room in range(14):
        expected = popped([0] * first, [0] * second, room)
        assert kept_of_pair(first, second, room) == expected


def test_rows_of_one_text_and_of_two() -> None:
    row = row_of(SPECIAL_TOKENS, [A, B])
    assert row.ids.tolist() == [CLS, A, B, SEP]
    assert row.segments.tolist() == [0, 0, 0, 0]
    pair = row_of(SPECIAL_TOKENS, [A], [B, C])
    assert pair.ids.tolist() == [CLS, A, SEP, B, C, SEP]
    assert pair.segments.tolist() == [0, 0, 0, 1, 1, 1]


def ids_of(text: str, pair: str | None, length: int, tally: Tally) -> list[int]:
    row = text_row(TOKENIZER, text, pair, length, "f.tsv, line 2", tally)
    assert row.ids.dtype == row.segments.dtype == "int32"
    ids: list[int] = row.ids.tolist()
    return ids


def test_a_text_that_fits_is_whole_and_nothing_is_counted() -> None:
    tally = Tally()
    assert ids_of("a b", None, 4, tally) == [CLS, A, B, SEP]
    assert ids_of("a b", "c", 6, tally) == [CLS, A, B, SEP, C, SEP]
    assert tally.counts() == {}


def test_a_text_that_is_too_long_keeps_its_beginning_and_is_counted() -> None:
    tally = Tally()
    assert ids_of("a b c", None, 4, tally) == [CLS, A, B, SEP]
    assert ids_of("a b c", "b b c", 7, tally) == [CLS, A, B, SEP, B, B, SEP]
    assert ids_of("a b c", "b b c", 6, tally) == [CLS, A, B, SEP, B, SEP]
    assert list(tally.lines()) == [
        "1 row cut to 4 tokens (the first: f.tsv, line 2)",
        "1 row cut to 7 tokens (the first: f.tsv, line 2)",
        "1 row cut to 6 tokens (the first: f.tsv, line 2)",
    ]


def test_pieces_that_are_unknown_are_counted() -> None:
    """They are counted before a text is cut; above 1 % they are a warning."""
    tally = Tally()
    ids_of("a " * 196 + "b b b", None, 201, tally)
    assert list(tally.lines()) == []
    ids_of("a", "Über a", 200, tally)
    line = "(the first: 'uber', f.tsv, line 2)"
    assert list(tally.lines()) == [f"1 of 202 pieces in all rows (0.5 %) are [UNK] {line}"]
    ids_of("a b c", "c " + "d" * 99, 5, tally)
    assert tally.unknown == 2
    assert list(tally.lines())[-1] == f"2 of 207 pieces in all rows (1.0 %) are [UNK] {line}"
    ids_of("d", None, 5, tally)
    assert list(tally.lines())[-1] == (
        f"warning: 3 of 208 pieces in all rows (1.4 %) are [UNK] {line}: the model cannot tell "
        "these words apart; choose a model whose vocabulary was made from such text"
    )


def test_of_a_long_word_that_is_unknown_the_beginning_is_shown() -> None:
    tally = Tally()
    ids_of("d" * 99, None, 5, tally)
    assert f"(the first: {'d' * 40!r}, f.tsv, line 2)" in next(tally.lines())


def test_what_has_no_place_is_counted_without_one() -> None:
    tally = Tally()
    tally.note("a note")
    tally.add("rows")
    tally.note("a note")
    tally.add("rows", "later")
    assert list(tally.lines()) == ["a note", "2 rows"]


@pytest.mark.parametrize("blank", ["", " \t ", "\x00\x01\u200b\ufffd"])
def test_a_text_without_a_word_is_a_row_of_special_tokens(blank: str) -> None:
    tally = Tally()
    assert ids_of(blank, None, 8, tally) == [CLS, SEP]
    assert ids_of(blank, blank, 8, tally) == [CLS, SEP]
    assert tally.counts() == {"rows without a single word": 2}
    assert ids_of("a", blank, 8, tally) == [CLS, A, SEP]
    assert ids_of(blank, "a", 8, tally) == [CLS, SEP, A, SEP]
    assert tally.counts() == {"rows without a single word": 2}
