"""Several processes as threads of one, which talk by as much of mpi4py as the package uses.

Only one of the threads runs at a time: the others wait for it in a call of a communicator. So
kernels that must not run in two threads at once do not.
"""

from __future__ import annotations

import copy
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from electra_ref.arrays import Array
from electra_ref.message_passing import MpiProcesses

T = TypeVar("T")
PATIENCE = 60.0  # seconds, after which threads that wait for each other are an error
LONGEST_BARRIER = 60.0


class LeftAloneError(Exception):
    """Another thread has failed."""


class Shared:
    """What the threads of one communicator have in common."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.turn = threading.Condition()  # whoever holds it runs
        self.given: dict[tuple[str, int], dict[int, Any]] = {}  # by communicator and its call
        self.messages: dict[tuple[str, int, int, int], dict[str, Array]] = {}  # see Message
        self.unfinished: list[Message] = []
        self.has_failed = False

    def wait_for(self, is_so: Callable[[], bool], seconds: float | None = None) -> bool:
        """Let the others run until ``is_so``; return False if it is not in time.

        What is so stays so when another thread has failed since: as with MPI, a process gets what
        all have sent, and learns of a failure only where it waits in vain.
        """
        self.turn.notify_all()
        patience = PATIENCE if seconds is None else seconds
        done = self.turn.wait_for(lambda: is_so() or self.has_failed, patience)
        if done and not is_so():
            raise LeftAloneError
        return done


class Request:
    """An Ibarrier."""

    def __init__(self, shared: Shared, arrived: dict[int, Any]) -> None:
        self._shared, self._arrived = shared, arrived
        self._begun = time.monotonic()

    def Test(self) -> bool:  # noqa: N802  (mpi4py's name)
        done = self._shared.wait_for(lambda: len(self._arrived) == self._shared.size, 0.2)
        if not done and time.monotonic() - self._begun > LONGEST_BARRIER:
            raise TimeoutError(f"Ibarrier waits for others than {sorted(self._arrived)}")
        return done


class Message:
    """An Isend or an Irecv: one end of a message. Those of two threads are matched in order.

    What is sent may not change, and what is received is not there, before Wait.
    """

    def __init__(
        self, shared: Shared, key: tuple[str, int, int, int], call: str, array: Array
    ) -> None:
        """``key`` has the communicator, who sends, who receives, and how many have gone before."""
        self._shared, self._key, self._call, self._array = shared, key, call, array
        self._ends = shared.messages.setdefault(key, {})
        self._ends[call] = array.copy()
        shared.unfinished.append(self)

    def Wait(self) -> None:  # noqa: N802
        if not self._shared.wait_for(lambda: len(self._ends) == 2):
            raise TimeoutError(f"{self._call} waits for the other end: {self._key}")
        sent, before = self._ends["Isend"], self._ends["Irecv"]
        assert (sent.shape, sent.dtype) == (before.shape, before.dtype), self._key
        assert self._array.tobytes() == self._ends[self._call].tobytes(), "used before Wait"
        if self._call == "Irecv":
            self._array[...] = sent
        self._shared.unfinished.remove(self)


class Communicator:
    """The calls of mpi4py's."""

    def __init__(self, shared: Shared, rank: int, name: str = "world") -> None:
        self._shared, self._rank, self._name = shared, rank, name
        self._calls = self._copies = 0
        self._messages: Counter[tuple[int, int]] = Counter()  # by who sends, and who receives

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

    def Isend(self, array: Array, to: int) -> Message:  # noqa: N802
        return self._message("Isend", self._rank, to, array)

    def Irecv(self, array: Array, of: int) -> Message:  # noqa: N802
        return self._message("Irecv", of, self._rank, array)

    def _message(self, call: str, of: int, to: int, array: Array) -> Message:
        assert of != to, "what a process has needs no message"
        assert array.flags.c_contiguous
        self._messages[of, to] += 1
        return Message(self._shared, (self._name, of, to, self._messages[of, to]), call, array)

    def Allgather(self, sent: None, array: Array) -> None:  # noqa: N802
        assert sent is None  # each has its slice in place
        rows = array.reshape(self._shared.size, -1)
        rows[...] = self._exchange("Allgather", rows[self._rank])


def in_processes(size: int, work: Callable[[MpiProcesses], T], nodes: int = 1) -> list[T]:
    """Return what ``work`` returns in each of ``size`` processes, spread evenly over ``nodes``.

    Raises what one of them raises. Every message must have come.
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
    assert not shared.unfinished, "nobody waits for these messages"
    return [results[rank] for rank in range(size)]
