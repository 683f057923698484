"""The sum of long vectors among processes, a slice in each: what MPI and NCCL share.

A vector is summed a piece at a time, so that what is received needs little memory. A piece has a
slice for each of the K processes, all of one length. Each process sends every other one its slice
of all its own vectors, adds up what it has of its own slice, and sends the sum to all. So it sends
(K - 1) / K of each vector and as much of the sum, as the usual ring does for one vector. Of the
few numbers that are left where the length is no multiple of K, each process sums all.

The parts of a slice stand in the order of the ranks, whenever they arrive, and ``fold`` decides in
which order they are added. MPI and NCCL have sums of their own, which add in an order that depends
on K; they are not used.

Source: Thakur, Rabenseifner and Gropp 2005, "Optimization of Collective Communication Operations in
MPICH", section 4.4 (reduce-scatter by pairwise exchange), 4.5 (and then allgather).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from electra_ref.arrays import Array, get_xp
from electra_ref.processes import Fold

Parcel = tuple[int, Array]  # the rank of another process, and what it gets or sends


class Connection(Protocol):
    """What moves numbers among the processes."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def size(self) -> int:
        """How many processes there are."""

    def meet(self) -> None:
        """Wait until all processes are here."""

    def exchange(self, sent: Sequence[Parcel], received: Sequence[Parcel]) -> None:
        """Send the arrays ``sent``, and fill the arrays ``received``; all at the same time.

        What one process sends to another one arrives in the order of ``sent``.
        """

    def gather_in_place(self, whole: Array) -> None:
        """Send this process's slice of ``whole`` to all others, and receive theirs in place."""


def pieces_of(numbers: int, processes: int, longest: int) -> Iterator[list[slice]]:
    """Yield for each piece of a vector which slice every process adds up.

    The slices have at most ``longest`` numbers. Of a rest all processes have the same slice.
    """
    whole = numbers - numbers % processes
    for start in range(0, whole, longest * processes):
        length = min(longest, (whole - start) // processes)
        stop = start + length * processes
        yield [slice(first, first + length) for first in range(start, stop, length)]
    if whole < numbers:
        yield [slice(whole, numbers)] * processes


def sum_slices(
    connection: Connection,
    vectors: Sequence[Array],
    counts: Sequence[int],
    result: Array,
    fold: Fold,
    longest: int,
) -> None:
    """Let ``result`` (P,) be the sum of the ``vectors`` (P,) of all processes.

    See ``processes.Processes.sum_slices``; ``longest`` is that of ``pieces_of``.
    """
    connection.meet()  # here signal handlers run; while numbers are exchanged none would
    for slices in pieces_of(result.size, connection.size, longest):
        _add_up(connection, vectors, counts, slices, result, fold)
        first, last = slices[0], slices[-1]
        if first != last:
            connection.gather_in_place(result[first.start : last.stop])


def _add_up(
    connection: Connection,
    vectors: Sequence[Array],
    counts: Sequence[int],
    slices: Sequence[slice],
    result: Array,
    fold: Fold,
) -> None:
    """Let one of the ``slices`` of ``result``, that of this process, be the sum."""
    here, size = connection.rank, connection.size
    own = slices[here]
    others = [(here + step) % size for step in range(1, size)]  # not all to one at the same time
    rows = iter(get_xp(result).empty((sum(counts) - counts[here], result[own].size), result.dtype))
    parts = [
        [vector[own] for vector in vectors] if rank == here else [next(rows) for _ in range(count)]
        for rank, count in enumerate(counts)
    ]
    connection.exchange(
        [(rank, vector[slices[rank]]) for rank in others for vector in vectors],
        [(rank, part) for rank in reversed(others) for part in parts[rank]],
    )
    in_order = [part for each in parts for part in each]
    fold(in_order)
    result[own] = in_order[0]
