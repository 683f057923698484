"""Run functions in forked processes, a few at a time: see ``mutant_campaign``."""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

AT_A_TIME = 2


def run_jobs(jobs: Mapping[str, Callable[[Path], T]]) -> Iterator[tuple[str, T | None]]:
    """Yield the name and the result of each job, as they end; None for one that was killed.

    A job is given a folder of its own, which is removed afterwards, and so are the processes that
    the job left behind. Nothing of what a job prints is shown.
    """
    waiting = iter(jobs.items())
    running: dict[
        object, tuple[str, Connection, BaseProcess, tempfile.TemporaryDirectory[str]]
    ] = {}
    gc.freeze()  # a collection in a child would touch, and thereby copy, all memory
    try:
        while True:
            for name, job in itertools.islice(waiting, AT_A_TIME - len(running)):
                folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
                connection, process = _start(job, Path(folder.name))
                running[connection] = name, connection, process, folder
            if not running:
                return
            for ready in wait([connection for _, connection, _, _ in running.values()]):
                name, connection, process, folder = running.pop(ready)
                result: T | None = None
                with contextlib.suppress(EOFError):  # the process was killed
                    result = connection.recv()
                _end(process)
                folder.cleanup()
                yield name, result
    finally:
        for _, _, process, folder in running.values():
            _end(process)
            folder.cleanup()


def _start(job: Callable[[Path], T], folder: Path) -> tuple[Connection, BaseProcess]:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(job, folder, sender))
    process.start()
    sender.close()
    return receiver, process


def _run(job: Callable[[Path], T], folder: Path, sender: Connection) -> None:
    os.setsid()  # what it starts can be ended with it
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    sender.send(job(folder))
    os._exit(0)  # without waiting for anyone


def _end(process: BaseProcess) -> None:
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
