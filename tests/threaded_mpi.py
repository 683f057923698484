"""Several processes as threads of one, which talk by as much of mpi4py as the package uses.

Only one of the threads runs at a time: the others wait for it in a call of a communicator. So
kernels that must not run in two threads at once do not.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from electra_ref.arrays import Array
from electra_ref.message_passing import MpiProcesses

T = TypeVar("T")
PATIENCE = 60.0  # seconds, after which threads that wait for each other are an error


class LeftAloneError(Exception):
    """Another thread has failed."""


class Shared:
    """What the threads of one communicator have in common."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.turn = threading.Condition()  # whoever holds it runs
        self.given: dict[tuple[str, int], dict[int, Any]] = {}  # by communicator and its call
        self.has_failed = False

    def wait_for(self, is_so: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        """Let the others run until ``is_so``; return False if it is not in time."""
        self.turn.notify_all()
        done = self.turn.wait_for(lambda: self.has_failed or is_so(), seconds)
        if self.has_failed:
            raise LeftAloneError
        return done


class Request:
    """An Ibarrier."""

    def __init__(self, shared: Shared, arrived: dict[int, Any]) -> None:
        self._shared, self._arrived = shared, arrived

    def Test(self) -> bool:  # noqa: N802  (mpi4py's name)
        return self._shared.wait_for(lambda: len(self._arrived) == self._shared.size, 0.2)


class Communicator:
    """The calls of mpi4py's."""

    def __init__(self, shared: Shared, rank: int, name: str = "world") -> None:
        self._shared, self._rank, self._name = shared, rank, name
        self._calls = self._copies = 0

    def Get_rank(self) -> int:  # noqa: N802
        return self._rank

    def Get_size(self) -> int:  # noqa: N802
        return self._shared.size

    def Dup(self) -> Communicator:  # noqa: N802
        self._copies += 1
        return Communicator(self._shared, self._rank, f"{self._name}-{self._copies}")

    def _give(self, what: Any) -> dict[int, Any]:
        self._calls += 1
        given = self._shared.given.setdefault((self._name, self._calls), {})
        given[self._rank] = what
        return given

    def _exchange(self, call: str, what: Any) -> list[Any]:
        """Return what all threads give; they must all do the same ``call``."""
        given = self._give((call, copy.deepcopy(what)))
        if not self._shared.wait_for(lambda: len(given) == self._shared.size):
            raise TimeoutError(f"{call} waits for others: {given}")
        calls = {one for one, _ in given.values()}
        assert calls == {call}, calls
        return [copy.deepcopy(given[rank][1]) for rank in range(self._shared.size)]

    def Ibarrier(self) -> Request:  # noqa: N802
        return Request(self._shared, self._give("barrier"))

    def allgather(self, value: T) -> list[T]:
        return self._exchange("allgather", value)

    def bcast(self, value: T) -> T:
        of_first: T = self._exchange("bcast", value)[0]
        return of_first

    def Bcast(self, array: Array) -> None:  # noqa: N802
        array[...] = self._exchange("Bcast", array)[0]

    def Allreduce(self, own: Array, sums: Array) -> None:  # noqa: N802
        arrays = self._exchange("Allreduce", own)
        assert len({array.shape for array in arrays}) == 1
        sums[...] = sum(arrays)

    def Alltoall(self, sent: Array, received: Array) -> None:  # noqa: N802
        size = self._shared.size
        parts = [array.reshape(size, -1) for array in self._exchange("Alltoall", sent)]
        assert len({part.shape for part in parts}) == 1
        received.reshape(size, -1)[...] = [part[self._rank] for part in parts]

    def Allgather(self, sent: None, array: Array) -> None:  # noqa: N802
        assert sent is None  # each has its slice in place
        rows = array.reshape(self._shared.size, -1)
        rows[...] = self._exchange("Allgather", rows[self._rank])


def in_processes(size: int, work: Callable[[MpiProcesses], T], nodes: int = 1) -> list[T]:
    """Return what ``work`` returns in each of ``size`` processes, spread evenly over ``nodes``.

    Raises what one of them raises.
    """
    shared = Shared(size)
    on_node = size // nodes
    of_nodes = [Shared(on_node) for _ in range(nodes)]
    for of_node in of_nodes:
        of_node.turn = shared.turn
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}

    def run(rank: int) -> None:
        with shared.turn:
            try:
                node, place = divmod(rank, on_node)
                local = Communicator(of_nodes[node], place, "local")
                results[rank] = work(MpiProcesses(Communicator(shared, rank), local))
            except BaseException as error:
                errors[rank] = error
                for one in (shared, *of_nodes):
                    one.has_failed = True
            shared.turn.notify_all()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    own = [error for error in errors.values() if not isinstance(error, LeftAloneError)]
    for error in own or errors.values():
        raise error
    return [results[rank] for rank in range(size)]
