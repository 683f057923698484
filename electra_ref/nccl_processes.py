"""Processes that have a GPU each, and exchange gradients from GPU to GPU by NCCL.

NCCL is NVIDIA's library for this. All but gradients goes over MPI on the processors, as it does
without GPUs. Gradients are summed as ``slices`` says, in the same order as on processors, so the
sum has the same bits for any number of processes.

A call of NCCL only puts work on a stream of the GPU, behind what is there. So the sends begin when
the gradients are complete, and the sums when all slices are here; the processor waits for neither.
All sends and receives of a piece stand in one group: within a group they do not wait for each
other, and between two processes they are matched in the order of the calls.

NOT RUN ON HARDWARE so far: tests run it on a stand-in for NCCL. The test marked ``gpu`` needs two
GPUs.

Source: NCCL user guide, "Point-to-point communication" (all-to-all), "Group calls", "In-place
operations"; the calls are those of ``cupy.cuda.nccl``, CuPy 14.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, NoReturn, TypeVar

from electra_ref.arrays import Array, import_cupy, import_nccl
from electra_ref.errors import UserError
from electra_ref.processes import Fold, Processes, require_same
from electra_ref.slices import Parcel, sum_slices

T = TypeVar("T")

PIECE = 2**24  # numbers of a vector that are summed at a time


class Gpu(NamedTuple):
    """The GPU of a process."""

    machine: str  # its name and when it was started: two machines may have one name
    place: str  # on the bus of the machine
    name: str


class NcclProcesses:
    """Processes with a GPU each: see ``processes.Processes``."""

    def __init__(self, hosts: Processes) -> None:
        """Connect the current GPUs of all ``hosts``. All processes call this.

        Raises UserError if NCCL is missing or cannot connect them, if two processes are on one GPU,
        or if the GPUs are of different kinds.
        """
        self._nccl = _loaded()
        _require_own_gpus(hosts.gather(_own_gpu()))
        require_same(hosts, {"the GPU": _own_gpu().name})
        self._hosts = hosts
        self.rank, self.size, self.nodes = hosts.rank, hosts.size, hosts.nodes
        self.local_rank, self.local_size = hosts.local_rank, hosts.local_size
        try:
            meeting = hosts.of_first(self._nccl.get_unique_id)
            self._gpus = self._nccl.NcclCommunicator(self.size, meeting, self.rank)
        except RuntimeError as error:
            raise UserError(
                f"NCCL cannot connect the GPUs ({error}): NCCL_DEBUG=WARN shows why; or set "
                "--device cpu"
            ) from error

    def meet(self) -> None:
        """Wait until all processes are here."""
        self._hosts.meet()

    def sum_counts(self, counts: Sequence[int]) -> list[int]:
        """Return the sums of ``counts`` over all processes, which give equally many."""
        return self._hosts.sum_counts(counts)

    def gather(self, value: T) -> list[T]:
        """Return the ``value`` of every process, in the order of their ranks."""
        return self._hosts.gather(value)

    def of_first(self, make: Callable[[], T]) -> T:
        """Return what ``make`` returns in the first process; the others do not call it."""
        return self._hosts.of_first(make)

    def share(self, array: Array) -> None:
        """Replace the numbers in ``array``, on the host, by those of the first process."""
        self._hosts.share(array)

    def sum_slices(
        self, vectors: Sequence[Array], counts: Sequence[int], result: Array, fold: Fold
    ) -> None:
        """Let ``result`` (P,) be the sum of the ``vectors`` (P,) of all processes, on the GPU."""
        sum_slices(self, vectors, counts, result, fold, max(PIECE // self.size, 1))

    def exchange(self, sent: Sequence[Parcel], received: Sequence[Parcel]) -> None:
        """Send the arrays ``sent`` to GPUs, and fill the arrays ``received``."""
        stream = _stream()
        self._nccl.groupStart()
        for rank, array in sent:
            self._gpus.send(_address(array), array.size, self._kind_of(array), rank, stream)
        for rank, array in received:
            self._gpus.recv(_address(array), array.size, self._kind_of(array), rank, stream)
        self._nccl.groupEnd()

    def gather_in_place(self, whole: Array) -> None:
        """Send this process's slice of ``whole`` to all others, and receive theirs."""
        own = whole.reshape(self.size, -1)[self.rank]
        kind, stream = self._kind_of(whole), _stream()
        self._gpus.allGather(_address(own), _address(whole), own.size, kind, stream)

    def _kind_of(self, array: Array) -> int:
        """Return NCCL's number for the type of the numbers in ``array``."""
        number: int = getattr(self._nccl, f"NCCL_{array.dtype.name.upper()}")
        return number

    def ends_together(self) -> bool:
        """Return whether all processes call this within a second, to end in the same way."""
        return self._hosts.ends_together()

    def abort(self, code: int) -> NoReturn:
        """End all processes at once with the exit ``code``."""
        self._hosts.abort(code)


def choose_gpu(local_rank: int) -> None:
    """Let this process compute on the GPU of its place on the machine, if there are any.

    Where there are fewer GPUs than processes, several take the same one.
    """
    try:
        cupy = import_cupy()
        count = cupy.cuda.runtime.getDeviceCount()
    except (ImportError, RuntimeError):  # ``open_backend`` says what is missing
        return
    if count > 0:
        cupy.cuda.Device(local_rank % count).use()


def _loaded() -> ModuleType:
    """Return CuPy's NCCL. Raises UserError if there is none."""
    try:
        return import_nccl()
    except ImportError as error:
        raise UserError(
            "several processes on GPUs need NCCL: pip install 'nvidia-nccl-cu13>=2.27.7,<3' (for "
            "CUDA 12: 'nvidia-nccl-cu12>=2.18.1,<3'), or set --device cpu"
        ) from error


def _own_gpu() -> Gpu:
    runtime = import_cupy().cuda.runtime
    number = runtime.getDevice()
    started = Path("/proc/sys/kernel/random/boot_id")
    boot = started.read_text(encoding="ascii").strip() if started.exists() else ""
    name = runtime.getDeviceProperties(number)["name"].decode()
    return Gpu(f"{socket.gethostname()} {boot}", runtime.deviceGetPCIBusId(number), name)


def _require_own_gpus(gpus: Sequence[Gpu]) -> None:
    """Raise UserError if two of the ``gpus`` of all processes are one: NCCL would refuse them."""
    for rank, gpu in enumerate(gpus):
        if (first := gpus.index(gpu)) != rank:
            raise UserError(
                f"processes {first} and {rank} are on one GPU, {gpu.name} at {gpu.place} of "
                f"{gpu.machine.split()[0]}, and NCCL takes one process for each GPU: start as many "
                "processes on a machine as it has GPUs, or set --device cpu"
            )


def _address(array: Array) -> int:
    address: int = array.data.ptr  # type: ignore[attr-defined]  # CuPy's
    return address


def _stream() -> int:
    """Return the stream on which CuPy computes."""
    pointer: int = import_cupy().cuda.get_current_stream().ptr
    return pointer
