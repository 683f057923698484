"""From a line of input to the tokens that the model reads, and where they stand in the line.

    [CLS] text [SEP]        or        [CLS] text [SEP] second text [SEP]

A task that fills masks recognizes "[MASK]" in a text, as it is written here; for the tokenizer it
is a word between two brackets. What stands before and after a mask is cut into pieces separately.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.batch import MASK
from electra_ref.text.token_ids import ID_SHIFT
from electra_ref.text.wordpiece import Encoding, WordPiece
from electra_ref.training.prediction.records import Record, Text


class Example(NamedTuple):
    """The n tokens of a line; none if its texts have none."""

    record: Record
    lengths: tuple[int, ...]  # (texts)  tokens of each, without [CLS] and [SEP]
    ids: npt.NDArray[np.int32]  # (n)
    tokens: list[str]  # (n)
    offsets: list[tuple[int, int] | None]  # (n)  [start, end) in its text; None: [CLS] and [SEP]
    segments: npt.NDArray[np.int32]  # (n)  0, and 1 from the first token of the second text

    @property
    def is_pair(self) -> bool:
        """Whether there are two texts."""
        return len(self.record.texts) == 2

    def text_numbers(self) -> list[int | None]:
        """Return which text each offset is of: 0, 1, or None for [CLS] and [SEP]."""
        return [
            None if offset is None else segment
            for offset, segment in zip(self.offsets, self.segments.tolist(), strict=True)
        ]


def example_of(record: Record, tokenizer: WordPiece, *, recognizes_mask: bool) -> Example:
    """Return the tokens of ``record``; with ``recognizes_mask``, "[MASK]" is one of them."""
    special, vocabulary = tokenizer.special_tokens, tokenizer.vocab
    encodings = [_encode(text, tokenizer, recognizes_mask) for text in record.texts]
    lengths = tuple(len(encoding.ids) for encoding in encodings)
    none = np.zeros(0, np.int32)
    if not any(lengths):
        return Example(record, lengths, none, [], [], none)
    ids, tokens = [special.cls], [vocabulary[special.cls]]
    offsets: list[tuple[int, int] | None] = [None]
    segments = [0]
    for number, encoding in enumerate(encodings):
        ids += [*encoding.ids, special.sep]
        tokens += [*encoding.tokens, vocabulary[special.sep]]
        offsets += [*encoding.offsets, None]
        segments += [number] * (len(encoding.ids) + 1)
    return Example(
        record, lengths, np.array(ids, np.int32), tokens, offsets, np.array(segments, np.int32)
    )


def _encode(text: Text, tokenizer: WordPiece, recognizes_mask: bool) -> Encoding:
    if not isinstance(text, str):
        mask = tokenizer.special_tokens.mask
        ids = [mask if isinstance(one, str) else one + ID_SHIFT for one in text]
        return Encoding(
            ids, [tokenizer.vocab[i] for i in ids], [(i, i + 1) for i in range(len(ids))]
        )
    if not recognizes_mask or MASK not in text:
        return tokenizer.encode_with_offsets(text)
    whole = Encoding([], [], [])
    for start, part in _between_masks(text):
        encoding = tokenizer.encode_with_offsets(part)
        if start:
            whole.ids.append(tokenizer.special_tokens.mask)
            whole.tokens.append(MASK)
            whole.offsets.append((start - len(MASK), start))
        whole.ids.extend(encoding.ids)
        whole.tokens.extend(encoding.tokens)
        whole.offsets.extend((start + first, start + end) for first, end in encoding.offsets)
    return whole


def _between_masks(text: str) -> Iterator[tuple[int, str]]:
    """Yield what stands before, between and after the masks, each with its place."""
    start = 0
    for part in text.split(MASK):
        yield start, part
        start += len(part) + len(MASK)
