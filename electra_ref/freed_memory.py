"""Freed memory that stays with the process, so that the next step need not ask for it again.

Every operation allocates its result. GNU's allocator hands freed memory back to the system when
much of it lies at the end of the heap, or at once if it was large enough to be mapped for itself;
the system then has to clear each page again at its next first use. On a virtual machine that
takes 0.2 to 0.5 ms a megabyte, as long as the matrix product that fills it.

Source: the GNU C Library manual, "Malloc Tunable Parameters"; the environment
variables MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ do the same from the start.
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameter numbers of <malloc.h>
GIBIBYTE = 2**30
OLD_LIMIT = 2**25  # the largest MMAP_THRESHOLD that glibc before 2.35 takes on 64-bit machines


def keep_freed_memory() -> bool:
    """Keep freed memory up to 1 GiB, and blocks up to 1 GiB on the heap, for the whole process.

    An old glibc keeps blocks up to 32 MiB. Returns whether the allocator took it; others than GNU's
    have no such call and return False.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # Either call stops the threshold from adapting, so that it must not be left at its 128 KiB.
    taken = any(mallopt(MMAP_THRESHOLD, limit) == 1 for limit in (GIBIBYTE, OLD_LIMIT))
    return taken and bool(mallopt(TRIM_THRESHOLD, GIBIBYTE) == 1)
