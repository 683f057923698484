"""How every compiled kernel of this project is compiled: one decorator over numba's ``njit``.

Three decisions are taken here, once:

* Kernels are cached on disk, so that only the first run on a machine pays for compilation. Where
  no cache folder can be written (a read-only installation, a container without a home), the
  kernel is compiled in memory instead.
* Threads come from numba's ``workqueue`` layer unless NUMBA_THREADING_LAYER says otherwise. The
  workers of the usual default, GNU OpenMP, keep spinning after a parallel loop, and so do those
  of OpenBLAS after a matrix product: a step that alternates between the two then takes twice as
  long. workqueue's workers sleep. It allows one parallel loop at a time, which holds here because
  a kernel keeps Python's global lock while it runs.
* Only fast-math flags that keep NaN and infinity meaningful are accepted. ``nnan`` and ``ninf``
  let the compiler assume that neither occurs; masks of -inf and checks for NaN then stop working.

Kernels must give the same integers with NUMBA_DISABLE_JIT=1, where they run as plain Python on
NumPy scalars: unsigned arithmetic must not wrap around, since NumPy warns about it.

Source: numba's reference manual, "Notes on Caching" and "The Threading Layers".
"""

from __future__ import annotations

import os
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any, TypeVar, cast

import numba

# Both places, since something else may have imported numba before, and since numba reads the
# environment again when a NUMBA_ variable changes. It matters until the first parallel loop runs.
layer = os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")
setattr(numba.config, "THREADING_LAYER", layer)  # noqa: B010  (numba's types do not know it)

F = TypeVar("F", bound=Callable[..., Any])

ACCURATE_FAST_MATH = frozenset({"contract", "nsz", "arcp", "reassoc"})


def jit(
    *,
    parallel: bool = False,
    fastmath: AbstractSet[str] = frozenset(),
    inline: bool = False,
) -> Callable[[F], F]:
    """Return a decorator that compiles a function with ``numba.njit``.

    ``parallel`` makes ``numba.prange`` loops run on numba's threads. ``fastmath`` is a set of
    LLVM's flags out of ``ACCURATE_FAST_MATH``; results then depend on the processor. ``inline``
    puts the code into every compiled caller, however long it is: a loop that calls a function
    fills no vector registers. Division by zero gives inf or NaN as in NumPy, without an exception.

    Raises ValueError for any other flag.
    """
    if refused := sorted(fastmath - ACCURATE_FAST_MATH):
        raise ValueError(f"fastmath may hold {sorted(ACCURATE_FAST_MATH)}, not {refused}")
    options: dict[str, Any] = {"parallel": parallel, "error_model": "numpy"}
    if fastmath:
        options["fastmath"] = set(fastmath)
    if inline:
        options["forceinline"] = True

    def compile_lazily(function: F) -> F:
        try:
            compiled = numba.njit(cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            compiled = numba.njit(**options)(function)
        return cast("F", compiled)

    return compile_lazily
