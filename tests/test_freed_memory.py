"""Memory that one step frees is reused by the next."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from electra_ref import freed_memory

ROOT = Path(__file__).parents[1]
FAULTS = """
import resource, sys
import numpy as np
from electra_ref.freed_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    results = [np.ones(200_000, np.float32) for _ in range(40)]  # 32 MB in all
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(argument: str) -> int:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    result = subprocess.run(
        [sys.executable, "-c", FAULTS, argument],
        env={**inherited, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt") or sys.platform != "linux",
    reason="not GNU's allocator",
)
def test_a_step_like_the_last_takes_no_new_pages() -> None:
    """40,000 pages of 4 KiB are filled; without the call most are asked for again."""
    assert 10 * count_faults("keep") < count_faults("default")


def test_an_old_glibc_gets_the_limit_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    thresholds: dict[int, int] = {}

    class Library:
        def mallopt(self, number: int, value: int) -> int:
            if number == freed_memory.MMAP_THRESHOLD and value > 2**25:
                return 0
            thresholds[number] = value
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Library())
    assert freed_memory.keep_freed_memory()
    assert thresholds == {
        freed_memory.MMAP_THRESHOLD: 2**25,
        freed_memory.TRIM_THRESHOLD: 2**30,
    }


def test_another_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert not freed_memory.keep_freed_memory()
