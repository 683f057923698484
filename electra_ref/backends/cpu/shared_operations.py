"""The operations that do not depend on the precision of matrix products: all but six.

They move more memory than they compute, and do so in float32.
"""

from __future__ import annotations

from electra_ref.arrays import Array
from electra_ref.backends.cpu.adamw import adamw
from electra_ref.backends.cpu.binary_cross_entropy import (
    binary_cross_entropy,
    binary_cross_entropy_backward,
)
from electra_ref.backends.cpu.dropout import DropoutBits, dropout, dropout_backward
from electra_ref.backends.cpu.dropout_add_layer_norm import (
    dropout_add_layer_norm,
    dropout_add_layer_norm_backward,
)
from electra_ref.backends.cpu.embedding import embed, embed_backward
from electra_ref.backends.cpu.gather import gather_positions, gather_positions_backward
from electra_ref.backends.cpu.gelu import gelu, gelu_backward
from electra_ref.backends.cpu.global_norm import clip_by_global_norm, global_norm
from electra_ref.backends.cpu.layer_norm import layer_norm, layer_norm_backward
from electra_ref.backends.cpu.softmax_cross_entropy import (
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
)
from electra_ref.rng import RandomStream


class SharedOperations:
    """The fast operations over NumPy arrays of float32, as both precisions have them."""

    def to_device(self, array: Array) -> Array:
        """Return ``array`` (any shape) itself: the host is the device."""
        return array

    def to_host(self, array: Array) -> Array:
        """Return ``array`` (any shape) itself."""
        return array

    def dropout_bits(self, stream: RandomStream, examples: int, count: int) -> DropoutBits:
        """Name ``count`` 16-bit random integers for each of ``examples`` rows of the batch."""
        return DropoutBits(stream, examples, count)

    embed = staticmethod(embed)
    embed_backward = staticmethod(embed_backward)
    layer_norm = staticmethod(layer_norm)
    layer_norm_backward = staticmethod(layer_norm_backward)
    dropout = staticmethod(dropout)
    dropout_backward = staticmethod(dropout_backward)
    dropout_add_layer_norm = staticmethod(dropout_add_layer_norm)
    dropout_add_layer_norm_backward = staticmethod(dropout_add_layer_norm_backward)
    gelu = staticmethod(gelu)
    gelu_backward = staticmethod(gelu_backward)
    gather_positions = staticmethod(gather_positions)
    gather_positions_backward = staticmethod(gather_positions_backward)
    softmax_cross_entropy = staticmethod(softmax_cross_entropy)
    softmax_cross_entropy_backward = staticmethod(softmax_cross_entropy_backward)
    binary_cross_entropy = staticmethod(binary_cross_entropy)
    binary_cross_entropy_backward = staticmethod(binary_cross_entropy_backward)
    global_norm = staticmethod(global_norm)
    clip_by_global_norm = staticmethod(clip_by_global_norm)
    adamw = staticmethod(adamw)
