"""What the forward pass of an objective yields; evaluation reads all of it."""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.arrays import Array
from electra_ref.masking import MaskedBatch
from electra_ref.model.discriminator_input import DiscriminatorInput
from electra_ref.model.generation import Guesses
from electra_ref.model.losses import LossTerm
from electra_ref.sampling import CorruptedBatch


class Detections(NamedTuple):
    """What a detection head says of each token that the discriminator reads."""

    read: DiscriminatorInput
    hidden: Array  # (N, C)  last hidden states
    logits: Array  # (N,)  positive = replaced


class Output(NamedTuple):
    """The losses, and what they follow from; None where an objective has no such part."""

    terms: tuple[LossTerm, ...]
    masked: MaskedBatch
    corrupted: CorruptedBatch | None = None
    guesses: Guesses | None = None  # of the network whose loss is "mlm"
    encoder_guesses: Guesses | None = None  # of a full-size encoder that reads the same
    detections: Detections | None = None

    @property
    def generator_logits(self) -> Array:
        """The logits (B M, V) of ``guesses``. Raises ValueError if there are none."""
        if self.guesses is None:
            raise ValueError("this objective guesses no words")
        return self.guesses.logits

    @property
    def discriminator_logits(self) -> Array:
        """The logits (N,) of ``detections``. Raises ValueError if there are none."""
        if self.detections is None:
            raise ValueError("this objective detects nothing")
        return self.detections.logits
