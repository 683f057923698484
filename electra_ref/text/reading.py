"""How data are read. It changes how long that takes, not what comes out."""

from __future__ import annotations

import os
from typing import NamedTuple


class Reading(NamedTuple):
    """Options of reading a corpus."""

    workers: int = 1  # processes that tokenize, at most
    verify: bool = False  # compare every byte in the cache with its SHA-256, and hash every file


def usable_cores() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


ONE_PROCESS = Reading()
