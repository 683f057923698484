"""The only module that knows NumPy and CuPy are two libraries."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]  # a NumPy or CuPy array; shapes stand in comments beside each name


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
    """Import CuPy; only a run on a GPU ever pays for it. Raises ImportError where it is absent."""
    import cupy  # noqa: PLC0415  (optional, and slow to import)

    return cupy  # type: ignore[no-any-return]
