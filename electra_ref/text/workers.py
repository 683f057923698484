"""Work in several processes: a list of tasks, and their results in the same order.

Each process is started anew (``spawn``): it shares no memory, no lock and no thread with this one.
It gets one task after the other through a pipe, and answers with what it has read so far, with a
result, or with the error that ended it. So this process can say how far the work is, and it learns
of the end of another one at once. A process whose pipe is closed ends itself: none is left behind
when this one stops or is killed. Which process does a task, and when, must not change its result.

Ctrl-C on a terminal reaches all processes. Only this one answers to it; the others block SIGINT.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple, TypeVar

from electra_ref.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
OnAmount = Callable[[int], None]  # called with what was done since last time; may raise to stop
Work = Callable[[Task, OnAmount], Result]

SECONDS_BETWEEN_REPORTS = 0.2
SECONDS_TO_END = 3.0  # for a process to notice that its pipe is closed; then it is terminated

_AMOUNT, _RESULT, _ERROR = "amount", "result", "error"


class _Process(NamedTuple):
    process: SpawnProcess
    pipe: Connection  # our end


def do_all(
    begin: Callable[[], Work[Task, Result]],
    tasks: Sequence[Task],
    workers: int,
    on_amount: OnAmount,
) -> list[Result]:
    """Return ``begin()(task, on_amount)`` for each of ``tasks``, in their order.

    ``begin`` is called once in each process, at most ``workers`` of them; it must be picklable, and
    so must tasks and results. One task, or one worker, is done in this process. ``on_amount`` is
    called in this process, several times a second, with 0 if there is nothing new. It may raise to
    stop; then all processes end.

    Raises what a task raises; of several, the error of the first task that is known by then. Raises
    UserError if a process ends without an answer.
    """
    if min(workers, len(tasks)) <= 1:
        work = begin()
        return [work(task, on_amount) for task in tasks]
    processes: list[_Process] = []
    try:
        with _without_interrupts():
            for _ in range(min(workers, len(tasks))):
                processes.append(_start(begin))
        return _collect(processes, tasks, on_amount)
    finally:
        _end(processes)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block SIGINT for the block, and for the processes that it starts, as long as they live."""
    resource_tracker.ensure_running()  # it would unblock the signal when it is started later
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(begin: Callable[[], Work[Any, Any]]) -> _Process:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(begin, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Process(process, ours)


def _collect(processes: Sequence[_Process], tasks: Sequence[Any], on_amount: OnAmount) -> list[Any]:
    results: dict[int, Any] = {}
    errors: dict[int, BaseException] = {}
    waiting = list(range(len(tasks)))[::-1]  # the first stands last
    busy: dict[Connection, tuple[_Process, int]] = {}
    for process in processes:
        _give(process, tasks, waiting, busy)
    while busy:
        amount = 0
        for pipe in connection.wait(list(busy), SECONDS_BETWEEN_REPORTS):
            process, number = busy[pipe]  # type: ignore[index]  # only connections are waited for
            kind, value = _receive(process, on_amount)
            if kind == _AMOUNT:
                amount += value
                continue
            del busy[process.pipe]
            (results if kind == _RESULT else errors)[number] = value
            if not errors:
                _give(process, tasks, waiting, busy)
        on_amount(amount)
        if errors:
            raise errors[min(errors)]
    return [results[number] for number in range(len(tasks))]


def _give(
    process: _Process,
    tasks: Sequence[Any],
    waiting: list[int],
    busy: dict[Connection, tuple[_Process, int]],
) -> None:
    """Send the next task to a process, if there is one."""
    if waiting:
        number = waiting.pop()
        busy[process.pipe] = (process, number)
        with suppress(BrokenPipeError):  # its end is noticed when it is asked for the answer
            process.pipe.send(tasks[number])


def _receive(process: _Process, on_amount: OnAmount) -> tuple[str, Any]:
    try:
        answer: tuple[str, Any] = process.pipe.recv()
        return answer
    except (EOFError, ConnectionError):
        process.process.join(SECONDS_TO_END)
        on_amount(0)  # a signal to all processes asks this one to stop, too
        code = process.process.exitcode
        how = f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        raise UserError(
            f"a process that prepares the data {how}: it may be that memory ran out; start again "
            "(what is complete is kept), with fewer --workers if memory is short"
        ) from None


def _end(processes: Sequence[_Process]) -> None:
    """Close the pipes, so that the processes end themselves; terminate those that do not."""
    for process in processes:
        process.pipe.close()
    until = time.monotonic() + SECONDS_TO_END
    for process in processes:
        process.process.join(max(0.0, until - time.monotonic()))
        if process.process.is_alive():
            process.process.terminate()
            process.process.join()


def _serve(begin: Callable[[], Work[Any, Any]], pipe: Connection) -> None:
    """Do the tasks that come through ``pipe``, until it is closed."""
    with suppress(EOFError, ConnectionError):
        report = _Report(pipe)
        work = None
        while True:
            task = pipe.recv()
            try:
                work = begin() if work is None else work
                result = work(task, report.add)
            except Exception as error:
                if not isinstance(error, UserError):  # a mistake in the program: where it happened
                    error.add_note("".join(traceback.format_exception(error)))
                pipe.send((_ERROR, error))
            else:
                report.flush()
                pipe.send((_RESULT, result))


class _Report:
    """Sends amounts, not too often."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._waiting = 0
        self._sent = time.monotonic()

    def add(self, amount: int) -> None:
        self._waiting += amount
        if time.monotonic() - self._sent >= SECONDS_BETWEEN_REPORTS:
            self.flush()

    def flush(self) -> None:
        self._pipe.send((_AMOUNT, self._waiting))
        self._waiting, self._sent = 0, time.monotonic()
