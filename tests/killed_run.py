"""A short run that is killed with SIGKILL, once at each of its calls that change the disk.

``python -m tests.killed_run FOLDER`` starts run ``k`` in ``FOLDER/run-<k>`` and kills it at call
``k``, until one run reaches its end. ``FOLDER/saved-<k>`` holds the steps whose save had returned.
This is a process of its own because fork() is safe only without other threads.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np

from electra_ref.arrays import Array
from electra_ref.training.checkpoint import save_checkpoint
from electra_ref.training.records import RecordFile
from electra_ref.training.run_directory import RunDirectory
from tests.file_system_calls import kill_at, watching

SAVED_STEPS = (10, 20, 30, 30)  # three saves rotate one out with keep = 2; the fourth replaces
CONFIG = "steps = 30\n"


def tensors_at(step: int) -> dict[str, dict[str, Array]]:
    """Return what the run has in memory at ``step``."""
    weights = np.arange(6, dtype=np.float32).reshape(2, 3) + step
    return {"model": {"weights": weights}, "optimizer": {"m": weights / 2, "v": weights**2}}


def run_to_the_end(path: Path, saved: Path) -> None:
    """Do the part of a trainer that touches the disk."""
    with (
        RunDirectory.create(path, CONFIG, {"python": "3"}) as run,
        RecordFile(run.metrics) as metrics,
    ):
        for number, step in enumerate(SAVED_STEPS):
            for logged in (step - 5, step):
                if number < 3:
                    metrics.append({"step": logged, "loss": 1 / logged})
            metrics.sync()
            save_checkpoint(run.checkpoints, step, tensors_at(step), {"number": number}, keep=2)
            with saved.open("a") as stream:  # the test's own notebook: open() is not watched
                stream.write(f"{step}\n")


def live_until(number: int, folder: Path) -> bool:
    """Fork a run that dies at its call ``number``; return whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            with watching(kill_at(number, lambda: os.kill(os.getpid(), signal.SIGKILL))):
                run_to_the_end(folder / f"run-{number}", folder / f"saved-{number}")
            os._exit(0)
        finally:
            os._exit(1)  # only an exception leads here: this child must not go on as its parent
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"run {number} failed by itself")
    return False


def main() -> None:
    """Kill run after run, each one call later."""
    folder, number = Path(sys.argv[1]), 0
    while live_until(number, folder):
        number += 1


if __name__ == "__main__":
    main()
