"""Norm of all gradients taken as one vector, and the sum of two: the reference's ``global_norm``.

    norm = sqrt(sum of g^2)

The squares are summed over chunks of ``CHUNK`` numbers, then over the chunks in float64, so the
bits do not depend on the number of threads.

Memory traffic: g is read for the norm; for the sum both vectors are read and one is written.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Array, Float32
from electra_ref.backends.cpu.arguments import expect
from electra_ref.compilation import jit

CHUNK = 4096


def global_norm(gradients: Float32) -> Array:
    """Return the Euclidean norm () of the flat vector ``gradients`` (P,).

    Raises ValueError unless it is a float32 vector.
    """
    expect((gradients.size,), gradients)
    sums = np.empty(-(-gradients.size // CHUNK))
    _sums_of_squares(gradients, sums)
    return np.asarray(np.sqrt(sums.sum()), np.float32)


def add_gradients(total: Float32, part: Float32) -> None:
    """Add the flat vector ``part`` (P,) to ``total`` (P,), in place.

    Raises ValueError if shapes or types do not fit.
    """
    expect((total.size,), total, part)
    _add(total, part)


@jit(parallel=True)
def _sums_of_squares(gradients: Float32, sums: npt.NDArray[np.float64]) -> None:
    for chunk in numba.prange(sums.size):
        sums[chunk] = _sum_of_squares(gradients[chunk * CHUNK : (chunk + 1) * CHUNK])


@jit(fastmath={"contract", "reassoc"})
def _sum_of_squares(gradients: Float32) -> np.float32:
    total = np.float32(0.0)
    for i in range(gradients.size):
        total += gradients[i] * gradients[i]
    return np.float32(total)


@jit(parallel=True)
def _add(total: Float32, part: Float32) -> None:
    for i in numba.prange(total.size):
        total[i] += part[i]
