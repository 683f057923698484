"""What must be set in a process before the libraries load that take it from the environment.

Commands call ``prepare_process`` first of all. Importing this package sets nothing: a program that
uses it as a library keeps the settings it has, and may call ``prepare_process`` itself.

* OpenBLAS reads OPENBLAS_THREAD_TIMEOUT when NumPy loads it. Its workers wait for the next product
  by spinning, for 2**26 cycles unless told otherwise. On a machine with other work to do, that took
  two thirds of a step (0.17 s in place of 0.5 s, tiny preset, two cores); on a quiet one it gains
  nothing.
* Threads come from numba's ``omp`` layer where it can be loaded, from ``workqueue`` elsewhere. A
  step is a thousand short parallel loops, and to wake a sleeping worker takes 0.05 to 0.2 ms,
  longer than most of them. The workers of GNU OpenMP spin for a while before they sleep, and the
  next loop starts in 0.002 ms.
* Spinning takes the processor from everyone else, OpenBLAS's workers among them, so it must end:
  with GNU's 300,000 turns, the step of a tiny model beside four busy processes took up to ten times
  as long. ``SPIN_TURNS`` take about half a millisecond, a few times the waking that they save: of
  100 to 400 wakings in a step of ELECTRA-small 5 to 80 are left, and the step is 2 to 8 % shorter
  than with a fifth of the turns, also beside two busy processes.

Source: numba's reference manual, "The Threading Layers"; GNU libgomp's manual, "GOMP_SPINCOUNT";
Karlin, Li, Manasse and Owicki 1991, "Empirical Studies of Competitive Spinning for a Shared-Memory
Multiprocessor".
"""

from __future__ import annotations

import os
import sys

BLAS_TIMEOUT = "4"  # the least that OpenBLAS takes: 2**4 cycles
THREADS = (
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
)
LAYERS = "omp workqueue tbb"  # the first that can be loaded is taken; workqueue always can
SPIN_TURNS = "25000"


def prepare_process() -> None:
    """Set how threads wait and where they come from, unless the user has set it.

    Call it before NumPy is imported, and before the first parallel loop runs. What is set is
    inherited by the processes that this one starts.
    """
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", BLAS_TIMEOUT)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_TURNS)
    priority = os.environ.setdefault("NUMBA_THREADING_LAYER_PRIORITY", LAYERS)
    if "numba" in sys.modules:  # it has read the environment already
        sys.modules["numba"].config.THREADING_LAYER_PRIORITY = priority.split()


def limit_threads(count: int) -> None:
    """Let libraries start ``count`` threads each, unless the user has set it.

    Call it before NumPy and numba are imported.
    """
    for name in THREADS:
        os.environ.setdefault(name, str(count))


def threads_set() -> int:
    """Return how many threads numba starts, as far as the environment says; otherwise 1."""
    chosen = os.environ.get(THREADS[0], "")
    return int(chosen) if chosen.isdecimal() else 1
