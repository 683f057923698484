"""How every compiled kernel of this project is compiled: one decorator over numba's ``njit``.

Three decisions are taken here, once:

* Kernels are cached on disk, so that only the first run on a machine pays for compilation (see
  ``kernel_cache``). Where no cache folder can be written (a read-only installation, a container
  without a home), the kernel is compiled in memory instead.
* Threads come from numba's ``omp`` layer where it can be loaded, from ``workqueue`` elsewhere. A
  step is a thousand short parallel loops, and to wake a sleeping worker takes 0.05 to 0.2 ms,
  longer than most of them. The workers of GNU OpenMP spin for a while before they sleep, and the
  next loop starts in 0.002 ms. Spinning takes the processor from everyone else, OpenBLAS's workers
  among them, so it must end: with GNU's 300,000 turns the step of a tiny model beside four busy
  processes took up to ten times as long. ``SPIN_TURNS`` take about half a millisecond, a few
  times the waking they save: of 100 to 400 wakings a step of ELECTRA-small 5 to 80 are left, and
  the step is 2 to 8 % shorter than with a fifth of the turns, also beside two busy processes.
* Only fast-math flags that keep NaN and infinity meaningful are accepted. ``nnan`` and ``ninf``
  let the compiler assume that neither occurs; masks of -inf and checks for NaN then stop working.

Kernels must give the same integers with NUMBA_DISABLE_JIT=1, where they run as plain Python on
NumPy scalars: unsigned arithmetic must not wrap around, since NumPy warns about it.

Source: numba's reference manual, "Notes on Caching" and "The Threading Layers"; Karlin, Li, Manasse
and Owicki 1991, "Empirical Studies of Competitive Spinning for a Shared-Memory Multiprocessor".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numba
from numba.core import event as _event
from numba.extending import is_jitted

from electra_ref.kernel_cache import KernelCache

event: Any = _event  # numba types it in part only

LAYERS = "omp workqueue tbb"  # the first that can be loaded is taken; workqueue always can
SPIN_TURNS = "25000"

# All this matters until the first parallel loop runs. The priority is set in both places, since
# something else may have imported numba before, and since numba reads the environment again when
# a NUMBA_ variable changes.
priority = os.environ.setdefault("NUMBA_THREADING_LAYER_PRIORITY", LAYERS)
setattr(numba.config, "THREADING_LAYER_PRIORITY", priority.split())  # noqa: B010  (untyped)
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_TURNS)

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
        """Tell, then have nothing left to tell: numba compiles from within a compilation."""
        tell, self._tell = self._tell, None
        if tell is not None:
            tell()

    def on_end(self, _event: Any) -> None:
        """Do nothing."""
