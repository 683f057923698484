"""The operations of ``backends.reference``, fused and compiled for the CPU, in float32.

Each file holds one operation under the name of its formula, says what is fused and how much memory
moves, and is checked against the formula in float64 by the tests. Matrix products and everything
else run on numba's threads, and every sum is taken in an order that does not depend on how many
there are: the bits of a step are the same for any number of threads.
"""

from __future__ import annotations

from electra_ref.arrays import Array, Float32
from electra_ref.backends.cpu.adamw import adamw
from electra_ref.backends.cpu.attention import attention, attention_backward
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
from electra_ref.backends.cpu.linear import LinearCache, linear, linear_backward
from electra_ref.backends.cpu.matrix_product import Product, multiply
from electra_ref.backends.cpu.softmax_cross_entropy import (
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
)
from electra_ref.backends.cpu.vocabulary_logits import (
    VocabularyLogitsCache,
    vocabulary_logits,
    vocabulary_logits_backward,
)
from electra_ref.rng import RandomStream


class CpuBackend:
    """The fast operations over NumPy arrays of float32.

    ``product`` multiplies matrices: in float32, or with factors rounded to bfloat16.
    """

    def __init__(self, product: Product = multiply) -> None:
        self._product = product

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

    def linear(self, x: Float32, weight: Float32, bias: Float32) -> tuple[Float32, LinearCache]:
        """Map ``x`` (N, I) to (N, O) with ``weight`` (I, O) and ``bias`` (O,)."""
        return linear(x, weight, bias, self._product)

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

    def vocabulary_logits(
        self, hidden: Float32, word_embeddings: Float32, bias: Float32
    ) -> tuple[Float32, VocabularyLogitsCache]:
        """Score ``hidden`` (M, E) against ``word_embeddings`` (V, E), add ``bias`` (V,): (M, V)."""
        return vocabulary_logits(hidden, word_embeddings, bias, self._product)

    vocabulary_logits_backward = staticmethod(vocabulary_logits_backward)
    softmax_cross_entropy = staticmethod(softmax_cross_entropy)
    softmax_cross_entropy_backward = staticmethod(softmax_cross_entropy_backward)
    binary_cross_entropy = staticmethod(binary_cross_entropy)
    binary_cross_entropy_backward = staticmethod(binary_cross_entropy_backward)
    global_norm = staticmethod(global_norm)
    clip_by_global_norm = staticmethod(clip_by_global_norm)
    adamw = staticmethod(adamw)
