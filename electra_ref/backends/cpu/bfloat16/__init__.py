"""The operations whose products take factors rounded to bfloat16; all others are those of ``cpu``.

This module is the backend that has them. Parameters, activations and sums stay float32. The
instructions need a processor with AVX512_BF16.
"""

from __future__ import annotations

from electra_ref.backends.cpu.bfloat16.attention import attention, attention_backward
from electra_ref.backends.cpu.bfloat16.linear import linear, linear_backward
from electra_ref.backends.cpu.bfloat16.packing import is_compiled
from electra_ref.backends.cpu.shared_operations import *
