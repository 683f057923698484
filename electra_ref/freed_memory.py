"""Freed memory that stays with the process, so that the next step need not ask for it again.

Every operation allocates its result. GNU's allocator returns freed memory to the system when much
of it lies at the end of the heap, or immediately if the block was so large that it had a mapping of
its own. The system then has to clear each page again before the next use. On a virtual machine this
takes 0.2 to 0.5 ms a megabyte, as long as the matrix product that fills it.

Source: the GNU C Library manual, "Malloc Tunable Parameters". The environment variables
MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ do the same from the start of a process.
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameter numbers of <malloc.h>
GIBIBYTE = 2**30
OLD_LIMIT = 2**25  # the largest MMAP_THRESHOLD that glibc before 2.35 takes on 64-bit machines


def keep_freed_memory() -> bool:
    """Keep freed memory up to 1 GiB, and blocks up to 1 GiB on the heap, for the whole process.

    An old glibc keeps blocks up to 32 MiB. Return whether the allocator accepted this; only GNU's
    has such a call.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # Each of these calls stops the mapping threshold from adapting: it must not stay at 128 KiB.
    taken = any(mallopt(MMAP_THRESHOLD, limit) == 1 for limit in (GIBIBYTE, OLD_LIMIT))
    return taken and bool(mallopt(TRIM_THRESHOLD, GIBIBYTE) == 1)
