"""The formulas under the names of the protocol, for NumPy and for CuPy arrays."""

from __future__ import annotations

from electra_ref.backends.reference.adamw import adamw
from electra_ref.backends.reference.attention import attention, attention_backward
from electra_ref.backends.reference.binary_cross_entropy import (
    binary_cross_entropy,
    binary_cross_entropy_backward,
)
from electra_ref.backends.reference.copy_gate_cross_entropy import (
    copy_gate_cross_entropy,
    copy_gate_cross_entropy_backward,
)
from electra_ref.backends.reference.dropout import bits_of_rows, dropout, dropout_backward
from electra_ref.backends.reference.dropout_add_layer_norm import (
    dropout_add_layer_norm,
    dropout_add_layer_norm_backward,
)
from electra_ref.backends.reference.embedding import embed, embed_backward
from electra_ref.backends.reference.gather import gather_positions, gather_positions_backward
from electra_ref.backends.reference.gelu import gelu, gelu_backward
from electra_ref.backends.reference.global_norm import add_gradients, global_norm
from electra_ref.backends.reference.layer_norm import layer_norm, layer_norm_backward
from electra_ref.backends.reference.linear import linear, linear_backward
from electra_ref.backends.reference.relax_embeddings import (
    relax_embeddings,
    relax_embeddings_backward,
)
from electra_ref.backends.reference.softmax_cross_entropy import (
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
)
from electra_ref.backends.reference.vocabulary_log_likelihood import (
    vocabulary_log_likelihood,
    vocabulary_log_likelihood_backward,
)
