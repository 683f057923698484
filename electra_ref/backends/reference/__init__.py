"""The formulas: every operation and its derivative, written to be read and to be trusted.

Each file holds one operation as a pair of pure functions over NumPy or CuPy arrays of any float
type; complex128 passes through unchanged, which is what the complex-step proof rests on. Nothing
here casts on its own, and nothing writes into an argument but the optimizer and the clipping.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from electra_ref import rng
from electra_ref.arrays import Array
from electra_ref.backends.reference.adamw import adamw
from electra_ref.backends.reference.attention import attention, attention_backward
from electra_ref.backends.reference.binary_cross_entropy import (
    binary_cross_entropy,
    binary_cross_entropy_backward,
)
from electra_ref.backends.reference.dropout import dropout, dropout_backward
from electra_ref.backends.reference.dropout_add_layer_norm import (
    dropout_add_layer_norm,
    dropout_add_layer_norm_backward,
)
from electra_ref.backends.reference.embedding import embed, embed_backward
from electra_ref.backends.reference.gather import gather_positions, gather_positions_backward
from electra_ref.backends.reference.gelu import gelu, gelu_backward
from electra_ref.backends.reference.global_norm import clip_by_global_norm, global_norm
from electra_ref.backends.reference.layer_norm import layer_norm, layer_norm_backward
from electra_ref.backends.reference.linear import linear, linear_backward
from electra_ref.backends.reference.softmax_cross_entropy import (
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
)
from electra_ref.backends.reference.vocabulary_logits import (
    vocabulary_logits,
    vocabulary_logits_backward,
)


class ReferenceBackend:
    """The formulas, over the arrays of one library: ``numpy`` or ``cupy``."""

    def __init__(self, xp: ModuleType = np) -> None:
        self._xp = xp

    def to_device(self, array: Array) -> Array:
        """Return ``array`` (NumPy, any shape) where this backend computes; no copy on the host."""
        on_device: Array = self._xp.asarray(array)
        return on_device

    def to_host(self, array: Array) -> Array:
        """Return ``array`` (any shape) as NumPy's; no copy on the host."""
        return array if self._xp is np else self._xp.asnumpy(array)

    def dropout_bits(self, stream: rng.RandomStream, examples: int, count: int) -> Array:
        """Return ``count`` 16-bit random integers for each of ``examples`` rows of the batch."""
        return self.to_device(rng.dropout_bits(stream, examples, count))

    embed = staticmethod(embed)
    embed_backward = staticmethod(embed_backward)
    linear = staticmethod(linear)
    linear_backward = staticmethod(linear_backward)
    layer_norm = staticmethod(layer_norm)
    layer_norm_backward = staticmethod(layer_norm_backward)
    dropout = staticmethod(dropout)
    dropout_backward = staticmethod(dropout_backward)
    dropout_add_layer_norm = staticmethod(dropout_add_layer_norm)
    dropout_add_layer_norm_backward = staticmethod(dropout_add_layer_norm_backward)
    attention = staticmethod(attention)
    attention_backward = staticmethod(attention_backward)
    gelu = staticmethod(gelu)
    gelu_backward = staticmethod(gelu_backward)
    gather_positions = staticmethod(gather_positions)
    gather_positions_backward = staticmethod(gather_positions_backward)
    vocabulary_logits = staticmethod(vocabulary_logits)
    vocabulary_logits_backward = staticmethod(vocabulary_logits_backward)
    softmax_cross_entropy = staticmethod(softmax_cross_entropy)
    softmax_cross_entropy_backward = staticmethod(softmax_cross_entropy_backward)
    binary_cross_entropy = staticmethod(binary_cross_entropy)
    binary_cross_entropy_backward = staticmethod(binary_cross_entropy_backward)
    global_norm = staticmethod(global_norm)
    clip_by_global_norm = staticmethod(clip_by_global_norm)
    adamw = staticmethod(adamw)
