"""The operations whose products take factors rounded to bfloat16; all others are those of ``cpu``.

Parameters, activations and sums stay float32. The instructions need a processor with AVX512_BF16.
"""

from __future__ import annotations

from electra_ref.backends.cpu.bfloat16.attention import attention, attention_backward
from electra_ref.backends.cpu.bfloat16.linear import linear, linear_backward
from electra_ref.backends.cpu.bfloat16.packing import is_compiled
from electra_ref.backends.cpu.bfloat16.vocabulary_logits import (
    vocabulary_logits,
    vocabulary_logits_backward,
)
from electra_ref.backends.cpu.shared_operations import SharedOperations

__all__ = ["Bfloat16Backend", "is_compiled"]


class Bfloat16Backend(SharedOperations):
    """The fast operations, those with matrix products in bfloat16."""

    linear = staticmethod(linear)
    linear_backward = staticmethod(linear_backward)
    vocabulary_logits = staticmethod(vocabulary_logits)
    vocabulary_logits_backward = staticmethod(vocabulary_logits_backward)
    attention = staticmethod(attention)
    attention_backward = staticmethod(attention_backward)
