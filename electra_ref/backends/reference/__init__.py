"""The formulas: every operation and its derivative, written to be read and to be trusted.

Each file holds one operation as a pair of pure functions over NumPy or CuPy arrays of any float
type; complex128 passes through unchanged, as the complex-step proof needs it. Nothing here casts
on its own. This module is the backend ``reference``, for NumPy arrays; ``backends.gpu`` has the
same operations for CuPy arrays.
"""

from __future__ import annotations

import numpy as np

from electra_ref import rng
from electra_ref.arrays import Array
from electra_ref.backends.reference.operations import *


def to_device(array: Array) -> Array:
    """Return ``array`` (NumPy, any shape) itself: the host is the device."""
    return np.asarray(array)


def to_host(array: Array) -> Array:
    """Return ``array`` (any shape) itself."""
    return array


def dropout_bits(stream: rng.RandomStream, examples: int, count: int) -> Array:
    """Return ``count`` 16-bit random integers for each of ``examples`` rows of the batch."""
    return rng.dropout_bits(stream, examples, count)
