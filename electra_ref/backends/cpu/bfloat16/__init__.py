"""The operations whose products take factors rounded to bfloat16; all others are those of ``cpu``.

This module is the backend that has them, on processors with AVX512_BF16. Parameters, activations
and sums stay float32.
"""

from __future__ import annotations

from electra_ref.backends.cpu.bfloat16.attention import attention, attention_backward
from electra_ref.backends.cpu.bfloat16.linear import linear, linear_backward
from electra_ref.backends.cpu.bfloat16.relax_embeddings import (
    relax_embeddings,
    relax_embeddings_backward,
)
from electra_ref.backends.cpu.bfloat16.vocabulary_log_likelihood import (
    vocabulary_log_likelihood,
    vocabulary_log_likelihood_backward,
)
from electra_ref.backends.cpu.processor import has_feature
from electra_ref.backends.cpu.shared_operations import *
from electra_ref.compilation import is_interpreted


def is_compiled() -> bool:
    """Tell whether the kernels can run here; plain Python, with NUMBA_DISABLE_JIT, cannot."""
    return has_feature("avx512bf16") and not is_interpreted()
