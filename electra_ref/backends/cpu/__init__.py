"""The operations of ``backends.reference``, fused and compiled for the CPU, in float32.

This module is the backend ``cpu``; ``bfloat16`` below it is the other one. Each file holds one
operation under the name of its formula, says what is fused and how much memory moves, and is
checked against the formula in float64 by the tests. Matrix products and everything else run on
numba's threads, and every sum is taken in an order that does not depend on how many there are: the
bits of a step are the same for any number of threads.
"""

from __future__ import annotations

from electra_ref.backends.cpu.attention import attention, attention_backward
from electra_ref.backends.cpu.linear import linear, linear_backward
from electra_ref.backends.cpu.relax_embeddings import (
    relax_embeddings,
    relax_embeddings_backward,
)
from electra_ref.backends.cpu.shared_operations import *
from electra_ref.backends.cpu.vocabulary_log_likelihood import (
    vocabulary_log_likelihood,
    vocabulary_log_likelihood_backward,
)
