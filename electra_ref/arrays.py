"""NumPy and CuPy behind one name: the only module that tells them apart."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Array = npt.NDArray[Any]  # a NumPy or CuPy array; a comment beside each name gives its shape


def get_xp(*arrays: Array) -> ModuleType:
    """Return the module that owns every array, ``numpy`` or ``cupy``.

    Raises TypeError if some arrays are on the host and some on the device.
    """
    owners = {type(array).__module__.partition(".")[0] for array in arrays}
    if owners == {"numpy"}:
        return np
    if owners == {"cupy"}:
        return import_cupy()
    raise TypeError(f"arrays must all be NumPy's or all be CuPy's, got {sorted(owners)}")


def import_cupy() -> ModuleType:
    """Import CuPy; only a run on a GPU needs it. Raises ImportError if it is not installed."""
    import cupy  # noqa: PLC0415  (optional, and slow to import)

    return cupy  # type: ignore[no-any-return]  # CuPy has no types


def import_nccl() -> ModuleType:
    """Import CuPy's NCCL; only several processes on GPUs need it. Raises ImportError without it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how to install it, which the caller says
        from cupy.cuda import nccl  # noqa: PLC0415  (optional)
    if not nccl.available:
        raise ImportError("CuPy finds no library of NCCL")
    return nccl  # type: ignore[no-any-return]  # CuPy has no types


def erf(x: Array) -> Array:
    """Return the error function of ``x``, any shape, real or complex (complex on the host only)."""
    if get_xp(x) is np:
        import scipy.special  # noqa: PLC0415  (a tenth of a second that --help need not pay)

        special = scipy.special
    else:
        import cupyx.scipy.special  # noqa: PLC0415  (optional, and slow to import)

        special = cupyx.scipy.special
    y: Array = special.erf(x)
    return y


def spread_rows(x: Array, rows: Array, count: int) -> Array:
    """Return (``count``, C) with the rows of ``x`` (n, C) at ``rows`` (n,) and 0 elsewhere."""
    spread: Array = get_xp(x).zeros((count, x.shape[1]), x.dtype)
    spread[rows] = x
    return spread


def sum_rows_by_index(rows: Array, indices: Array, count: int) -> Array:
    """Return the (count, C) array whose row i is the sum of all ``rows`` (N, C) with index i.

    The rows are sorted by index (stably), and the rows of one index are summed together. The same
    input gives the same bits every time; atomic additions on a GPU would not. Rows of zeros are
    left out: they would change how the other rows are grouped, and so the last bits of the sum, and
    what padding holds would show. ``indices`` (N,) are in [0, count).
    """
    xp = get_xp(rows, indices)
    sums: Array = xp.zeros((count, rows.shape[1]), rows.dtype)
    filled = xp.flatnonzero(rows.any(axis=1))
    if filled.size:
        order = filled[xp.argsort(indices[filled], kind="stable")]
        ordered = indices[order]
        is_start = xp.concatenate([xp.ones(1, bool), ordered[1:] != ordered[:-1]])
        starts = xp.flatnonzero(is_start)
        sums[ordered[starts]] = xp.add.reduceat(rows[order], starts, axis=0)
    return sums
