"""Run commands of this project side by side, one thread each; keep what they print in files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import CHECKOUT
from benchmarks.turns import THREAD_VARIABLES
from electra_ref.errors import UserError


class Job(NamedTuple):
    """Work that raises UserError if it fails."""

    name: str
    work: Callable[[], None]


def run_jobs(jobs: Sequence[Job], at_a_time: int) -> list[str]:
    """Do ``jobs``, in their order, ``at_a_time`` of them; return one line for each that failed.

    If this process is interrupted, the jobs that have not begun do not begin, and it waits for the
    others: a terminal interrupts their commands, too, and these save what they have.
    """
    failures: list[str] = []
    with ThreadPoolExecutor(at_a_time) as pool:
        futures = {pool.submit(job.work): job for job in jobs}
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                name = futures[future].name
                if (error := future.exception()) is not None:
                    failures.append(f"{name}: {error}")
                ended = "ended" if error is None else "failed"
                print(f"{number} of {len(jobs)}: {name}, {ended}", file=sys.stderr)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


def run_module(arguments: Sequence[str], log: Path) -> None:
    """Run ``python -m`` with ``arguments`` on one thread, and append to ``log`` what it prints.

    Raises UserError if it fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as output:
        code = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=CHECKOUT,
            env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if code:
        raise UserError(f"{arguments[0]} ended with exit code {code}; see {log}")
