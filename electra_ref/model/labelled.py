"""A model for a task: an encoder and a head, both as data, and the rows that it learns from.

A head is a module of ``model.heads`` with the functions of ``HeadModule``. It has its loss with it,
since each kind of task compares its logits with targets of its own kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Array
from electra_ref.batch import Batch
from electra_ref.model.encoder import SITES_PER_LAYER
from electra_ref.model.losses import Counts, LossTerm
from electra_ref.model.networks import Network
from electra_ref.model.parameters import ParameterSpec
from electra_ref.model.passes import BackwardPass, ForwardPass

Targets = Any  # a NamedTuple of arrays, as many as the head reads; only the head looks inside
Answers = Any  # a NamedTuple of arrays; only the head and its task look inside
HeadCache = Any

HEAD = "task"  # prefix of the parameters of any head
LAYERS = "layers"  # the form of a head that reads all layers, at all tokens of a row


class LabelledBatch(NamedTuple):
    """Rows of tokens, and what is to be said of them."""

    tokens: Batch  # (B, T)
    targets: Targets

    @property
    def input_ids(self) -> npt.NDArray[np.int32]:
        """The ids (B, T)."""
        return self.tokens.input_ids

    @property
    def attention_mask(self) -> npt.NDArray[np.bool_]:
        """True for a token (B, T)."""
        return self.tokens.attention_mask


class Head(NamedTuple):
    """A task head as data."""

    kind: str  # a name of ``heads.table.HEADS``
    form: str  # "original", "huggingface": that of the class there for such a task, or "layers"
    outputs: int  # how many logits it gives: labels, tags; 1 for a score
    dropout: float  # of what the head reads
    loss_weight: float = 1.0  # of the mean loss; the original sums over the batch
    options: Any = None  # a NamedTuple of the head's own module; None for its defaults


class FineTuned(NamedTuple):
    """A model for a task."""

    encoder: Network
    head: Head


class HeadOutput(NamedTuple):
    """What a head says, and how wrong that is."""

    terms: tuple[LossTerm, ...]
    answers: Answers


class HeadModule(Protocol):
    """The functions of a head; ``hidden`` is (N, C), all arrays are on the device.

    ``answer`` reads ``batch.targets`` only for where answers are wanted. It needs no caches.
    """

    def head_specs(self, model: FineTuned) -> Iterator[ParameterSpec]: ...
    def count_losses(self, model: FineTuned, batch: LabelledBatch) -> Counts: ...
    def forward(
        self, run: ForwardPass, model: FineTuned, hidden: Array, batch: LabelledBatch
    ) -> tuple[HeadOutput, HeadCache]: ...
    def backward(
        self, run: BackwardPass, model: FineTuned, counts: Counts, cache: HeadCache
    ) -> Array: ...  # dhidden (N, C)
    def answer(
        self, run: ForwardPass, model: FineTuned, hidden: Array, batch: LabelledBatch
    ) -> Answers: ...


def head_site(model: FineTuned, number: int) -> int:
    """Return the dropout site ``number`` of the head; those of the encoder come before."""
    return 1 + SITES_PER_LAYER * model.encoder.size.num_hidden_layers + number
