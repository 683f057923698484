"""Which documents are kept for evaluation: a share of the tokens, and no copy of one in training.

Each document has a random number: a hash of its token ids, keyed by the seed. Copies of a document
have the same number, so they stay together. The documents with the smallest numbers are held out,
as many as come closest to ``fraction`` of all tokens.

A document that alone, or with its copies, has more than this share of the tokens (a book among
letters) is cut into pieces of equal length first. All its copies are cut at the same places. So
the tokens held out are between half and twice the share, in a large corpus at most one and a half
times. Two kinds of corpus have
no such division. A share below SHORTEST_SHARE tokens counts as that many. And where one passage
repeats through the whole corpus, every document gets a number of its own.

Source of the keyed hash: RFC 7693 (BLAKE2). The original holds out nothing in pre-training.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

SHORTEST_SHARE = 10  # tokens

Integers = npt.NDArray[np.int64]


class Division(NamedTuple):
    """A corpus with its long documents cut, and which of its documents are held out."""

    sentence_ends: Integers  # (sentences,)  in tokens
    document_ends: Integers  # (documents,)  in sentences
    held_out: npt.NDArray[np.bool_]  # (documents,)


def divide(
    tokens: npt.NDArray[np.integer[Any]],
    sentence_ends: Integers,
    document_ends: Integers,
    fraction: float,
    seed: int,
) -> Division:
    """Divide the documents of a token cache into those to train on and those held out.

    At least one document is on either side. Takes about 60 bytes a document, and 8 a sentence where
    a document is cut. Raises ValueError for fewer than two tokens.
    """
    if tokens.size < 2:
        raise ValueError(f"a corpus of {tokens.size} token cannot be divided")
    share = min(max(fraction * tokens.size, SHORTEST_SHARE), tokens.size / 2)
    ends = sentence_ends[document_ends - 1]
    cuts = _cuts(np.diff(ends, prepend=0), _with_copies(tokens, ends, seed), share)
    if cuts.size:
        document_token_ends = np.union1d(ends, cuts)
        sentence_ends = np.union1d(sentence_ends, cuts)
        document_ends = np.searchsorted(sentence_ends, document_token_ends).astype(np.int64) + 1
        ends = document_token_ends
    return Division(sentence_ends, document_ends, _held_out(tokens, ends, share, seed))


def document_numbers(
    tokens: npt.NDArray[np.integer[Any]], ends: Integers, seed: int, *, apart: bool = False
) -> npt.NDArray[np.uint64]:
    """Return a random number for each document, (documents,); copies have the same one.

    ``ends`` (documents,) counts tokens. With ``apart``, copies have numbers of their own.
    """
    numbers = bytearray()
    key = seed.to_bytes(8, "little")
    start = 0
    for index, end in enumerate(ends.tolist()):
        number = hashlib.blake2b(tokens[start:end].data, digest_size=8, key=key)
        if apart:
            number.update(index.to_bytes(8, "little"))
        numbers += number.digest()
        start = end
    return np.frombuffer(numbers, "<u8")


def _with_copies(tokens: npt.NDArray[np.integer[Any]], ends: Integers, seed: int) -> Integers:
    """Return the tokens of each document and its copies together, (documents,)."""
    _, group, copies = np.unique(
        document_numbers(tokens, ends, seed), return_inverse=True, return_counts=True
    )
    together: Integers = np.diff(ends, prepend=0) * copies[group]
    return together


def _cuts(lengths: Integers, together: Integers, share: float) -> Integers:
    """Return where to cut, in tokens, so that no piece with its copies exceeds ``share``."""
    pieces = np.minimum(np.ceil(together / share - 1e-9).astype(np.int64), lengths)
    starts = np.cumsum(lengths) - lengths
    cuts = [
        starts[i] + lengths[i] * np.arange(1, pieces[i]) // pieces[i]
        for i in np.flatnonzero(pieces > 1)
    ]
    return np.concatenate([np.empty(0, np.int64), *cuts])


def _held_out(
    tokens: npt.NDArray[np.integer[Any]], ends: Integers, share: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Return (documents,) True for those whose tokens come closest to ``share``."""
    lengths = np.diff(ends, prepend=0)
    for apart in (False, True):
        numbers, group = np.unique(
            document_numbers(tokens, ends, seed, apart=apart), return_inverse=True
        )
        sizes = np.bincount(group, weights=lengths, minlength=numbers.size)
        possible = np.flatnonzero(sizes <= 2 * share)  # in the order of their numbers
        if possible.size and numbers.size > 1:
            break
    so_far = np.cumsum(sizes[possible])
    taken = 1 + int(np.argmin(np.abs(so_far - share)))  # never all: ``share`` is half at most
    chosen = np.zeros(numbers.size, np.bool_)
    chosen[possible[:taken]] = True
    held_out: npt.NDArray[np.bool_] = chosen[group]
    return held_out
