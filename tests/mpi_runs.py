"""Starts commands in several processes by mpiexec; the tests that do are skipped without MPI.

pip install -e '.[test,mpi]'
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import electra_ref
from electra_ref.training.checkpoint import load_newest_checkpoint
from electra_ref.training.records import read_records

SECONDS = 120  # after which a command that hangs is ended
ROOT = str(Path(electra_ref.__file__).parents[1])


@functools.cache
def launcher() -> str | None:
    """Return the path of mpiexec: that of this environment, or the first one there is."""
    own = str(Path(sys.executable).parent)
    return shutil.which("mpiexec", path=os.pathsep.join([own, os.environ.get("PATH", "")]))


@functools.cache
def why_no_mpi() -> str | None:
    """Return why no command can be started in several processes, None if it can."""
    if launcher() is None:
        return "there is no mpiexec (extra: mpi)"
    count = "import sys; from mpi4py import MPI; sys.exit(10 * (MPI.COMM_WORLD.Get_size() != 2))"
    done = run_mpi(2, "-c", count)
    if done.returncode == 10:
        return f"{launcher()} belongs to another MPI than mpi4py"
    if done.returncode != 0:
        return f"mpi4py cannot be used (extra: mpi): {done.stderr.strip().splitlines()[-1:]}"
    return None


def need_mpi() -> None:
    """Skip a test where there is no MPI, and say why."""
    if (missing := why_no_mpi()) is not None:
        pytest.skip(f"no MPI: {missing}")


def start_mpi(size: int, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start Python with ``arguments`` in ``size`` processes, each with one thread."""
    threads = dict.fromkeys(("NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return subprocess.Popen(
        [str(launcher()), "-n", str(size), sys.executable, *arguments],
        env={**os.environ, **threads, "PYTHONPATH": ROOT, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C at the tests is not for it
    )


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Return what ``process`` has left when it ends; a command that hangs is an error."""
    try:
        output, errors = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def run_mpi(size: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with ``arguments`` in ``size`` processes."""
    return finish(start_mpi(size, *arguments, **environment))


def run_one(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with ``arguments`` in one process, without a launcher."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ROOT, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def hashes_of(run: Path) -> dict[str, Any]:
    """Return the step of a run, and the SHA-256 of its tensors, metrics without times, samples.

    Evaluations at other steps than every fifth are left out: a run closes with one where it is
    stopped.
    """
    checkpoint = load_newest_checkpoint(run / "checkpoints", warn=pytest.fail)
    tensors = hashlib.sha256()
    for group in sorted(checkpoint.groups):
        for name in sorted(checkpoint.groups[group]):
            tensors.update(name.encode() + checkpoint.groups[group][name].tobytes())
    metrics = [
        {key: value for key, value in record.items() if key != "tokens_per_second"}
        for record in read_records(run / "metrics.jsonl")
        if record["split"] == "training" or record["step"] % 5 == 0
    ]
    samples = [one for one in read_records(run / "samples.jsonl") if one["step"] % 5 == 0]
    assert metrics
    assert samples
    return {
        "step": checkpoint.step,
        "tensors": tensors.hexdigest(),
        "metrics": hashlib.sha256(json.dumps(metrics).encode()).hexdigest(),
        "samples": hashlib.sha256(json.dumps(samples).encode()).hexdigest(),
    }
