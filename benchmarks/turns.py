"""Run each rival in its own process and let them take turns, one step each.

A new process for each rival keeps their memory and their threads apart. They take turns, so that
other work on the machine slows them alike and times can be compared round by round. Only one
process works at a time; the others wait at a pipe.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from benchmarks import FROM_OUTSIDE
from benchmarks.harness import CHECKOUT
from electra_ref.errors import UserError

Step = Callable[[Any], dict[str, float]]  # takes the input of a round, returns its figures
SETTLE_SECONDS = 0.1  # after a step, BLAS and OpenMP threads spin for a while before they sleep
START = "from benchmarks.turns import main; main()"  # -m would make its classes __main__'s
PREPARE = "from electra_ref.process import prepare_process; prepare_process(); "
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


class Program(NamedTuple):
    """A call ``module.function(**arguments)`` that prepares a rival and returns its ``Step``."""

    module: str
    function: str
    arguments: Mapping[str, Any]
    is_ours: bool = True  # its process is prepared as the commands of this project prepare theirs


class Turn(NamedTuple):
    """One step of one rival."""

    seconds: float
    cpu_seconds: float  # of all threads; the better figure if the machine does other work
    figures: dict[str, float]  # what the step returned
    peak_bytes: int  # largest resident memory of the process so far


class Worker:
    """The process of one rival. Raises UserError with its name if the process fails."""

    def __init__(
        self, name: str, program: Program, threads: int, patience: float | None = None
    ) -> None:
        self.name = name
        self._patience = patience  # seconds that it may take to answer; None: any
        self._connection, theirs = multiprocessing.Pipe()
        outside = {name: value for name, value in os.environ.items() if name in FROM_OUTSIDE}
        self._process = subprocess.Popen(
            [sys.executable, "-c", PREPARE * program.is_ours + START, str(theirs.fileno())],
            cwd=CHECKOUT,
            env={**outside, **dict.fromkeys(THREAD_VARIABLES, str(threads))},
            stdin=subprocess.DEVNULL,
            stdout=2,  # what a library prints must not come after our last line
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self._program = program

    def step(self, task: Any) -> Turn:
        """Let the rival take one step on ``task``; wait for its end."""
        self._send(task)
        turn: Turn = self._receive()
        return turn

    def __enter__(self) -> Worker:
        """Wait until the rival is prepared."""
        try:
            self._send(self._program)
            self._receive()
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
        self._connection.close()
        self._process.terminate()
        self._process.wait()

    def _send(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except BrokenPipeError:
            raise self._ended() from None

    def _receive(self) -> Any:
        try:
            if not self._connection.poll(self._patience):
                raise UserError(f"{self.name}: no answer after {self._patience} s; leave it out")
            answer = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._ended() from None
        if isinstance(answer, str):
            raise UserError(f"{self.name}: {answer}")
        return answer

    def _ended(self) -> UserError:
        return UserError(f"{self.name}: its process ended with exit code {self._process.wait()}")


def take_turns(
    programs: Mapping[str, Program],
    rounds: Iterable[Mapping[str, Any]],
    threads: int,
    on_round: Callable[[Sequence[Turn]], None],
    patience: float | None = None,
) -> dict[str, list[Turn]]:
    """Let the rivals take turns: in each round, one step each on the task under its name.

    The rivals are prepared one after the other. ``on_round`` is called with the turns of every
    round. Raises UserError if a rival fails, or takes more than ``patience`` seconds for a step.
    """
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(name, program, threads, patience))
            for name, program in programs.items()
        ]
        turns: dict[str, list[Turn]] = {name: [] for name in programs}
        for tasks in rounds:
            for worker in workers:
                turns[worker.name].append(worker.step(tasks[worker.name]))
                time.sleep(SETTLE_SECONDS)
            on_round([taken[-1] for taken in turns.values()])
    return turns


def serve(connection: Connection) -> None:
    """Run as the process of a rival: prepare it, then answer each task with a ``Turn``."""
    program: Program = connection.recv()
    step: Step = getattr(importlib.import_module(program.module), program.function)(
        **program.arguments
    )
    connection.send(None)
    while True:
        task = connection.recv()
        start, cpu_start = time.perf_counter(), time.process_time()
        figures = step(task)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        connection.send(Turn(seconds, cpu_seconds, figures, peak_resident_bytes()))


def peak_resident_bytes() -> int:
    """Return the largest resident memory of this process so far.

    On Linux ``ru_maxrss`` includes that of the process that started this one; VmHWM does not.
    """
    peak = status_bytes("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit if peak is None else peak


def resident_bytes() -> int:
    """Return the resident memory of this process. Raises UserError except on Linux."""
    now = status_bytes("VmRSS")
    if now is None:
        raise UserError("resident memory is read from Linux's /proc/self/status")
    return now


def status_bytes(key: str, process: int | str = "self") -> int | None:
    """Return an entry of Linux's list of a process; None on other systems, and where it ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return None


def main() -> None:
    """Serve at the pipe whose file descriptor is the only argument of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this process
    connection = Connection(int(sys.argv[1]))
    try:
        serve(connection)
    except (EOFError, ConnectionResetError):
        pass  # the parent has finished
    except UserError as error:
        connection.send(str(error))
    except Exception as error:  # a rival may fail in any way; the parent reports it in one line
        traceback.print_exc()
        connection.send(f"{type(error).__name__}: {error}".partition("\n")[0])
