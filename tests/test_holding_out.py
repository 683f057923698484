"""Holding out: the share asked for, in tokens; no copy on the other side; every token on one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from electra_ref.rng import Purpose, philox4x32
from electra_ref.text import holding_out
from electra_ref.text.holding_out import (
    BINS,
    SHORTEST_SHARE,
    Division,
    bins_of,
    choose,
    divide,
)
from electra_ref.text.token_cache import Documents, digest_of

Texts = list[list[int]]


class Shards(NamedTuple):
    """Documents in shards, as a token cache has them."""

    shards: list[Documents]

    def documents(self, shard: int) -> Documents:
        return self.shards[shard]


def shard_of(documents: Texts, line: int) -> Documents:
    """Return one shard, whose sentences are ``line`` tokens long."""
    sentences = [
        [min(line, len(document) - first) for first in range(0, len(document), line)]
        for document in documents
    ]
    digests = [np.frombuffer(digest_of(np.array(d, np.uint16)), np.uint64)[0] for d in documents]
    return Documents(
        tokens_of(documents),
        np.cumsum([length for lengths in sentences for length in lengths], dtype=np.int64),
        np.cumsum([len(lengths) for lengths in sentences], dtype=np.int64),
        np.array(digests, np.uint64),
    )


def divided(
    documents: Texts, fraction: float, seed: int = 0, line: int = 7, shards: int = 1
) -> Division:
    """Divide ``documents`` in ``shards``; return the division as that of one."""
    size = -(-len(documents) // shards)
    parts = [documents[first : first + size] for first in range(0, len(documents), size)]
    corpus = Shards([shard_of(part, line) for part in parts])
    shares = choose(corpus, len(parts), fraction, seed)
    found = [divide(corpus.documents(shard), shares, shard) for shard in range(len(parts))]
    assert shares.first_documents == [
        sum(each.document_ends.size for each in found[:shard]) for shard in range(len(parts))
    ]
    tokens = np.cumsum([0, *(shard.tokens.size for shard in corpus.shards[:-1])])
    sentences = np.cumsum([0, *(each.sentence_ends.size for each in found[:-1])])
    return Division(
        np.concatenate([e.sentence_ends + n for e, n in zip(found, tokens, strict=True)]),
        np.concatenate([e.document_ends + n for e, n in zip(found, sentences, strict=True)]),
        np.concatenate([each.held_out for each in found]),
    )


def tokens_of(documents: Texts) -> npt.NDArray[np.uint16]:
    return np.array([token for document in documents for token in document], np.uint16)


def pieces(division: Division, tokens: npt.NDArray[Any]) -> list[tuple[bytes, bool]]:
    """Return the bytes of each document of a division, and whether it is held out."""
    ends = division.sentence_ends[division.document_ends - 1].tolist()
    starts = [0, *ends[:-1]]
    return [
        (tokens[start:end].tobytes(), bool(held))
        for start, end, held in zip(starts, ends, division.held_out, strict=True)
    ]


def share_of(division: Division, tokens: npt.NDArray[Any]) -> float:
    return sum(len(p) for p, held in pieces(division, tokens) if held) / tokens.nbytes


def random_documents(seed: int, lengths: list[int]) -> Texts:
    random = np.random.default_rng(seed)
    return [random.integers(0, 60_000, length).tolist() for length in lengths]


CORPORA: dict[str, Callable[[int], Texts]] = {
    "letters": lambda seed: random_documents(seed, [40] * 3000),
    "one book": lambda seed: random_documents(seed, [50_000]),
    "two books": lambda seed: random_documents(seed, [90_000, 500]),
    "a book among letters": lambda seed: random_documents(seed, [20] * 500 + [50_000]),
    "all sizes": lambda seed: random_documents(seed, [2**k for k in range(1, 16)]),
    "a corpus twice": lambda seed: random_documents(seed, [300] * 90) * 2,
    "one letter many times": lambda seed: random_documents(seed, [200]) * 300,
}


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.3, 0.5])
@pytest.mark.parametrize("name", CORPORA)
def test_the_share_is_met_within_a_factor_of_two_and_no_copy_is_trained_on(
    name: str, fraction: float
) -> None:
    for seed in range(3):
        documents = CORPORA[name](seed)
        tokens = tokens_of(documents)
        division = divided(documents, fraction, seed)
        assert fraction / 2 <= share_of(division, tokens) <= min(1.5 * fraction, 0.75)
        found = pieces(division, tokens)
        held_out = {piece for piece, held in found if held}
        assert not held_out & {piece for piece, held in found if not held}


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=30),
    copies=st.integers(1, 3),
    words=st.integers(1, 5),
    fraction=st.floats(0.001, 0.5),
    seed=st.integers(0, 2**63 - 1),
)
def test_any_corpus_is_divided_into_two_parts(
    lengths: list[int], copies: int, words: int, fraction: float, seed: int
) -> None:
    """Few different tokens: then pieces repeat, also within a document."""
    documents = [[k % words for k in range(length)] for length in lengths] * copies
    tokens = tokens_of(documents)
    assume(tokens.size > 1)
    division = divided(documents, fraction, seed)
    assert division.held_out.any()
    assert not division.held_out.all()
    assert b"".join(piece for piece, _ in pieces(division, tokens)) == tokens.tobytes()
    assert (np.diff(division.sentence_ends, prepend=0) > 0).all()
    assert (np.diff(division.document_ends, prepend=0) > 0).all()
    ends = np.cumsum([len(document) for document in documents])
    assert set(ends) <= set(division.sentence_ends[division.document_ends - 1])
    wanted = min(max(fraction * tokens.size, SHORTEST_SHARE), tokens.size / 2)
    # a piece may be a token longer than the cut would have it, for each of its copies
    assert share_of(division, tokens) * tokens.size <= 2 * wanted


def test_short_documents_stay_whole() -> None:
    documents = random_documents(3, [50] * 20)
    division = divided(documents, 0.05)
    assert division.document_ends.size == 20
    assert division.held_out.sum() == 1


@pytest.mark.parametrize("letter", [[5] * 100, [1, 2, 3]])
def test_a_passage_that_fills_the_corpus_is_divided_all_the_same(letter: list[int]) -> None:
    documents = [letter] * 1000
    assert share_of(divided(documents, 0.05), tokens_of(documents)) == pytest.approx(0.05, rel=0.5)


def test_a_number_is_a_hash_of_the_digest_keyed_by_the_seed() -> None:
    digests = np.array([0x0123_4567_89AB_CDEF, 5, 0x0123_4567_89AB_CDEF], np.uint64)
    counter = np.array([0x89AB_CDEF, 0x0123_4567, 0, Purpose.HOLD_OUT], np.uint32)
    expected = philox4x32(counter, np.array([3, 1], np.uint32))[0] >> 12
    first, other, copy = bins_of(digests, seed=3 + 2**32).tolist()
    assert first == copy == expected != other
    assert bins_of(digests, seed=4)[0] != first
    apart = bins_of(digests, seed=3, first=7, salt=1)
    assert len(set(apart.tolist())) == 3
    np.testing.assert_array_equal(bins_of(digests[1:], seed=3, first=8, salt=1), apart[1:])


def test_many_documents_have_numbers_that_fill_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are looked at at a time."""
    digests = np.arange(100_000, dtype=np.uint64)
    bins = bins_of(digests, seed=0)
    assert 0 <= bins.min() < 100 < BINS - 100 < bins.max() < BINS
    assert abs(bins.mean() / BINS - 0.5) < 0.005  # five standard errors
    monkeypatch.setattr(holding_out, "_DOCUMENTS_AT_A_TIME", 999)
    np.testing.assert_array_equal(bins_of(digests, seed=0), bins)
    salted = bins_of(digests, seed=0, first=5, salt=2)
    monkeypatch.undo()
    np.testing.assert_array_equal(bins_of(digests, seed=0, first=5, salt=2), salted)


@pytest.mark.parametrize("name", CORPORA)
def test_shards_do_not_matter(name: str) -> None:
    documents = CORPORA[name](0)
    whole, shards = divided(documents, 0.05), divided(documents, 0.05, shards=3)
    for one, other in zip(whole, shards, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_seed_decides_which_documents() -> None:
    documents = random_documents(0, [30] * 100)
    held_out = [divided(documents, 0.1, seed).held_out.tobytes() for seed in range(20)]
    assert len(set(held_out)) == 20
    assert held_out[0] == divided(documents, 0.1, 0).held_out.tobytes()


def test_each_document_is_held_out_as_often() -> None:
    """Of 400 seeds, each of 50 documents of one length is held out by a fifth.

    A count outside 80 +- 48 has a probability below 2e-9 for one document.
    """
    documents = random_documents(0, [30] * 50)
    held_out = np.stack([divided(documents, 0.2, seed).held_out for seed in range(400)])
    assert (np.abs(held_out.sum(axis=0) - 80) < 48).all()


def test_one_token_cannot_be_divided() -> None:
    with pytest.raises(ValueError, match="1 token cannot"):
        divided([[3]], 0.05)
