"""A stand-in for NCCL: GPUs of processes that are threads, with arrays of ``stand_in_cupy``.

As with NCCL, sends and receives wait for each other unless they stand in one group; between two
processes they are matched in their order, and must be of one count and type. What would hang a GPU
is a TimeoutError here. The calls are those of ``cupy.cuda.nccl`` in CuPy 14.
"""

from __future__ import annotations

import ctypes
import operator
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import pytest

from electra_ref.message_passing import MpiProcesses
from electra_ref.nccl_processes import NcclProcesses, choose_gpu
from tests import stand_in_cupy
from tests.threaded_mpi import Shared, in_processes

T = TypeVar("T")
BYTES = {7: 4, 8: 8}  # of a number, by NCCL's numbers for float32 and float64
ID_BYTES = 128
STREAM = 1000  # of the GPU 0; the GPU 1 has the next


class Here(threading.local):
    """What the thread of a process has for itself."""

    def __init__(self) -> None:
        self.shared: Shared | None = None
        self.device = 0
        self.group: list[Call] | None = None


class Call(NamedTuple):
    """A send or a receive."""

    communicator: NcclCommunicator
    is_send: bool
    address: int
    length: int
    kind: int
    peer: int


class Gpus:
    """The GPUs of a machine, and what is on the wires between them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.patience = 20.0  # seconds, after which a GPU that waits is an error
        self.here = Here()
        self.sent: defaultdict[tuple[int, int], deque[tuple[bytes, int]]] = defaultdict(deque)
        self.given: defaultdict[Any, dict[int, Any]] = defaultdict(dict)
        self.calls: defaultdict[int, list[str]] = defaultdict(list)  # of each process
        self.ids = 0

    def wait_for(self, is_so: Callable[[], bool], what: str) -> None:
        assert self.here.shared is not None
        if not self.here.shared.wait_for(is_so, self.patience):
            raise TimeoutError(what)

    def exchange(self, call: Any, rank: int, size: int, value: T) -> list[T]:
        """Return what all processes give."""
        given = self.given[call]
        given[rank] = value
        self.wait_for(lambda: len(given) == size, f"{call} waits for others")
        return [given[one] for one in range(size)]

    def run_group(self, group: list[Call]) -> None:
        """Send all, then receive all, then wait until the others have taken what was sent."""
        for call in group:
            if call.is_send:
                data = ctypes.string_at(call.address, call.length * BYTES[call.kind])
                self.sent[call.communicator.rank, call.peer].append((data, call.kind))
        for call in group:
            if not call.is_send:
                wire = self.sent[call.peer, call.communicator.rank]
                self.wait_for(partial(bool, wire), f"{call}: nothing was sent")
                data, kind = wire.popleft()
                assert (len(data), kind) == (call.length * BYTES[call.kind], call.kind)
                ctypes.memmove(call.address, data, len(data))
        for call in group:
            wire = self.sent[call.communicator.rank, call.peer]
            self.wait_for(partial(operator.not_, wire), f"{call}: not taken")


class NcclCommunicator:
    """One process's end, on the GPU that was current when it was made."""

    def __init__(self, gpus: Gpus, size: int, meeting: bytes, rank: int) -> None:
        assert len(meeting) == ID_BYTES
        self._gpus, self._size, self.rank, self._meeting = gpus, size, rank, meeting
        self._device, self._calls = gpus.here.device, 0
        devices = gpus.exchange(("begin", meeting), rank, size, self._device)
        if len(set(devices)) < size:
            raise RuntimeError("NCCL_ERROR_INVALID_USAGE: invalid usage")

    def send(self, address: int, count: int, kind: int, peer: int, stream: int) -> None:
        self._note(f"send {count} to {peer}", stream)
        self._queue(Call(self, True, address, count, kind, peer))

    def recv(self, address: int, count: int, kind: int, peer: int, stream: int) -> None:
        self._note(f"receive {count} from {peer}", stream)
        self._queue(Call(self, False, address, count, kind, peer))

    def allGather(self, own: int, all_: int, count: int, kind: int, stream: int) -> None:  # noqa: N802
        self._note(f"gather {count}", stream)
        length = count * BYTES[kind]
        assert own == all_ + self.rank * length, "not in place"
        self._calls += 1
        given = (ctypes.string_at(own, length), kind)
        parts = self._gpus.exchange((self._meeting, self._calls), self.rank, self._size, given)
        assert {(len(data), other) for data, other in parts} == {(length, kind)}
        ctypes.memmove(all_, b"".join(data for data, _ in parts), length * self._size)

    def _queue(self, call: Call) -> None:
        group = self._gpus.here.group
        if group is None:
            self._gpus.run_group([call])
        else:
            group.append(call)

    def _note(self, what: str, stream: int) -> None:
        assert self._gpus.here.device == self._device
        assert stream == STREAM + self._device, "not the stream on which the arrays are computed"
        self._gpus.calls[self.rank].append(what)


def install(monkeypatch: pytest.MonkeyPatch, count: int = 8) -> Gpus:
    """Put a CuPy with ``count`` GPUs and NCCL where it is imported from."""
    gpus = Gpus(count)
    here = gpus.here

    def get_unique_id() -> bytes:
        gpus.ids += 1
        return gpus.ids.to_bytes(ID_BYTES, "little")

    def start() -> None:
        assert here.group is None
        here.group = []

    def end() -> None:
        group, here.group = here.group, None
        assert group is not None
        gpus.run_group(group)

    def device(number: int | None = None) -> Any:
        chosen = here.device if number is None else number
        assert 0 <= chosen < count
        return SimpleNamespace(id=chosen, use=lambda: setattr(here, "device", chosen))

    nccl, cuda = ModuleType("cupy.cuda.nccl"), ModuleType("cupy.cuda")
    nccl.__dict__.update(
        available=True, NCCL_FLOAT32=7, NCCL_FLOAT64=8, get_unique_id=get_unique_id,
        groupStart=start, groupEnd=end,
        NcclCommunicator=lambda size, meeting, rank: NcclCommunicator(gpus, size, meeting, rank),
    )  # fmt: skip
    cuda.__dict__.update(
        nccl=nccl, Device=device,
        get_current_stream=lambda: SimpleNamespace(ptr=STREAM + here.device),
        runtime=SimpleNamespace(
            getDeviceCount=lambda: count,
            getDevice=lambda: here.device,
            getDeviceProperties=lambda _: {"name": b"Stand-In"},
            deviceGetPCIBusId=lambda number: f"0000:{number:02x}:00.0",
        ),
    )  # fmt: skip
    cupy = stand_in_cupy.install(monkeypatch)
    cupy.__dict__["cuda"] = cuda
    monkeypatch.setitem(__import__("sys").modules, "cupy.cuda", cuda)
    return gpus


def enter(gpus: Gpus, own: MpiProcesses) -> None:
    """Let the thread of a process use the ``gpus``."""
    gpus.here.shared = own._world._shared


def on_gpus(
    gpus: Gpus,
    size: int,
    work: Callable[[NcclProcesses], T],
    kind: type[NcclProcesses] = NcclProcesses,
) -> list[T]:
    """Return what ``work`` returns in each of ``size`` processes; nothing may be left unread."""

    def start(own: MpiProcesses) -> T:
        enter(gpus, own)
        choose_gpu(own.local_rank)
        return work(kind(own))

    results = in_processes(size, start)
    assert not any(gpus.sent.values())
    return results
