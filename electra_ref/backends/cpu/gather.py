"""The rows of the masked positions, and the gradient of picking them: the reference's ``gather``.

    y[m] = x[row[m]]
    dx[n] = sum of dy[m] over all m with row[m] = n

Memory traffic: each picked row is read and written once; backward dx is written once more.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.arguments import expect
from electra_ref.backends.reference.gather import GatherCache, gather_positions
from electra_ref.compilation import jit

__all__ = ["gather_positions", "gather_positions_backward"]  # forward, the formula only copies


def gather_positions_backward(dy: Float32, cache: GatherCache) -> Float32:
    """Return dx (N, C) for ``dy`` (B M, C).

    Raises ValueError if shapes or types do not fit.
    """
    expect((cache.rows.size, dy.shape[1]), dy)
    dx = np.zeros((cache.height, dy.shape[1]), np.float32)
    _add_rows(dy, cache.rows, dx)
    return dx


@jit()
def _add_rows(rows: Float32, indices: npt.NDArray[np.int64], sums: Float32) -> None:
    for m in range(indices.size):
        for i in range(rows.shape[1]):
            sums[indices[m], i] += rows[m, i]
