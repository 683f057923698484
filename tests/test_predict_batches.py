"""From lines to tokens with their places, and from windows to batches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.batch import MASK, SPECIAL_TOKENS
from electra_ref.text.token_ids import id_vocabulary
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.prediction.batches import (
    ROUND,
    Limits,
    Row,
    batches_of,
    pad,
    padded_length,
    rows_of,
)
from electra_ref.training.prediction.examples import Example, example_of
from electra_ref.training.prediction.records import Record, Text
from tests.test_wordpiece import TEXT, VOCABULARY

TOKENIZER = WordPiece(VOCABULARY)
LIMITS = Limits(longest=12, positions=14, stride=None, batch_tokens=40, batch_answers=1000)


def example(*texts: Text, masks: bool = False, tokenizer: WordPiece = TOKENIZER) -> Example:
    return example_of(Record(texts), tokenizer, recognizes_mask=masks)


def test_a_pair_by_hand() -> None:
    found = example("Play\ting, é", "replay")
    assert found.tokens == [
        *("[CLS]", "play", "i", "##n", "##g", ",", "e", "[SEP]"),
        *("re", "##play", "[SEP]"),
    ]
    assert found.offsets == [
        *(None, (0, 4), (5, 6), (6, 7), (7, 8), (8, 9), (10, 11), None),
        *((0, 2), (2, 6), None),
    ]
    assert found.segments.tolist() == [0] * 8 + [1] * 3
    assert found.text_numbers() == [None, *[0] * 6, None, 1, 1, None]
    assert found.ids.tolist() == [VOCABULARY.index(token) for token in found.tokens]
    assert (found.lengths, found.is_pair) == ((6, 2), True)


@pytest.mark.parametrize("texts", [("",), ("  \0",), ("", "\t"), ([],)])
def test_texts_without_tokens_are_empty(texts: tuple[Text, ...]) -> None:
    """[CLS] and [SEP] alone would have an answer that means nothing."""
    found = example(*texts)
    assert (found.ids.size, found.tokens, found.offsets) == (0, [], [])


def test_one_empty_text_of_a_pair_stays() -> None:
    assert example("", "re").tokens == ["[CLS]", "[SEP]", "re", "[SEP]"]
    assert example("re", "").segments.tolist() == [0, 0, 0, 1]


@given(text=TEXT)
def test_the_place_of_a_token_holds_what_became_the_token(text: str) -> None:
    found = example(text)
    for token, offset in zip(found.tokens[1:-1], found.offsets[1:-1], strict=True):
        assert offset is not None
        start, end = offset
        assert 0 <= start < end <= len(text)
        if token != "[UNK]":
            normalized = TOKENIZER._characters.normalize(text[start:end]).replace(" ", "")
            assert token.removeprefix("##") in normalized


@given(parts=st.lists(TEXT, min_size=1, max_size=4))
def test_masks_stand_where_they_are_written(parts: list[str]) -> None:
    text = MASK.join(parts)
    found = example(text, masks=True)
    places = [o for o, token in zip(found.offsets, found.tokens, strict=True) if token == MASK]
    assert all(offset is not None and text[slice(*offset)] == MASK for offset in places)
    assert len(places) == text.count(MASK)
    between = [piece for part in text.split(MASK) for piece in TOKENIZER.encode(part)]
    mask, inner = TOKENIZER.special_tokens.mask, found.ids[1:-1].tolist()
    assert [piece for piece in inner if piece != mask] == between
    starts = [offset[0] for offset in found.offsets if offset is not None]
    assert starts == sorted(starts)


def test_a_mask_is_a_word_between_brackets_elsewhere() -> None:
    assert example("a[MASK]").tokens == ["[CLS]", "a", "[", "mask", "]", "[SEP]"]
    assert example("a[MASK]b", masks=True).tokens == ["[CLS]", "a", "[MASK]", "b", "[SEP]"]
    assert MASK not in example("[mask] [MASK ]", masks=True).tokens


def test_token_ids_are_shifted_and_keep_their_names() -> None:
    tokenizer = WordPiece(id_vocabulary(9))
    found = example([3, MASK, 9], [0], masks=True, tokenizer=tokenizer)
    assert found.tokens == ["[CLS]", "3", "[MASK]", "9", "[SEP]", "0", "[SEP]"]
    assert found.ids.tolist() == [2, 8, 4, 14, 3, 5, 3]
    assert found.offsets == [None, (0, 1), (1, 2), (2, 3), None, (0, 1), None]


TEXTS = st.lists(
    st.lists(st.integers(0, 30).map(lambda n: "a " * n), min_size=1, max_size=2), max_size=8
)


def rows_for(texts: list[list[str]], wanted_every: int = 1) -> tuple[list[Example], list[Row]]:
    examples = [example(*each) for each in texts]
    rows: list[Row] = []
    for number, each in enumerate(examples):
        wanted: npt.NDArray[np.bool_] = np.arange(each.ids.size) % wanted_every == 0
        rows += rows_of(number, each, wanted, LIMITS)
    return examples, rows


@given(texts=TEXTS, wanted_every=st.integers(1, 20), batch_answers=st.integers(1, 60))
def test_every_wanted_token_is_in_one_batch(
    texts: list[list[str]], wanted_every: int, batch_answers: int
) -> None:
    examples, rows = rows_for(texts, wanted_every)
    limits = LIMITS._replace(batch_answers=batch_answers)
    answered: list[tuple[int, int]] = []
    for batch in batches_of(rows, limits):
        (length,) = {padded_length(row.places.size, limits.positions) for row in batch}
        most = max(row.answered.size for row in batch)
        assert length <= limits.positions
        assert len(batch) == 1 or len(batch) * length <= limits.batch_tokens
        assert len(batch) == 1 or len(batch) * most <= batch_answers
        for row in batch:
            answered += [(row.number, place) for place in row.places[row.answered].tolist()]
    expected = [
        (number, place)
        for number, each in enumerate(examples)
        for place in range(0, each.ids.size, wanted_every)
    ]
    assert sorted(answered) == expected


@given(texts=TEXTS)
def test_the_padded_length_of_a_row_is_its_own(texts: list[list[str]]) -> None:
    """It does not depend on the other rows, so neither do the bits of its answers."""
    _, rows = rows_for(texts)
    for row in rows:
        length = padded_length(row.places.size, LIMITS.positions)
        assert row.places.size <= length < row.places.size + ROUND
        assert length % ROUND == 0 or length == LIMITS.positions


def test_a_batch_by_hand() -> None:
    pair, short = example("a", "a"), example("a")
    rows = [
        Row(0, pair, np.arange(5), np.array([1, 3])),
        Row(1, short, np.array([0, 2]), np.array([1])),
    ]
    batch, positions = pad(rows, 8, 77)
    cls, sep, a = (VOCABULARY.index(token) for token in ("[CLS]", "[SEP]", "a"))
    assert batch.input_ids.tolist() == [
        [cls, a, sep, a, sep, 77, 77, 77],
        [cls, sep, 77, 77, 77, 77, 77, 77],
    ]
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 1, 1, 0, 0, 0], [0] * 8]
    assert batch.attention_mask.sum(axis=1).tolist() == [5, 2]
    assert positions.tolist() == [[1, 3], [1, 0]]
    assert [array.dtype for array in (*batch, positions)] == [np.int32, np.int32, bool, np.int32]


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [
        (LIMITS._replace(batch_tokens=24), [3, 3, 1]),
        (LIMITS._replace(batch_tokens=23), [2, 2, 2, 1]),
        (LIMITS._replace(batch_answers=9), [3, 3, 1]),
        (LIMITS._replace(batch_answers=8), [2, 2, 2, 1]),
        (LIMITS._replace(batch_tokens=1), [1] * 7),
    ],
)
def test_batches_are_as_large_as_they_may_be(limits: Limits, sizes: list[int]) -> None:
    """Rows of three tokens, which take eight places."""
    _, rows = rows_for([["a"]] * 7)
    assert [len(batch) for batch in batches_of(rows, limits)] == sizes


def test_special_tokens_are_those_of_the_vocabulary() -> None:
    tokenizer = WordPiece([*reversed(SPECIAL_TOKENS), "a"])
    assert example("a", tokenizer=tokenizer).ids.tolist() == [2, 5, 1]
