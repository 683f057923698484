"""The check that stands before a kernel: compiled code reads wherever a shape says.

The formulas need none, since NumPy looks at every array itself.
"""

from __future__ import annotations

import numpy as np

from electra_ref.arrays import Array


def expect(shape: tuple[int, ...], *arrays: Array) -> None:
    """Raise ValueError unless all ``arrays`` are float32 of ``shape``."""
    for array in arrays:
        if array.shape != shape or array.dtype != np.float32:
            raise ValueError(f"expected float32 {shape}, got {array.dtype} {array.shape}")
