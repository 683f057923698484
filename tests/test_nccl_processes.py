"""Several processes with a GPU each, on a stand-in for NCCL: see ``threaded_nccl``.

No GPU is needed, but for the test marked ``gpu``.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref import arrays, nccl_processes
from electra_ref.arrays import Array
from electra_ref.backends import gpu
from electra_ref.errors import UserError
from electra_ref.message_passing import MpiProcesses
from electra_ref.nccl_processes import NcclProcesses, choose_gpu
from electra_ref.processes import ALONE, Processes
from tests import stand_in_cupy
from tests.mpi_runs import hashes_of, need_mpi, run_mpi, run_one
from tests.stand_in_cupy import bare
from tests.test_mpi_runs import arguments, train
from tests.test_several_processes import steps
from tests.threaded_mpi import in_processes
from tests.threaded_nccl import Gpus, enter, install, on_gpus

LEAVES = 5


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    return install(monkeypatch)


def vectors_of(rank: int, count: int, length: int, dtype: str = "float32") -> list[Array]:
    """Return ``count`` vectors on the device; the numbers are different everywhere."""
    drawn = np.random.default_rng(rank).standard_normal((count, length))
    return [stand_in_cupy.on_device(row.astype(dtype)) for row in drawn]


def left_to_right(parts: Any) -> None:
    """Add all into the first."""
    for part in parts[1:]:
        parts[0][...] += part


def nothing(_: NcclProcesses) -> None:
    pass


def summed(own: Processes, counts: list[int], length: int, dtype: str = "float32") -> Array:
    vectors = vectors_of(own.rank, counts[own.rank], length, dtype)
    result = vectors[0] if vectors else stand_in_cupy.on_device(np.empty(length, dtype))
    own.sum_slices(vectors, counts, result, left_to_right)
    return bare(result)  # type: ignore[no-any-return]


@pytest.mark.parametrize("length", [1, 2, 7, 12, 40, 41])
@pytest.mark.parametrize("counts", [[1, 1], [2, 1], [0, 2], [1, 2, 1], [1, 0, 3, 2]])
def test_the_sum_is_that_of_all_vectors_in_their_order(
    counts: list[int], length: int, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long and short ones, in several pieces, and with processes that have nothing to add."""
    monkeypatch.setattr(nccl_processes, "PIECE", 12)
    parts = [part for rank, count in enumerate(counts) for part in vectors_of(rank, count, length)]
    expected = bare(parts[0]).copy()
    for part in parts[1:]:
        expected += bare(part)
    for result in on_gpus(gpus, len(counts), lambda own: summed(own, counts, length)):
        np.testing.assert_array_equal(result, expected)


def test_float64_is_sent_as_such(gpus: Gpus) -> None:
    sums = on_gpus(gpus, 2, lambda own: summed(own, [1, 1], 6, "float64"))
    vectors = [bare(vectors_of(rank, 1, 6, "float64")[0]) for rank in range(2)]
    np.testing.assert_array_equal(sums, [vectors[0] + vectors[1]] * 2)


@pytest.mark.parametrize(
    "size", [2, *(pytest.param(size, marks=pytest.mark.slow) for size in (3, 4)), 6]
)
def test_steps_have_the_same_bits_for_any_number_of_gpus(
    size: int, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, moments and losses; the vector has a rest for these numbers of processes."""
    monkeypatch.setattr(nccl_processes, "PIECE", 1000)
    expected = steps(ALONE, LEAVES, gpu)
    assert on_gpus(gpus, size, lambda own: steps(own, LEAVES, gpu)) == [expected] * size


def test_the_calls_and_their_order(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pieces of two slices each, and the number that is left; GPU 0 has two vectors."""
    monkeypatch.setattr(nccl_processes, "PIECE", 6)
    on_gpus(gpus, 2, lambda own: summed(own, [2, 1], 11))
    sends = {3: ["send 3 to 1"] * 2 + ["receive 3 from 1", "gather 3"],
             2: ["send 2 to 1"] * 2 + ["receive 2 from 1", "gather 2"],
             1: ["send 1 to 1"] * 2 + ["receive 1 from 1"]}  # fmt: skip
    assert gpus.calls[0] == sends[3] + sends[2] + sends[1]
    sends = {3: ["send 3 to 0"] + ["receive 3 from 0"] * 2 + ["gather 3"],
             2: ["send 2 to 0"] + ["receive 2 from 0"] * 2 + ["gather 2"],
             1: ["send 1 to 0"] + ["receive 1 from 0"] * 2}  # fmt: skip
    assert gpus.calls[1] == sends[3] + sends[2] + sends[1]


def test_a_process_sends_each_number_once_a_vector(gpus: Gpus) -> None:
    """(K - 1) / K of each vector to the others, and as much of the sum: as a ring does."""
    on_gpus(gpus, 4, lambda own: summed(own, [1, 1, 1, 1], 400))
    for calls in gpus.calls.values():
        assert sum(int(call.split()[1]) for call in calls if call.startswith("send")) == 300
        assert len(calls) == 7  # to three and from three, and nothing is left after the sum


def test_pieces_hold_a_small_model_and_may_be_short(
    gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 14_196_219 < nccl_processes.PIECE < 2**26  # ELECTRA-small; 256 MB
    expected = on_gpus(gpus, 3, lambda own: summed(own, [1, 1, 1], 7).tolist())
    monkeypatch.setattr(nccl_processes, "PIECE", 1)
    assert on_gpus(gpus, 3, lambda own: summed(own, [1, 1, 1], 7).tolist()) == expected


def test_only_what_others_send_needs_memory(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    cupy, shapes = arrays.import_cupy(), []
    empty = cupy.empty

    def counted(shape: Any, dtype: Any) -> Any:
        shapes.append(shape)
        return empty(shape, dtype)

    monkeypatch.setitem(cupy.__dict__, "empty", counted)
    on_gpus(gpus, 2, lambda own: summed(own, [3, 1], 10))
    assert sorted(shapes) == [(1, 5), (3, 5)]


def test_all_meet_before_a_gpu_waits(gpus: Gpus) -> None:
    """A process that waits for others must hear signals: a GPU cannot be asked to stop."""

    class Noting(NcclProcesses):
        def meet(self) -> None:
            super().meet()
            gpus.calls[self.rank].append("meet")

    on_gpus(gpus, 2, lambda own: summed(own, [1, 1], 10), Noting)
    assert [calls.index("meet") for calls in gpus.calls.values()] == [0, 0]


def test_all_else_goes_over_the_processors(gpus: Gpus) -> None:
    def talk(own: NcclProcesses) -> tuple[Any, ...]:
        array = np.full(3, float(own.rank + 1))
        own.meet()
        own.share(array)
        places = own.rank, own.size, own.local_rank, own.local_size, own.nodes
        told = own.sum_counts([own.rank, 1]), own.gather(own.rank), own.of_first(lambda: own.rank)
        return (*places, *told, array.tolist(), own.ends_together())

    assert on_gpus(gpus, 2, talk) == [
        (rank, 2, rank, 2, 1, [1, 2], [0, 1], 0, [1.0, 1.0, 1.0], True) for rank in range(2)
    ]
    assert not gpus.calls


class WithoutGroup(NcclProcesses):
    """A mutant: each send waits until the other process receives, which does the same."""

    def __init__(self, hosts: Processes) -> None:
        super().__init__(hosts)
        plain = {**vars(self._nccl), "groupStart": lambda: None, "groupEnd": lambda: None}
        self._nccl = type(self._nccl)("without")
        self._nccl.__dict__.update(plain)


class OtherSlices(NcclProcesses):
    """A mutant: the first process sends all others the same slice."""

    def exchange(self, sent: Any, received: Any) -> None:
        if self.rank == 0:
            sent = [(rank, sent[-1][1]) for rank, _ in sent]
        super().exchange(sent, received)


class FewerReceived(NcclProcesses):
    """A mutant: every process expects one vector of each other one."""

    def exchange(self, sent: Any, received: Any) -> None:
        super().exchange(sent, list(dict(received).items()))


class NotGathered(NcclProcesses):
    """A mutant: each keeps what it has summed."""

    def gather_in_place(self, whole: Any) -> None:
        pass


class OtherType(NcclProcesses):
    """A mutant: one process sends numbers of another type."""

    def _kind_of(self, array: Any) -> int:
        return super()._kind_of(array) + (self.rank == 1)


@pytest.mark.parametrize(
    ("mutant", "error"),
    [
        (WithoutGroup, TimeoutError), (OtherSlices, None), (FewerReceived, TimeoutError),
        (NotGathered, None), (OtherType, AssertionError),
    ],
)  # fmt: skip
def test_the_stand_in_notices(
    mutant: type[NcclProcesses], error: type[Exception] | None, gpus: Gpus
) -> None:
    """A GPU that would wait forever, and wrong sums."""
    gpus.patience = 0.3
    counts = [2, 1, 1]

    def work(own: NcclProcesses) -> list[float]:
        return summed(own, counts, 12).tolist()  # type: ignore[no-any-return]

    if error is not None:
        with pytest.raises(error):
            on_gpus(gpus, 3, work, mutant)
        return
    assert on_gpus(gpus, 3, work, mutant) != on_gpus(gpus, 3, work)


def test_the_stand_in_notices_another_stream(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is added up there may not be complete when it is sent."""
    monkeypatch.setattr(nccl_processes, "_stream", lambda: 0)
    with pytest.raises(AssertionError):
        on_gpus(gpus, 3, lambda own: summed(own, [2, 1, 1], 12))


# Which GPU


def test_each_process_takes_a_gpu_of_its_machine(gpus: Gpus) -> None:
    def chosen(own: MpiProcesses) -> int:
        enter(gpus, own)
        choose_gpu(own.local_rank)
        return gpus.here.device

    assert in_processes(4, chosen, nodes=2) == [0, 1, 0, 1]


def test_two_processes_on_one_gpu_are_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = install(monkeypatch, count=2)
    with pytest.raises(
        UserError, match=r"^processes 0 and 2 are on one GPU, Stand-In at 0000:00:00.0 of .*, and "
    ):
        on_gpus(gpus, 3, nothing)


def test_a_machine_is_known_by_its_name_and_its_start(gpus: Gpus) -> None:
    assert gpus.count > 0
    started = Path("/proc/sys/kernel/random/boot_id")
    boot = started.read_text(encoding="ascii").strip() if started.exists() else ""
    assert nccl_processes._own_gpu().machine == f"{socket.gethostname()} {boot}"


def test_machines_of_one_name_may_have_a_gpu_at_the_same_place() -> None:
    one = nccl_processes.Gpu("node first-start", "0000:01:00.0", "H200")
    nccl_processes._require_own_gpus([one, one._replace(machine="node other-start")])
    with pytest.raises(UserError, match="processes 0 and 1 are on one GPU"):
        nccl_processes._require_own_gpus([one, one])


def test_gpus_of_two_kinds_are_one_clear_line(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    own_gpu = nccl_processes._own_gpu

    def of_two_kinds() -> nccl_processes.Gpu:
        return own_gpu()._replace(name=f"kind {gpus.here.device}")

    monkeypatch.setattr(nccl_processes, "_own_gpu", of_two_kinds)
    with pytest.raises(UserError, match="the GPU is kind 0 in process 0, kind 1 in process 1"):
        on_gpus(gpus, 2, nothing)


def test_without_nccl_one_line_says_what_to_install(gpus: Gpus) -> None:
    arrays.import_nccl().__dict__["available"] = False
    with pytest.raises(UserError, match=r"need NCCL: pip install 'nvidia-nccl-cu13>=2.27.7,<3' .*"):
        on_gpus(gpus, 2, nothing)


@pytest.mark.parametrize("function", ["get_unique_id", "NcclCommunicator"])
def test_gpus_that_cannot_be_connected_are_one_clear_line(function: str, gpus: Gpus) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("NCCL_ERROR_SYSTEM_ERROR: unhandled system error")

    arrays.import_nccl().__dict__[function] = refuse
    with pytest.raises(UserError, match=r"cannot connect the GPUs \(NCCL_ERROR_SYSTEM_ERROR"):
        on_gpus(gpus, 2, nothing)


def test_without_cupy_or_a_gpu_nothing_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise ImportError("No module named 'cupy'")

    gpus = install(monkeypatch, count=0)
    choose_gpu(1)
    monkeypatch.setattr(nccl_processes, "import_cupy", absent)
    choose_gpu(1)
    assert gpus.here.device == 0


def gpus_here() -> int:
    """Return how many GPUs CuPy finds."""
    return int(arrays.import_cupy().cuda.runtime.getDeviceCount())


@pytest.mark.gpu
def test_two_gpus_leave_the_bits_of_one(tmp_path: Path) -> None:
    """By mpiexec and NCCL: tensors, metrics and samples."""
    need_mpi()
    if (found := gpus_here()) < 2:
        pytest.skip(f"{found} GPU: two are needed")
    try:
        arrays.import_nccl()
    except ImportError as error:
        pytest.skip(f"no NCCL: {error}")
    ids = tmp_path / "ids.npy"
    np.save(ids, np.random.default_rng(0).integers(0, 150, (40, 70)))
    runs = [tmp_path / "one", tmp_path / "two"]
    commands = [train(*arguments(ids, run, "gpu", "float32")) for run in runs]
    one, two = run_one(*commands[0]), run_mpi(2, *commands[1])
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    assert hashes_of(runs[0]) == hashes_of(runs[1])
