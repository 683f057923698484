"""The operations that do not depend on the precision of matrix products: all but eight.

They move more memory than they compute, and do so in float32. Binary cross entropy and that of the
copy gate see one number a token: their formulas are fast enough.
"""

from __future__ import annotations

from electra_ref.arrays import Array
from electra_ref.backends.cpu.adamw import adamw
from electra_ref.backends.cpu.dropout import (
    DropoutBits,
    bits_of_rows,
    dropout,
    dropout_backward,
)
from electra_ref.backends.cpu.dropout_add_layer_norm import (
    dropout_add_layer_norm,
    dropout_add_layer_norm_backward,
)
from electra_ref.backends.cpu.embedding import embed, embed_backward
from electra_ref.backends.cpu.gather import gather_positions, gather_positions_backward
from electra_ref.backends.cpu.gelu import gelu, gelu_backward
from electra_ref.backends.cpu.global_norm import add_gradients, global_norm
from electra_ref.backends.cpu.layer_norm import layer_norm, layer_norm_backward
from electra_ref.backends.cpu.softmax_cross_entropy import (
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
)
from electra_ref.backends.reference.binary_cross_entropy import (
    binary_cross_entropy,
    binary_cross_entropy_backward,
)
from electra_ref.backends.reference.copy_gate_cross_entropy import (
    copy_gate_cross_entropy,
    copy_gate_cross_entropy_backward,
)
from electra_ref.rng import RandomStream


def to_device(array: Array) -> Array:
    """Return ``array`` (any shape) itself: the host is the device."""
    return array


def to_host(array: Array) -> Array:
    """Return ``array`` (any shape) itself."""
    return array


def dropout_bits(stream: RandomStream, examples: int, count: int) -> DropoutBits:
    """Name ``count`` 16-bit random integers for each of ``examples`` rows of the batch."""
    return DropoutBits(stream, examples, count)
