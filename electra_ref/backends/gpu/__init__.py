"""The formulas on a GPU: the operations of ``backends.reference`` on CuPy arrays.

This module is the backend ``gpu``. Only where arrays come from and go to is different.
"""

from __future__ import annotations

from electra_ref import rng
from electra_ref.arrays import Array, import_cupy
from electra_ref.backends.reference.operations import *


def to_device(array: Array) -> Array:
    """Return ``array`` (NumPy, any shape) on the GPU."""
    on_device: Array = import_cupy().asarray(array)
    return on_device


def to_host(array: Array) -> Array:
    """Return ``array`` (any shape) as NumPy's."""
    on_host: Array = import_cupy().asnumpy(array)
    return on_host


def dropout_bits(stream: rng.RandomStream, examples: int, count: int) -> Array:
    """Return ``count`` 16-bit random integers for each of ``examples`` rows of the batch."""
    return to_device(rng.dropout_bits(stream, examples, count))
