"""Processes under mpiexec that take training steps when they are told to.

The first process gets a task a line on its standard input, and answers each with a line of figures
on its standard output. Between two tasks all sleep.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks import FROM_OUTSIDE
from benchmarks.electra_step import SPECIAL_TOKENS, make_batches, open_rival
from benchmarks.harness import CHECKOUT
from benchmarks.turns import THREAD_VARIABLES
from electra_ref.backends import OpenedBackend
from electra_ref.batch import Batch, MadeOnDemand
from electra_ref.config.pretraining import PretrainingConfig, resolve_config
from electra_ref.errors import UserError
from electra_ref.freed_memory import keep_freed_memory
from electra_ref.model.objectives.table import objective_of
from electra_ref.model.parameters import Gradients, ParameterSpec
from electra_ref.processes import Processes, open_processes
from electra_ref.training.pretraining.task import initial_state
from electra_ref.training.step import train_step
from electra_ref.training.summation import GradientTree

START = (
    "from electra_ref.process import prepare_process; prepare_process(); "
    "from benchmarks.ranks import main; main()"
)
STEP, SUM = "step", "sum"
PINGS = 100
Task = Callable[[], dict[str, Any]]


class Ranks:
    """Processes of a launcher. Raises UserError if they end."""

    def __init__(
        self,
        name: str,
        launcher: Sequence[str],
        threads: int,
        order: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start ``launcher`` with this program; each process has ``threads``.

        ``order`` has the arguments of ``tasks_of``.
        """
        self.name = name
        outside = {key: value for key, value in os.environ.items() if key in FROM_OUTSIDE}
        paths = os.pathsep.join([str(CHECKOUT), *filter(None, [outside.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [*launcher, sys.executable, "-c", START],
            cwd=CHECKOUT,
            env={
                **outside,
                **dict.fromkeys(THREAD_VARIABLES, str(threads)),
                "PYTHONPATH": paths,
                **(environment or {}),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._order = order

    def do(self, task: Any) -> dict[str, Any]:
        """Let the processes do a task, and return its figures."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # they have ended: there is no answer
            print(json.dumps(task), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            code = self._process.wait()
            raise UserError(f"{self.name}: the processes ended with exit code {code}")
        figures: dict[str, Any] = json.loads(answer)
        if "error" in figures:
            raise UserError(f"{self.name}: {figures['error']}")
        return figures

    def __enter__(self) -> Ranks:
        """Wait until the processes are prepared."""
        try:
            self.do(self._order)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def mpiexec() -> str:
    """Return the path of mpiexec, that of this environment if it has one. Raises UserError."""
    own = str(Path(sys.executable).parent)
    found = shutil.which("mpiexec", path=os.pathsep.join([own, os.environ.get("PATH", "")]))
    if found is None:
        raise UserError("there is no mpiexec: pip install 'electra-ref[mpi]'")
    return found


def tasks_of(
    processes: Processes, preset: str, settings: Sequence[str], precision: str, batches: int
) -> dict[str, Task]:
    """Return what the processes can do: a step each on ``batches`` in turn, or a sum."""
    config = resolve_config(preset=preset, settings=list(settings))
    opened = open_rival("cpu", precision)
    keep_freed_memory()  # as the training command does
    return {
        STEP: _steps(processes, config, opened, list(make_batches(config, batches))),
        SUM: _sums(processes, config, opened),
    }


def _steps(
    processes: Processes, config: PretrainingConfig, opened: OpenedBackend, batches: list[Batch]
) -> Task:
    objective = objective_of(config)
    model = objective.model_of(config, config, SPECIAL_TOKENS)
    state = initial_state(config, opened.backend, model, opened.dtype)

    def take() -> dict[str, Any]:
        batch = batches[state.step % len(batches)]
        rows = np.array_split(np.arange(config.batch_size), config.accumulate)

        def part(number: int) -> Batch:
            ids, segments, mask = batch
            own = rows[number]
            return Batch(ids[own], segments[own], mask[own])

        parts = MadeOnDemand(config.accumulate, part)
        processes.meet()
        start, cpu_start = time.perf_counter(), time.process_time()
        result = train_step(config, opened.backend, objective, model, state, parts, processes)
        processes.meet()
        seconds = time.perf_counter() - start
        cpu = sum(processes.gather(time.process_time() - cpu_start))
        digest = hashlib.sha256(state.parameters.vector.tobytes()).hexdigest()
        return {"seconds": seconds, "cpu_seconds": cpu, "loss": result.loss, "sha256": digest}

    return take


def _sums(processes: Processes, config: PretrainingConfig, opened: OpenedBackend) -> Task:
    """Return a task that adds vectors in this project's order, and by MPI's own function."""
    from benchmarks.network_model import parameters_of  # noqa: PLC0415  (imports this project's)

    count = parameters_of(config)
    like = ParameterSpec("all", (count,), "zeros", True)
    tree = GradientTree(opened.backend, Gradients([like], np.zeros(count, np.float32)))
    plain = np.zeros(count, np.float32)

    def add() -> dict[str, Any]:
        from mpi4py import MPI  # noqa: PLC0415  (an extra)

        world, one = MPI.COMM_WORLD, np.zeros(1, np.float32)
        tree.begin(processes.rank)
        leaf = tree.leaf()
        leaf.sum_of("all")
        tree.add(leaf)
        tree_seconds = _timed(processes, lambda: tree.total(processes.size, processes))
        plain_seconds = _timed(processes, lambda: world.Allreduce(MPI.IN_PLACE, plain))
        pings = _timed(
            processes, lambda: [world.Allreduce(MPI.IN_PLACE, one) for _ in range(PINGS)]
        )
        return {"tree": tree_seconds, "allreduce": plain_seconds, "one_number": pings / PINGS}

    return add


def _timed(processes: Processes, work: Callable[[], object]) -> float:
    """Return the seconds until all processes have done ``work``, which they begin together."""
    processes.meet()
    start = time.perf_counter()
    work()
    processes.meet()
    return time.perf_counter() - start


def main() -> None:
    """Do tasks until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    processes = open_processes()

    def next_line() -> str:
        line: str = processes.of_first(sys.stdin.readline)
        return line

    try:
        tasks = tasks_of(processes, **json.loads(next_line()))
    except UserError as error:  # the same in all
        if processes.rank == 0:
            print(json.dumps({"error": str(error)}), file=answers, flush=True)
        return
    figures: dict[str, Any] = {}
    while True:
        if processes.rank == 0:
            print(json.dumps(figures), file=answers, flush=True)
        if not (line := next_line()):
            return
        figures = tasks[json.loads(line)]()
