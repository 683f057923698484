"""One micro-batch of packed token ids, and the special tokens in it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

PAD, UNKNOWN, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_TOKENS = (PAD, UNKNOWN, CLS, SEP, MASK)


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
