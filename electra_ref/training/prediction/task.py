"""What a model can be asked. A task is a module with what ``Task`` lists.

``prediction.table`` has them all. A task wants an answer at some tokens of an example, computes it
for a batch, and turns the answers into a JSON object, or lines for a terminal. How input is read
and cut is the same for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from electra_ref.batch import Batch
from electra_ref.model.networks import Network
from electra_ref.model.passes import ForwardPass
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.checkpoint import NonFiniteError
from electra_ref.training.prediction.examples import Example
from electra_ref.training.prediction.view import Style
from electra_ref.training.saved_model import Part

Positions = npt.NDArray[np.int32]  # (B, M)  columns of a batch; 0 in unused slots
Answer = Any  # of one token; only its task looks inside


class Model(NamedTuple):
    """What a task computes with."""

    run: ForwardPass
    network: Network
    tokenizer: WordPiece
    top_k: int  # how many words are wanted where words are guessed


class Task(Protocol):
    """One question."""

    PART: Part  # the network that answers
    RECOGNIZES_MASK: bool  # whether "[MASK]" in a text is the special token
    MOST_ANSWERS: int  # places of a batch, so that memory stays small

    def wanted(self, example: Example, tokenizer: WordPiece) -> npt.NDArray[np.bool_]:
        """Return which tokens (n) have an answer."""

    def answers(self, model: Model, batch: Batch, positions: Positions) -> list[list[Answer]]:
        """Return the answers at ``positions`` of ``batch``, whose arrays are on the host.

        Raises NonFiniteError if the model computes NaN or infinity.
        """

    def numbers(self, model: Model) -> int:
        """Return how many numbers an answer holds; so many are kept for a group of lines."""

    def result(self, model: Model, example: Example, answers: list[Answer]) -> dict[str, Any]:
        """Return the object of JSON for an example; ``answers`` (n) are None where none is wanted.

        An example without tokens has one, too.
        """

    def view(self, example: Example, result: dict[str, Any], style: Style) -> Iterator[str]:
        """Yield lines for a terminal; their characters are harmless, see ``terminal_text``."""


def check_finite(logits: npt.NDArray[Any]) -> None:
    """Raise NonFiniteError if ``logits`` of any shape hold NaN or infinity."""
    if not np.isfinite(logits).all():
        raise NonFiniteError(
            "the model computes NaN or infinity: its weights are damaged, or training diverged"
        )
