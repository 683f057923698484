"""One micro-batch of packed token ids, and the special tokens in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar, overload

import numpy as np
import numpy.typing as npt

PAD, UNKNOWN, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_TOKENS = (PAD, UNKNOWN, CLS, SEP, MASK)

T = TypeVar("T")


class SpecialTokens(NamedTuple):
    """Ids of the five special tokens of BERT's input format."""

    pad: int
    unknown: int
    cls: int
    sep: int
    mask: int


class Batch(NamedTuple):
    """Packed examples, B rows of T tokens, padded on the right with [PAD]."""

    input_ids: npt.NDArray[np.int32]  # (B, T)
    token_type_ids: npt.NDArray[np.int32]  # (B, T)  0 in segment A and padding, 1 in segment B
    attention_mask: npt.NDArray[np.bool_]  # (B, T)  True for a token, False for padding


class MadeOnDemand(Sequence[T]):
    """A sequence whose entries are made when somebody asks for them, each time anew."""

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, number: int) -> T: ...
    @overload
    def __getitem__(self, number: slice) -> list[T]: ...
    def __getitem__(self, number: int | slice) -> T | list[T]:
        if isinstance(number, slice):
            return [self._make(one) for one in range(self._count)[number]]
        return self._make(range(self._count)[number])
