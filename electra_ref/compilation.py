"""How every compiled kernel of this project is compiled: one decorator over numba's ``njit``.

Two decisions are taken here, once:

* Kernels are cached on disk, so that only the first run that needs them pays for compilation (see
  ``kernel_cache``). Where no cache folder can be written (a read-only installation, a container
  without a home), the kernel is compiled in memory instead.
* Only fast-math flags that keep NaN and infinity meaningful are accepted. ``nnan`` and ``ninf``
  let the compiler assume that neither occurs; masks of -inf and checks for NaN then stop working.

Kernels must give the same integers with NUMBA_DISABLE_JIT=1, where they run as plain Python on
NumPy scalars: unsigned arithmetic must not wrap around, since NumPy warns about it.

Source: numba's reference manual, "Notes on Caching"; see ``process`` for the threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numba
from numba.core import event as _event
from numba.extending import is_jitted

from electra_ref.kernel_cache import KernelCache

event: Any = _event  # numba types it in part only

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
        compiled = numba.njit(**options)(function)
        if is_jitted(compiled):  # not with NUMBA_DISABLE_JIT
            try:
                cast("Any", compiled)._cache = KernelCache(function)
            except RuntimeError as error:
                if "cannot cache" not in str(error):
                    raise
        return cast("F", compiled)

    return compile_lazily


def is_interpreted() -> bool:
    """Tell whether NUMBA_DISABLE_JIT makes kernels plain Python."""
    return bool(getattr(numba.config, "DISABLE_JIT"))  # noqa: B009  (numba's types lack it)


@contextmanager
def before_first_compilation(tell: Callable[[], None]) -> Iterator[None]:
    """Call ``tell`` when a kernel is compiled that the cache does not have, the first time only."""
    listener = _Once(tell)
    with event.install_listener("numba:compile", listener):
        yield


class _Once(event.Listener):  # type: ignore[misc]
    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell: Callable[[], None] | None = tell

    def on_start(self, _event: Any) -> None:
        """Tell the first time only: numba compiles a kernel within the compilation of another."""
        tell, self._tell = self._tell, None
        if tell is not None:
            tell()

    def on_end(self, _event: Any) -> None:
        """Do nothing."""
