"""Norm of all gradients taken as one vector, and clipping to it: the reference's ``global_norm``.

    norm = sqrt(sum of g^2),   g <- g * limit / max(norm, limit)

The squares are summed over chunks of ``CHUNK`` numbers, then over the chunks in float64, so the
bits do not depend on the number of threads.

Memory traffic: g is read for the norm; clipping reads and writes it, if there is anything to clip.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Array, Float32
from electra_ref.compilation import jit

CHUNK = 4096


def global_norm(gradients: Float32) -> Array:
    """Return the Euclidean norm () of the flat vector ``gradients`` (P,)."""
    sums = np.empty(-(-gradients.size // CHUNK))
    _sums_of_squares(gradients, sums)
    return np.asarray(np.sqrt(sums.sum()), np.float32)


def clip_by_global_norm(gradients: Float32, norm: Array, limit: float) -> None:
    """Scale ``gradients`` (P,) in place so that their ``norm`` () is at most ``limit``."""
    if not norm <= limit:  # NaN is multiplied through, as in the formula
        _scale(gradients, np.float32(limit / norm))


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
def _scale(gradients: Float32, factor: np.float32) -> None:
    for i in numba.prange(gradients.size):
        gradients[i] *= factor
