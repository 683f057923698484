"""The checks that stand before a kernel: compiled code reads and writes wherever a shape says.

The formulas need none, since NumPy checks every array itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Array, Float32


def expect(shape: tuple[int, ...], *arrays: Array) -> None:
    """Raise ValueError unless all ``arrays`` are float32 of ``shape``."""
    for array in arrays:
        if array.shape != shape or array.dtype != np.float32:
            raise ValueError(f"expected float32 {shape}, got {array.dtype} {array.shape}")


def expect_matrix(out: Float32) -> None:
    """Raise ValueError unless ``out`` is a float32 matrix, stored by rows, to write into."""
    expect(out.shape, out)
    if out.ndim != 2 or not out.flags.c_contiguous:
        raise ValueError(f"expected a matrix stored by rows, got strides {out.strides}")
    if not out.flags.writeable:
        raise ValueError("expected an array to write into, got one that is read-only")


def expect_ids(ids: npt.NDArray[np.integer], height: int) -> None:
    """Raise IndexError for an id that is not in its table of ``height`` rows."""
    if ids.size and not 0 <= ids.min() <= ids.max() < height:
        raise IndexError(f"ids {ids.min()} to {ids.max()} in a table of {height} rows")


def is_transpose(matrix: Array) -> bool:
    """Tell whether ``matrix`` is a transposed view of a contiguous array."""
    return matrix.flags.f_contiguous and not matrix.flags.c_contiguous


def starting_sums(start: Float32 | None, shape: tuple[int, int]) -> Float32:
    """Return where the sums of a product of ``shape`` (M, N) start, twice: (2, M, N).

    ``start`` is a row (N,) for every row of the product, or a matrix (M, N); None is zero. Nothing
    is copied but a matrix whose rows are not contiguous. Kernels read the first of the two: with
    an axis of stride 0 before it, numba sees one kind of array whether rows repeat or not, and
    compiles a kernel once.

    Raises ValueError if ``start`` has another shape or type.
    """
    if start is None:
        start = np.zeros(shape[1], np.float32)
    expect(shape if start.ndim == 2 else shape[1:], start)
    return np.broadcast_to(np.ascontiguousarray(start), (2, *shape))
