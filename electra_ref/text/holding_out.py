"""Which documents are kept for evaluation: a share of the tokens, and no copy of one in training.

Each document has a random number of BINS: a hash of the digest of its token ids, keyed by the seed.
Copies of a document have the same number, so they stay together. The documents with the smallest
numbers are held out, as many as come closest to ``fraction`` of all tokens. To find out how many,
the tokens of each number are counted: so nothing is sorted, and memory does not grow with the
corpus.

A document that alone, or with its copies, has more than this share of the tokens (a book among
letters) is cut into pieces of equal length first. All its copies are cut at the same places. So
the tokens held out are between half and twice the share, in a large corpus at most one and a half
times. Two kinds of corpus have
no such division. A share below SHORTEST_SHARE tokens counts as that many. And where one passage
repeats through the whole corpus, every document gets a number of its own.

The original holds out nothing in pre-training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from electra_ref.rng import LOW_WORD, WORD_BITS, Purpose, key_words, philox4x32
from electra_ref.text.token_cache import Documents, digest_of

SHORTEST_SHARE = 10  # tokens
BIN_BITS = 20
BINS = 1 << BIN_BITS

_DOCUMENTS_AT_A_TIME = 1 << 16

Integers = npt.NDArray[np.int64]
Digests = npt.NDArray[np.uint64]


class Corpus(Protocol):
    """What is divided: a token cache, or its like."""

    @property
    def shards(self) -> object: ...
    def documents(self, shard: int, /) -> Documents: ...


class Division(NamedTuple):
    """A shard with its long documents cut, and which of its documents are held out."""

    sentence_ends: Integers  # (sentences,)  in tokens
    document_ends: Integers  # (documents,)  in sentences
    held_out: npt.NDArray[np.bool_]  # (documents,)


class Shares(NamedTuple):
    """How a corpus is divided."""

    cuts: list[dict[int, int]]  # for each shard: the pieces of each document that is cut
    first_documents: list[int]  # for each shard: the number of its first document, in the corpus
    chosen: npt.NDArray[np.bool_]  # (BINS,)  the numbers that are held out
    seed: int
    salt: int  # 0, or what makes the numbers of copies differ


def bins_of(digests: Digests, seed: int, first: int = 0, salt: int = 0) -> Integers:
    """Return a random number below BINS for each document, (documents,); copies have the same one.

    With a ``salt`` above 0, copies have numbers of their own; ``first`` is the number of the first
    document. Numbers are words of Philox4x32 with the digest as the counter.
    """
    bins = np.empty(digests.size, np.int64)
    for start in range(0, digests.size, _DOCUMENTS_AT_A_TIME):
        some = digests[start : start + _DOCUMENTS_AT_A_TIME]
        if salt:
            own = np.arange(first + start, first + start + some.size, dtype=np.uint64)
            some = some ^ (own << np.uint64(1))
        counter = np.empty((some.size, 4), np.uint32)
        counter[:, 0] = some & LOW_WORD
        counter[:, 1] = some >> WORD_BITS
        counter[:, 2] = salt
        counter[:, 3] = Purpose.HOLD_OUT
        words = philox4x32(counter, np.array(key_words(seed), np.uint32))
        bins[start : start + some.size] = words[:, 0] >> np.uint32(32 - BIN_BITS)
    return bins


def choose(
    corpus: Corpus,
    count: int,
    fraction: float,
    seed: int,
    on_shard: Callable[[int], None] = lambda _: None,
) -> Shares:
    """Choose what is held out of the ``count`` shards of ``corpus``.

    At least one document is on either side. Memory is 17 bytes for each of BINS, and about 40 for a
    document whose number stands for more than the share: few, unless the corpus repeats one text.
    ``on_shard`` is called with the number of each shard that is looked at. Raises ValueError for
    fewer than two tokens.
    """
    sizes = _tokens_of_bins(corpus, count, seed, [{}] * count, on_shard)
    total = int(sizes.sum())
    if total < 2:
        raise ValueError(f"a corpus of {total} token cannot be divided")
    share = min(max(fraction * total, SHORTEST_SHARE), total / 2)
    cuts = _cuts(corpus, count, seed, sizes, share)
    if any(cuts):
        sizes = _tokens_of_bins(corpus, count, seed, cuts, on_shard)
    firsts = _first_documents(corpus, count, cuts)
    salt = 0
    # Where all copies together are the corpus, or too much of it, each copy has its own number.
    while np.count_nonzero(sizes) < 2 or not ((sizes > 0) & (sizes <= 2 * share)).any():
        salt += 1
        sizes = _tokens_of_bins(corpus, count, seed, cuts, on_shard, firsts, salt)
    possible = np.flatnonzero((sizes > 0) & (sizes <= 2 * share))
    so_far = np.cumsum(sizes[possible])
    taken = 1 + int(np.argmin(np.abs(so_far - share)))  # never all: ``share`` is half at most
    chosen = np.zeros(BINS, np.bool_)
    chosen[possible[:taken]] = True
    return Shares(cuts, firsts, chosen, seed, salt)


def divide(documents: Documents, shares: Shares, shard: int) -> Division:
    """Divide the documents of one shard. Memory is about 10 bytes a document.

    Where a document is cut, 8 bytes a sentence are added.
    """
    sentence_ends, document_ends, digests = _with_cuts(documents, shares.cuts[shard])
    bins = bins_of(digests, shares.seed, shares.first_documents[shard], shares.salt)
    return Division(sentence_ends, document_ends, shares.chosen[bins])


def _tokens_of_bins(
    corpus: Corpus,
    count: int,
    seed: int,
    cuts: list[dict[int, int]],
    on_shard: Callable[[int], None],
    firsts: list[int] | None = None,
    salt: int = 0,
) -> Integers:
    """Return how many tokens the documents with each number have, (BINS,)."""
    sizes = np.zeros(BINS, np.int64)
    for shard in range(count):
        on_shard(shard)
        sentence_ends, document_ends, digests = _with_cuts(corpus.documents(shard), cuts[shard])
        bins = bins_of(digests, seed, firsts[shard] if firsts else 0, salt)
        np.add.at(sizes, bins, _lengths(sentence_ends, document_ends))
    return sizes


def _lengths(sentence_ends: Integers, document_ends: Integers) -> Integers:
    """Return the tokens of each document, (documents,)."""
    return np.diff(sentence_ends[document_ends - 1], prepend=0)


def _cuts(
    corpus: Corpus, count: int, seed: int, sizes: Integers, share: float
) -> list[dict[int, int]]:
    """Return the number of pieces of each document that is cut, for each shard.

    No piece with its copies exceeds ``share``. Only documents whose numbers stand for more than the
    share can be so large.
    """
    heavy = sizes > share
    if not heavy.any():
        return [{} for _ in range(count)]
    found = []
    for shard in range(count):
        documents = corpus.documents(shard)
        numbers = np.flatnonzero(heavy[bins_of(documents.digests, seed)])
        lengths = _lengths(documents.sentence_ends, documents.document_ends)[numbers]
        found.append((np.full(numbers.size, shard), numbers, lengths, documents.digests[numbers]))
    shards, numbers, lengths, digests = map(np.concatenate, zip(*found, strict=True))
    _, group, copies = np.unique(digests, return_inverse=True, return_counts=True)
    together = lengths * copies[group]
    pieces = np.minimum(np.ceil(together / share - 1e-9).astype(np.int64), lengths)
    cut = pieces > 1
    cuts: list[dict[int, int]] = [{} for _ in range(count)]
    for shard, number, parts in zip(
        shards[cut].tolist(), numbers[cut].tolist(), pieces[cut].tolist(), strict=True
    ):
        cuts[shard][number] = parts
    return cuts


def _first_documents(corpus: Corpus, count: int, cuts: list[dict[int, int]]) -> list[int]:
    """Return the number of the first document of each shard, (count); pieces count as documents."""
    firsts = [0]
    for shard in range(count):
        added = sum(cuts[shard].values()) - len(cuts[shard])
        firsts.append(firsts[-1] + corpus.documents(shard).document_ends.size + added)
    return firsts[:-1]


def _with_cuts(documents: Documents, cuts: dict[int, int]) -> tuple[Integers, Integers, Digests]:
    """Return ``sentence_ends``, ``document_ends`` and ``digests`` with some documents in pieces."""
    tokens, sentence_ends, document_ends, digests = documents
    if not cuts:
        return sentence_ends, document_ends, digests
    ends = sentence_ends[document_ends - 1]
    starts = np.append(0, ends[:-1])
    inner = [
        starts[number] + (ends[number] - starts[number]) * np.arange(1, pieces) // pieces
        for number, pieces in cuts.items()
    ]
    all_ends = np.union1d(ends, np.concatenate(inner))
    sentence_ends = np.union1d(sentence_ends, np.concatenate(inner))
    document_ends = np.searchsorted(sentence_ends, all_ends).astype(np.int64) + 1
    pieces_of = np.ones(ends.size, np.int64)
    pieces_of[list(cuts)] = list(cuts.values())
    new = np.repeat(digests, pieces_of)
    in_pieces = np.flatnonzero(np.repeat(pieces_of > 1, pieces_of))
    starts = np.append(0, all_ends[:-1])
    for piece in in_pieces.tolist():
        ids = tokens[starts[piece] : all_ends[piece]]
        new[piece] = np.frombuffer(digest_of(ids), np.uint64)[0]
    return sentence_ends, document_ends, new
