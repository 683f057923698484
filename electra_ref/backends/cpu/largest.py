"""The largest of many numbers, found in vector registers."""

from __future__ import annotations

import numpy as np

from electra_ref.arrays import Float32
from electra_ref.compilation import jit

LOWEST, MAGNITUDE = np.int32(-(2**31)), np.int32(2**31 - 1)


@jit()
def largest_number(x: Float32) -> np.float32:
    """Return the largest number of ``x`` (n,), which is contiguous.

    Numbers are compared as integers: their maximum does not depend on an order, so LLVM fills
    vector registers. Positive float32 are ordered as their bits are; of negative ones, all bits but
    the sign are inverted. A NaN may be returned or left out.
    """
    bits = x.view(np.int32)
    largest = LOWEST
    for i in range(bits.size):
        largest = max(largest, bits[i] ^ ((bits[i] >> np.int32(31)) & MAGNITUDE))
    return np.int32(largest ^ ((largest >> np.int32(31)) & MAGNITUDE)).view(np.float32)
