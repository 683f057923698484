"""Processes that talk to each other by MPI (the Message Passing Interface).

Gradients are summed as ``slices`` says. A message goes to one process: MPICH's exchange among all
also copies what stays, and takes 1.5 times as long.

Before every exchange all processes meet. While it waits, a process sleeps and Python's signal
handlers run; within a call of MPI it would keep its core busy, and no handler would run.

Source: the MPI standard 4.1, chapters 3 (messages) and 6 (collective communication).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar, cast

import numpy as np

from electra_ref.arrays import Array
from electra_ref.processes import Fold
from electra_ref.slices import Parcel, sum_slices

T = TypeVar("T")
Communicator = Any  # mpi4py's
Request = Any

# How many numbers of a vector are summed at a time. Measured with two processes on a machine and
# 14.2 million numbers: 19 ms; with 2**18 numbers 23 ms, with 2**21 or 2**22 22 ms.
PIECE = 2**20
SLICE = 2**17  # one process sums at least so many: of fewer, a message takes longer than its bytes
BUSY_SECONDS = 0.002  # of waiting without sleep
LONGEST_SLEEP = 0.01
ENDING_SECONDS = 1.0
FORWARDING_SECONDS = 0.2  # a launcher passes on what a process has written before it ends it


class MpiProcesses:
    """The processes of a communicator: see ``processes.Processes``."""

    def __init__(self, world: Communicator, local: Communicator) -> None:
        """``local`` has the processes of ``world`` on this node. All processes call this."""
        self._world, self._ending = world.Dup(), world.Dup()
        self.rank, self.size = world.Get_rank(), world.Get_size()
        self.local_rank, self.local_size = local.Get_rank(), local.Get_size()
        (self.nodes,) = self.sum_counts([self.local_rank == 0])

    def meet(self) -> None:
        """Wait until all processes are here."""
        _wait(self._world.Ibarrier())

    def sum_counts(self, counts: Sequence[int]) -> list[int]:
        """Return the sums of ``counts`` over all processes, which give equally many."""
        self.meet()
        own = np.array(counts, np.int64)
        sums = np.empty_like(own)
        self._world.Allreduce(own, sums)
        return [int(number) for number in sums]

    def gather(self, value: T) -> list[T]:
        """Return the ``value`` of every process, in the order of their ranks."""
        self.meet()
        values: list[T] = self._world.allgather(value)
        return values

    def of_first(self, make: Callable[[], T]) -> T:
        """Return what ``make`` returns in the first process; the others do not call it."""
        outcome: tuple[T | None, Exception | None] = None, None
        if self.rank == 0:
            try:
                outcome = make(), None
            except Exception as raised:  # of any kind: all processes raise it
                outcome = None, raised
        self.meet()
        value, error = self._world.bcast(outcome)
        if error is not None:
            raise error
        return cast("T", value)

    def share(self, array: Array) -> None:
        """Replace the numbers in ``array`` by those of the first process."""
        self.meet()
        self._world.Bcast(array)

    def sum_slices(
        self, vectors: Sequence[Array], counts: Sequence[int], result: Array, fold: Fold
    ) -> None:
        """Let ``result`` (P,) be the sum of the ``vectors`` (P,) of all processes."""
        sum_slices(self, vectors, counts, result, fold, slice_length(self.size))

    def exchange(self, sent: Sequence[Parcel], received: Sequence[Parcel]) -> None:
        """Send the arrays ``sent`` to processes, and fill the arrays ``received``."""
        requests = [self._world.Irecv(array, rank) for rank, array in received]
        requests += [self._world.Isend(array, rank) for rank, array in sent]
        for request in requests:
            request.Wait()

    def gather_in_place(self, whole: Array) -> None:
        """Send this process's slice of ``whole`` to all others, and receive theirs."""
        self._world.Allgather(None, whole)  # None: each has its slice in place

    def ends_together(self) -> bool:
        """Return whether all processes call this within a second."""
        return _wait(self._ending.Ibarrier(), ENDING_SECONDS)

    def abort(self, code: int) -> NoReturn:
        """End all processes at once with the exit ``code``; MPI itself says nothing."""
        sys.stderr.flush()
        time.sleep(FORWARDING_SECONDS)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        self._world.Abort(code)
        os._exit(code)


def slice_length(processes: int) -> int:
    """Return how many numbers of a piece each of the ``processes`` adds up, at most."""
    return max(PIECE // processes, SLICE)


def _wait(request: Request, limit: float = float("inf")) -> bool:
    """Wait until ``request`` is done; return False if it is not after ``limit`` seconds."""
    started = time.monotonic()
    while not request.Test():
        waited = time.monotonic() - started
        if waited > limit:
            return False
        time.sleep(0.0 if waited < BUSY_SECONDS else min(waited / 50, LONGEST_SLEEP))
    return True
