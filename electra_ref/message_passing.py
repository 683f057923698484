"""Processes that talk to each other by MPI (the Message Passing Interface).

``sum_slices`` moves as many bytes as the usual ring: with K processes, each sends a slice of a Kth
to every other one, adds up the slices it got, and sends the sum to all. It adds in the order that
``fold`` decides; MPI's own sum adds in an order that depends on K. Long vectors are summed a piece
at a time, so that what is received needs little memory. All slices of a piece are of one length:
MPICH's functions for slices of any length take twice as long.

Before every exchange all processes meet. While it waits, a process sleeps and Python's signal
handlers run; within a call of MPI it would keep its core busy, and no handler would run.

Source: the MPI standard 4.1, chapter 6; Thakur, Rabenseifner and Gropp 2005, "Optimization of
Collective Communication Operations in MPICH", section 4.5.
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

T = TypeVar("T")
Communicator = Any  # mpi4py's
Request = Any

PIECE = 2**22  # numbers of a vector that are summed at a time, by few processes
SLICE = 2**16  # and the fewest that one process sums
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
        self.meet()
        piece = max(PIECE // self.size, SLICE) * self.size
        whole = result.size - result.size % self.size
        for start in range(0, whole, piece):
            part = slice(start, min(start + piece, whole))
            self._sum_piece([vector[part] for vector in vectors], counts, result[part], fold)
        if whole < result.size:
            last = self._padded(result[whole:])
            self._sum_piece([self._padded(v[whole:]) for v in vectors], counts, last, fold)
            result[whole:] = last[: result.size - whole]

    def _padded(self, rest: Array) -> Array:
        """Return the ``rest`` of a vector and zeros: a number for each process."""
        padded = np.zeros(self.size, rest.dtype)
        padded[: rest.size] = rest
        return padded

    def _sum_piece(
        self, vectors: Sequence[Array], counts: Sequence[int], result: Array, fold: Fold
    ) -> None:
        """Sum vectors whose length is a multiple of the number of processes."""
        rows = np.empty((max(counts), self.size, result.size // self.size), result.dtype)
        for number, received in enumerate(rows):
            has_one = number < len(vectors)  # otherwise what it sends is not read
            self._world.Alltoall(vectors[number] if has_one else result, received)
        parts = [rows[number, rank] for rank in range(self.size) for number in range(counts[rank])]
        fold(parts)
        result.reshape(self.size, -1)[self.rank] = parts[0]
        self._world.Allgather(None, result)  # None: each has its slice in place

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


def _wait(request: Request, limit: float = float("inf")) -> bool:
    """Wait until ``request`` is done; return False if it is not after ``limit`` seconds."""
    started = time.monotonic()
    while not request.Test():
        waited = time.monotonic() - started
        if waited > limit:
            return False
        time.sleep(0.0 if waited < BUSY_SECONDS else min(waited / 50, LONGEST_SLEEP))
    return True
