"""What a trained network says of token ids: forward passes without caches and without dropout."""

from __future__ import annotations

from electra_ref.arrays import Array
from electra_ref.batch import Batch
from electra_ref.model.encoder import encode
from electra_ref.model.heads.detection import detection_head
from electra_ref.model.heads.vocabulary import vocabulary_head
from electra_ref.model.networks import Network
from electra_ref.model.passes import ForwardPass


def detection_logits(run: ForwardPass, network: Network, batch: Batch) -> Array:
    """Return the logits (N,) of the tokens of ``batch``, on the device; positive = replaced."""
    return detection_head(run, network, encode(run, network, batch)[0])[0]


def word_logits(run: ForwardPass, network: Network, batch: Batch, positions: Array) -> Array:
    """Return the logits (B M, V) of ``batch`` at ``positions`` (B, M); all on the device."""
    return vocabulary_head(run, network, encode(run, network, batch)[0], positions)[0]
