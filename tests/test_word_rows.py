"""From words to rows: first pieces, windows, the predicate, words without pieces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.finetuning.formats.sentences import sentence_of
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.word_rows import WordRow, word_rows

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "##c", "d", "e"]
TOKENIZER = WordPiece(VOCABULARY)


def rows(words: str, longest: int = 8, predicate: int | None = None) -> tuple[list[WordRow], Tally]:
    tally = Tally()
    sentence = sentence_of("here", words.split(" "), None, predicate)
    return list(word_rows(sentence, TOKENIZER, longest, tally)), tally


def tokens(row: WordRow) -> str:
    return " ".join(VOCABULARY[i] for i in row.row.ids)


def test_a_word_stands_where_its_first_piece_does() -> None:
    (row,), tally = rows("abc d Ab")
    assert tokens(row) == "[CLS] a ##b ##c d a ##b [SEP]"
    assert row.words.tolist() == [0, 1, 2]
    assert row.positions.tolist() == [1, 4, 5]
    assert row.row.segments.tolist() == [0] * 8
    assert tally.counts() == {}


def test_all_pieces_of_the_predicate_have_segment_1() -> None:
    (row,), _ = rows("abc d ab", predicate=0)
    assert row.row.segments.tolist() == [0, 1, 1, 1, 0, 0, 0, 0]
    assert row.row.ids.dtype == row.row.segments.dtype == np.int32


def test_a_word_of_no_piece_is_unknown_and_counted() -> None:
    (row,), tally = rows("a \x07 d x")
    assert tokens(row) == "[CLS] a [UNK] d [UNK] [SEP]"
    assert row.words.tolist() == [0, 1, 2, 3]
    assert tally.counts() == {"words without a piece, read as [UNK]": 1}
    assert next(tally.lines()) == "1 word without a piece, read as [UNK] (the first: here)"
    assert tally.unknown == 1


def test_a_sentence_without_words_has_no_row() -> None:
    assert list(word_rows(sentence_of("here", [], None), TOKENIZER, 8, Tally())) == []


def test_a_row_that_just_fits_is_whole() -> None:
    found, tally = rows("a a a a a a")
    assert len(found) == 1
    assert tally.counts() == {}


def test_a_longer_one_has_windows_and_each_word_its_place_where_most_is_around_it() -> None:
    found, tally = rows("a d e d a e a d", longest=8)
    assert [tokens(row) for row in found] == [
        "[CLS] a d e d a e [SEP]",
        "[CLS] e d a e a d [SEP]",
    ]
    assert [row.words.tolist() for row in found] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [row.positions.tolist() for row in found] == [[1, 2, 3, 4], [3, 4, 5, 6]]
    assert tally.counts() == {"sentences longer than 8 tokens, read in windows": 1}


def test_windows_that_do_not_show_the_predicate_are_counted() -> None:
    found, tally = rows("a d e d a e a d", predicate=0)
    assert [row.row.segments.any() for row in found] == [True, False]
    assert tally.counts()["windows without their predicate"] == 1
    _, tally = rows("a d e d a e a d", predicate=3)
    assert "windows without their predicate" not in tally.counts()


@given(
    st.lists(st.sampled_from(["a", "abcbcbc", "d", "\x07", "ab", "x"]), min_size=1, max_size=40),
    st.integers(5, 12),
)
@pytest.mark.filterwarnings("error")
def test_every_word_has_one_place_at_its_first_piece(words: list[str], longest: int) -> None:
    """Words longer than a window, too."""
    found, _ = rows(" ".join(words), longest)
    assert sorted(np.concatenate([row.words for row in found]).tolist()) == list(range(len(words)))
    for row in found:
        assert row.row.ids.size <= longest
        ids = row.row.ids.tolist()
        assert (ids[0], ids[-1]) == (2, 3)
        for word, position in zip(row.words.tolist(), row.positions.tolist(), strict=True):
            first = TOKENIZER.encode(words[word])[:1] or [1]
            assert [ids[position]] == first
