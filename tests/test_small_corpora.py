"""A corpus that is too small is named; a resumed run hears first that it is another one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from electra_ref.errors import UserError
from electra_ref.text.examples import open_all_examples
from electra_ref.text.prepare import (
    FEWEST_TOKENS,
    PreparedData,
    packing_rules,
    prepare,
    tokenize,
)
from tests.small_runs import small_config

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def write(path: Path, words: int) -> str:
    """Write a text of so many tokens, a document; return its path."""
    path.write_text("ab " * words)
    return str(path)


def prepared(
    cache: Path, corpus: Sequence[str], vocabulary: Sequence[str], key: str | None = None
) -> PreparedData:
    return prepare(
        small_config(), cache, corpus=corpus, vocabulary=vocabulary, known_key=key, moved=True
    )


def test_the_files_of_too_few_tokens_are_named(cache: Path, tmp_path: Path) -> None:
    enough = write(tmp_path / "enough.txt", FEWEST_TOKENS)
    vocabulary = prepare(small_config(), cache, corpus=[enough]).tokenizer.vocab
    short, empty = write(tmp_path / "short.txt", 199), write(tmp_path / "empty.txt", 0)
    for corpus, named, tokens in (
        ([short], short, 199),
        ([empty], empty, 0),
        ([empty, short, empty], f"{empty} and 2 more", 199),
    ):
        with pytest.raises(UserError) as caught:
            prepared(cache, corpus, vocabulary)
        assert str(caught.value) == (
            f"{named}: the corpus is too small: {tokens} tokens, need at least 200; name more data"
        )


def test_one_token_is_enough_to_be_evaluated(cache: Path, tmp_path: Path) -> None:
    enough = write(tmp_path / "enough.txt", FEWEST_TOKENS)
    vocabulary = prepare(small_config(), cache, corpus=[enough]).tokenizer.vocab
    one, none = write(tmp_path / "one.txt", 1), write(tmp_path / "none.txt", 0)
    tokens = tokenize(small_config(), cache, corpus=[one], vocabulary=vocabulary).cache
    rows = open_all_examples(cache, tokens, packing_rules(small_config()))
    assert (rows.count, rows.tokens) == (1, 1)
    with pytest.raises(UserError, match=r"none\.txt: the corpus is too small: 0 tokens, need at"):
        tokenize(small_config(), cache, corpus=[none], vocabulary=vocabulary)


def test_the_array_of_too_few_ids_is_named(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "ids.npy"
    np.save(path, np.arange(199))
    with pytest.raises(UserError, match=r"/ids\.npy: the corpus is too small: 199 tokens, need"):
        prepare(small_config(), cache, ids_paths=[str(path)])


def test_the_files_without_a_word_are_named(cache: Path, tmp_path: Path) -> None:
    empty, blank = write(tmp_path / "empty.txt", 0), str(tmp_path / "blank.txt")
    Path(blank).write_text("\n \n" * 500)
    for corpus, named in (([empty], empty), ([blank, empty], f"{blank} and 1 more")):
        with pytest.raises(UserError) as caught:
            prepare(small_config(), cache, corpus=corpus)
        assert str(caught.value) == (
            f"{named} holds no words to train a vocabulary from; name files of text"
        )


def test_a_resumed_run_is_told_that_a_small_corpus_is_another_one(
    cache: Path, tmp_path: Path
) -> None:
    enough = write(tmp_path / "enough.txt", FEWEST_TOKENS)
    first = prepare(small_config(), cache, corpus=[enough])
    for words in (199, 0):
        other = write(tmp_path / "other.txt", words)
        with pytest.raises(UserError, match="the corpus is not the one this run began with"):
            prepared(cache, [other], first.tokenizer.vocab, first.key)
