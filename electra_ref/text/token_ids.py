"""The array of ``--tokens``: ids of another tokenizer, checked and read as documents.

A file is written by ``numpy.save``: integers of any type, byte order and memory order. It is
mapped and read in pieces, so it may be larger than memory. Several files follow each other. What
cannot be meant is refused with its position, counted from 0. What may not be meant becomes a note.
"""

from __future__ import annotations

import hashlib
import os
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.batch import SPECIAL_TOKENS
from electra_ref.errors import UserError
from electra_ref.text.token_cache import EncodedDocument

LONGEST_ID_DOCUMENT = 1 << 16  # tokens; a longer row or stream of ids is cut into documents
LARGEST_ID = 1_000_000  # every id needs a name and a row of each embedding table
ID_SHIFT = 5  # [PAD] [UNK] [CLS] [SEP] [MASK] take ids 0 to 4
FEWEST_ROWS = 10  # before anything is said about how rows end

_PIECE_IDS = 1 << 20

Ids = npt.NDArray[np.integer[Any]]
OnIds = Callable[[int], None]  # called with the number of ids read since last time
_OF_A_DAMAGED_HEADER = (OverflowError, TypeError, SyntaxError, tokenize.TokenError, MemoryError)


class IdFacts(NamedTuple):
    """What an array of ids, or a part of it, holds."""

    largest: int  # -1: nothing but padding
    documents: int  # rows with a token, or 1
    rows: int  # 1 for a stream
    doubled: Counter[int]  # ids that stand twice at the end of a row, and how often


class IdPart(NamedTuple):
    """What is read of an array: rows, or in a stream positions that LONGEST_ID_DOCUMENT divides."""

    first: int
    end: int


class _Piece(NamedTuple):
    """Rows of an array, or columns of one row."""

    row: int
    column: int
    ids: Ids  # (rows, columns), C order


def open_id_array(path: str) -> Ids:
    """Map the .npy file of ``--tokens``: integers, (tokens,) or (documents, tokens).

    Raises UserError for any other file, for an array without elements, and for rows of one token.
    """
    if not os.path.isfile(path):
        is_there = os.path.exists(path)
        problem = "it is no file; name .npy files" if is_there else "no such file"
        raise UserError(f"cannot read the token ids {path!r}: {problem}")
    try:
        with open(path, "rb") as file:
            is_npy = file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX
        if not is_npy:
            raise UserError(
                f"{path} is no .npy file, as numpy.save writes them; name text with --corpus"
            )
        array = np.lib.format.open_memmap(path, mode="r")  # unlike numpy.load, it reads no pickles
    except (OSError, ValueError, EOFError, *_OF_A_DAMAGED_HEADER) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is no array of integers saved by numpy.save: {reason}") from error
    if array.dtype.kind not in "iu":
        raise UserError(f"{path} holds {array.dtype}, but token ids are integers")
    if array.size == 0:
        raise UserError(f"{path} is an array without elements")
    if array.ndim not in (1, 2):
        raise UserError(
            f"{path} has the shape {array.shape}; expected (tokens,) or (documents, tokens)"
        )
    if array.ndim == 2 and array.shape[1] == 1:
        raise UserError(
            f"{path} has the shape {array.shape}, and so documents of one token each; save a "
            "stream of ids with the shape (tokens,)"
        )
    excess = os.path.getsize(path) - array.offset - array.nbytes
    if excess:
        raise UserError(f"{path} has {excess} bytes after its array; save one array in each file")
    return array


def check_ids(
    ids: Ids, path: str, on_ids: OnIds | None = None, part: IdPart | None = None
) -> IdFacts:
    """Read all ids once, or those of a part; return what they are.

    Raises UserError, with the position, for an id above LARGEST_ID and for a negative id that does
    not end a row.
    """
    largest, documents = -1, 0
    padded = False  # the row so far ends in padding
    doubled: Counter[int] = Counter()
    for piece in _pieces(ids, part):
        largest = max(largest, int(piece.ids.max()))
        if largest > LARGEST_ID:
            row, column = np.argwhere(piece.ids > LARGEST_ID)[0].tolist()
            raise _wrong_id(
                *(ids, path, piece.row + row, piece.column + column),
                f"is too large; renumber the ids to at most {LARGEST_ID}",
            )
        padded = _check_padding(ids, path, piece, padded and piece.column > 0)
        documents += int((piece.ids[:, 0] >= 0).sum()) if piece.column == 0 else 0
        if ids.ndim == 2 and piece.ids.shape[1] == ids.shape[1]:
            last = piece.ids[:, -1]
            doubled.update(last[(last == piece.ids[:, -2]) & (last >= 0)].tolist())
        if on_ids is not None:
            on_ids(piece.ids.size)
    rows = 1 if ids.ndim == 1 else ids.shape[0] if part is None else part.end - part.first
    if ids.ndim == 1 and part is not None and part.first:  # the stream was counted where it begins
        rows = 0
    return IdFacts(largest, documents, rows, doubled)


def join_facts(parts: Sequence[IdFacts], path: str) -> IdFacts:
    """Return the facts of several arrays, or parts of one, taken together.

    Raises UserError if there is nothing but padding; it calls them ``path``.
    """
    doubled: Counter[int] = Counter()
    for part in parts:
        doubled.update(part.doubled)
    largest = max(part.largest for part in parts)
    if largest < 0:
        raise UserError(f"{path} holds nothing but padding: every id is negative")
    return IdFacts(
        largest,
        sum(part.documents for part in parts),
        sum(part.rows for part in parts),
        doubled,
    )


def _check_padding(ids: Ids, path: str, piece: _Piece, padded: bool) -> bool:
    """Raise UserError for a negative id before a token; return whether the piece ends in padding.

    ``padded`` says whether the same row ended in padding before the piece.
    """
    negative = piece.ids < 0
    if ids.ndim == 1:
        misplaced = negative
    else:
        misplaced = np.zeros_like(negative)
        misplaced[:, :-1] = negative[:, :-1] & ~negative[:, 1:]
    if padded and not negative[0, 0]:
        row, column = 0, -1
    elif misplaced.any():
        row, column = np.argwhere(misplaced)[0].tolist()
    else:
        return bool(negative[0, -1])
    allowed = "a stream has no padding" if ids.ndim == 1 else "padding may only end a row"
    raise _wrong_id(
        *(ids, path, piece.row + row, piece.column + column), f"is negative, but {allowed}"
    )


def _wrong_id(ids: Ids, path: str, row: int, column: int, reason: str) -> UserError:
    """Return the error for one id; a stream has only the row 0."""
    if ids.ndim == 1:
        return UserError(f"{path}, position {column}: the id {ids[column]} {reason}")
    return UserError(f"{path}, row {row}, column {column}: the id {ids[row, column]} {reason}")


def notes_on(facts: IdFacts) -> Iterator[str]:
    """Yield what the person who gave the ids should know."""
    rows, documents = facts.rows, facts.documents
    if documents < rows:
        yield (
            f"{rows - documents:,} of {rows:,} rows of the token ids hold only padding and were "
            "left out"
        )
    for last, count in facts.doubled.most_common(1):
        if rows >= FEWEST_ROWS and 2 * count > rows:
            yield (
                f"{count:,} of {rows:,} rows of the token ids end in the id {last} twice or more; "
                "if it is padding, save -1 in its place"
            )


def id_documents(
    ids: Ids, on_ids: OnIds | None = None, part: IdPart | None = None
) -> Iterator[EncodedDocument]:
    """Yield the documents of a checked array of ids, or of a part, with ID_SHIFT added to each id.

    A document is a row. A longer row and a (tokens,) stream are cut into documents of
    LONGEST_ID_DOCUMENT tokens. A document is one sentence, so it is always segment A. Negative ids
    are padding and are dropped, and so are rows of padding.
    """
    for piece in _pieces(ids, part):
        for row in piece.ids:
            shifted = row[row >= 0].astype(np.int64) + ID_SHIFT
            if shifted.size:
                yield EncodedDocument(shifted, np.array([shifted.size]))
        if on_ids is not None:
            on_ids(piece.ids.size)


def id_vocabulary(largest: int) -> list[str]:
    """Return names for the ids of an array: the five special tokens, then 0 to ``largest``."""
    return [*SPECIAL_TOKENS, *map(str, range(largest + 1))]


def names_ids(vocabulary: Sequence[str]) -> bool:
    """Return whether ``vocabulary`` names the ids of an array and no pieces of text."""
    largest = len(vocabulary) - len(SPECIAL_TOKENS) - 1
    return largest >= 0 and list(vocabulary) == id_vocabulary(largest)


def fit_vocabulary(names: list[str], vocabulary: Sequence[str], path: str) -> list[str]:
    """Return the ``vocabulary`` of a model if it begins with ``names``, the ids of an array.

    Raises UserError if it was made from text, or has fewer ids.
    """
    if list(vocabulary[: len(names)]) == names:
        return list(vocabulary)
    if names_ids(vocabulary):
        known = len(vocabulary) - len(SPECIAL_TOKENS)
        largest = len(names) - len(SPECIAL_TOKENS) - 1
        raise UserError(f"{path} has ids up to {largest}, and the model knows those below {known}")
    raise UserError(
        f"{path} has token ids, and the vocabulary of the model was made from text: name text with "
        "--corpus"
    )


def plan_parts(ids: Ids, size: int) -> list[IdPart]:
    """Divide an array into parts of about ``size`` bytes."""
    columns = ids.shape[1] if ids.ndim == 2 else 1
    unit = 1 if ids.ndim == 2 else LONGEST_ID_DOCUMENT
    step = max(1, size // (columns * ids.itemsize * unit)) * unit
    return [
        IdPart(first, min(first + step, ids.shape[0])) for first in range(0, ids.shape[0], step)
    ]


def hash_ids(ids: Ids, part: IdPart, on_ids: OnIds) -> str:
    """Return a SHA-256 of a part: its ids, and how many stand in a row."""
    digest = hashlib.sha256(repr((ids.ndim, ids.shape[1:], ids.dtype.str)).encode())
    for piece in _pieces(ids, part):
        digest.update(piece.ids.data)
        on_ids(piece.ids.size)
    return digest.hexdigest()


def _pieces(ids: Ids, part: IdPart | None) -> Iterator[_Piece]:
    """Yield a part of the array in pieces: many whole rows, or LONGEST_ID_DOCUMENT columns of one.

    Many rows at a time make an array in Fortran order, whose rows are spread over the file, about
    as fast to read as one in C order.
    """
    table = ids if ids.ndim == 2 else ids[np.newaxis]
    rows, columns = IdPart(0, table.shape[0]), IdPart(0, table.shape[1])
    if part is not None:
        rows, columns = (part, columns) if ids.ndim == 2 else (rows, part)
    width = columns.end - columns.first
    height = max(1, _PIECE_IDS // width) if width <= LONGEST_ID_DOCUMENT else 1
    for row in range(rows.first, rows.end, height):
        for column in range(columns.first, columns.end, LONGEST_ID_DOCUMENT):
            end = min(column + LONGEST_ID_DOCUMENT, columns.end)
            piece = table[row : min(row + height, rows.end), column:end]
            yield _Piece(row, column, np.ascontiguousarray(piece))
