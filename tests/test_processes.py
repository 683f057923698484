"""Several processes: what they tell each other, and the sum of their gradients.

The processes are threads here, which talk by a stand-in for mpi4py. Runs by mpiexec are in
``test_mpi_runs``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref import message_passing, process, processes
from electra_ref.errors import UserError
from electra_ref.message_passing import MpiProcesses
from electra_ref.processes import (
    ALONE,
    describe,
    divided,
    in_turn,
    is_first_on_node,
    launched,
    open_processes,
    require_same,
    share_of,
    threads_for,
    usable_cores,
)
from tests.threaded_mpi import Communicator, LeftAloneError, Shared, in_processes

LAUNCHERS = {
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "MPICH": ("PMI_RANK", "PMI_SIZE"),
    "Slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
}
LOCAL_RANKS = {
    "Open MPI": "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPICH": "MPI_LOCALRANKID",
    "Slurm": "SLURM_LOCALID",
}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in (*LAUNCHERS.values(), LOCAL_RANKS.values()):
        for name in names:
            monkeypatch.delenv(name, raising=False)


def test_each_knows_where_it_is() -> None:
    def places(own: MpiProcesses) -> tuple[int, ...]:
        return own.rank, own.size, own.local_rank, own.local_size, own.nodes

    assert in_processes(4, places, nodes=2) == [
        (0, 4, 0, 2, 2), (1, 4, 1, 2, 2), (2, 4, 0, 2, 2), (3, 4, 1, 2, 2),
    ]  # fmt: skip
    assert places(ALONE) == (0, 1, 0, 1, 1)  # type: ignore[arg-type]


def test_what_they_tell_each_other() -> None:
    def talk(own: MpiProcesses) -> tuple[Any, ...]:
        array = np.full(3, float(own.rank + 1))
        own.share(array)
        return (
            own.sum_counts([own.rank, 1, 2**40]),
            own.gather({"rank": own.rank}),
            own.of_first(lambda: own.rank + 10),
            array.tolist(),
        )

    ranks = [{"rank": rank} for rank in range(3)]
    expected = ([3, 3, 3 * 2**40], ranks, 10, [1.0, 1.0, 1.0])
    assert in_processes(3, talk) == [expected] * 3
    assert ALONE.sum_counts([4, 5]) == [4, 5]
    assert ALONE.gather("a") == ["a"]
    assert ALONE.of_first(lambda: "b") == "b"
    ALONE.meet()
    ALONE.share(np.zeros(1))
    assert ALONE.ends_together()


def test_only_the_first_makes_what_all_get_and_what_it_raises_is_raised_in_all() -> None:
    made: list[int] = []

    def make(own: MpiProcesses) -> str:
        def fail() -> None:
            made.append(own.rank)
            raise UserError("the disk is full")

        with pytest.raises(UserError, match="the disk is full"):
            own.of_first(fail)
        return own.of_first(lambda: "and they go on")

    assert in_processes(3, make) == ["and they go on"] * 3
    assert made == [0]


@given(st.integers(0, 40), st.integers(1, 9))
def test_shares_are_even_and_in_a_row(count: int, size: int) -> None:
    shares = [share_of(count, rank, size) for rank in range(size)]
    assert [number for share in shares for number in share] == list(range(count))
    lengths = {len(share) for share in shares}
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_divided_work_is_done_once_and_in_order(count: int) -> None:
    done: list[int] = []

    def square(number: int) -> int:
        done.append(number)
        return number**2

    expected = [number**2 for number in range(count)]
    assert in_processes(3, lambda own: divided(own, count, square)) == [expected] * 3
    assert sorted(done) == list(range(count))
    assert divided(ALONE, count, square) == expected


def test_a_cache_is_made_by_the_first_then_on_each_node_then_found() -> None:
    order: list[tuple[int, str]] = []

    def prepare(own: MpiProcesses) -> str:
        def first() -> tuple[str, str]:
            order.append((own.rank, ""))
            return "made", "key"

        def other(key: str) -> str:
            order.append((own.rank, key))
            return "found"

        return in_turn(own, first, other)

    assert in_processes(6, prepare, nodes=2) == ["made", *["found"] * 5]
    assert order[:2] == [(0, ""), (3, "key")]
    assert sorted(order[2:]) == [(rank, "key") for rank in (1, 2, 4, 5)]
    assert in_turn(ALONE, lambda: ("made", None), lambda _: "found") == "made"


def test_processes_that_differ_say_in_what() -> None:
    def compare(own: MpiProcesses) -> None:
        require_same(own, {"numpy": "2.0", "seed": "0"})
        facts = {"numpy": "2.1" if own.rank == 2 else "2.0"} | ({"mkl": "1"} if own.rank else {})
        with pytest.raises(UserError) as error:
            require_same(own, facts)
        assert str(error.value).startswith(
            "the processes differ, and their results would drift apart: mkl is None in process 0, "
            "1 in process 1; "
        )
        assert "the same versions, settings and data" in str(error.value)

    in_processes(3, compare)
    require_same(ALONE, {"numpy": "2.0"})


@pytest.mark.parametrize(
    ("own", "of_each", "threads"),
    [
        ({0, 1, 2, 3}, [{0, 1, 2, 3}], 4),
        ({0, 1, 2, 3}, [{0, 1, 2, 3}] * 2, 2),
        ({0, 1, 2}, [{0, 1, 2}] * 2, 1),  # one core is left over
        ({0, 1}, [{0, 1}] * 3, 1),  # more processes than cores
        ({2, 3}, [{0, 1}, {2, 3}], 2),  # the launcher has tied each to cores of its own
        ({0}, [{0}, {1}], 1),
        (set(range(9)), [set(range(9))] * 3, 3),  # nine thirds, which are less in floats
        (set(range(7)), [set(range(7))] * 4, 1),
    ],
)
def test_the_cores_of_a_node_are_divided(
    own: set[int], of_each: list[set[int]], threads: int
) -> None:
    assert threads_for(own, of_each) == threads


def test_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a system that ties no process to cores, all."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3}, raising=False)
    assert usable_cores() == {1, 3}
    monkeypatch.delattr(os, "sched_getaffinity")
    for count, cores in ((3, {0, 1, 2}), (None, {0})):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert usable_cores() == cores


def test_the_first_line_for_people() -> None:
    line = "8 processes on 2 nodes, 4 threads each"
    assert describe(SimpleNamespace(size=8, nodes=2), 4) == line
    line = "2 processes on 1 node, 1 thread each"
    assert describe(SimpleNamespace(size=2, nodes=1), 1) == line


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_say_how_many_they_started(
    launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert launched() == (0, 1)
    rank, size = LAUNCHERS[launcher]
    monkeypatch.setenv(size, "4")
    assert launched() == (0, 1)  # a size without a rank is of something else
    monkeypatch.setenv(rank, "3")
    assert launched() == (3, 4)
    monkeypatch.setenv(size, "many")
    assert launched() == (0, 1)
    monkeypatch.setenv(size, "0")
    assert launched() == (0, 1)


@pytest.mark.parametrize("launcher", LOCAL_RANKS)
def test_launchers_say_who_is_the_first_on_its_node(
    launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_first_on_node()
    for value in ("0", "1"):
        monkeypatch.setenv(LOCAL_RANKS[launcher], value)
        assert is_first_on_node() == (value == "0")


def test_mpiexec_within_a_job_of_slurm_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for launcher, values in (("Slurm", ("0", "1")), ("MPICH", ("1", "2"))):
        for name, value in zip(LAUNCHERS[launcher], values, strict=True):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(LOCAL_RANKS[launcher], values[0])
    assert launched() == (1, 2)
    assert not is_first_on_node()


def stand_in_for_mpi4py(
    monkeypatch: pytest.MonkeyPatch, started: int, found: int, vendor: str = "MPICH"
) -> list[str]:
    """Let mpi4py find so many processes, and a launcher say that it has started so many.

    Return what is done with it.
    """
    done: list[str] = []
    world = Communicator(Shared(1), 0)
    monkeypatch.setattr(world, "Get_size", lambda: found)
    local = SimpleNamespace(allgather=lambda value: [value])
    monkeypatch.setattr(world, "Split_type", lambda _: local, raising=False)
    mpi = SimpleNamespace(
        COMM_WORLD=world,
        COMM_TYPE_SHARED=0,
        get_vendor=lambda: (vendor, (5, 0)),
        Init_thread=lambda: done.append("connected"),
    )
    module = SimpleNamespace(MPI=mpi, rc=lambda **settings: done.append(str(settings)))
    monkeypatch.setitem(sys.modules, "mpi4py", module)
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", str(started))
    return done


def test_one_process_needs_no_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)  # importing it fails
    assert open_processes() is ALONE
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "1")
    assert open_processes() is ALONE
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(UserError, match=r"2 processes were started.*'electra-ref\[mpi\]'"):
        open_processes()


@pytest.mark.parametrize(("found", "seen"), [(1, "only this one"), (2, "2")])
def test_the_launcher_of_another_mpi_is_refused(
    found: int, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_for_mpi4py(monkeypatch, started=3, found=found)
    with pytest.raises(UserError, match=f"started 3 processes, but the MPICH of .* sees {seen}: "):
        open_processes()


@pytest.mark.parametrize("vendor", ["MPICH", "Open MPI"])
def test_a_launcher_of_open_mpi_is_recognised_before_another_mpi_begins(
    vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MPICH would end the process with lines of its own."""
    done = stand_in_for_mpi4py(monkeypatch, started=2, found=2, vendor=vendor)
    for name, value in zip(LAUNCHERS["Open MPI"], ("0", "2"), strict=True):
        monkeypatch.setenv(name, value)
    opened = object()
    monkeypatch.setattr(message_passing, "MpiProcesses", lambda *_: opened)
    settings = str({"initialize": False, "finalize": True})
    if vendor == "Open MPI":
        assert open_processes() is opened
        assert done == [settings, "connected"]
    else:
        with pytest.raises(UserError, match="the MPICH of mpi4py sees only this one"):
            open_processes()
        assert done == [settings]


def test_threads_are_set_before_numpy_could_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_for_mpi4py(monkeypatch, started=2, found=2)
    for name in process.THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")  # what the user has set stays
    monkeypatch.setattr(processes, "usable_cores", lambda: {0, 1, 2})
    monkeypatch.setattr(message_passing, "MpiProcesses", lambda world, local: (world, local))
    open_processes()
    threads = {name: os.environ[name] for name in process.THREADS}
    assert threads == dict.fromkeys(process.THREADS, "3") | {"OPENBLAS_NUM_THREADS": "7"}
    assert process.threads_set() == 3
    monkeypatch.setenv("NUMBA_NUM_THREADS", "")
    assert process.threads_set() == 1


def test_waiting_ends_when_all_are_there_or_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def end(own: MpiProcesses) -> bool:
        return own.rank == 2 or own.ends_together()  # the third one has ended otherwise

    assert in_processes(3, end) == [False, False, True]
    monkeypatch.setattr(message_passing, "ENDING_SECONDS", 60.0)
    assert in_processes(3, lambda own: own.ends_together()) == [True] * 3


class EndedError(Exception):
    """Stands for the end of the process."""


def test_aborting_says_nothing_more_and_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    own = in_processes(1, lambda own: own)[0]
    own._world.Abort = lambda code: done.append(("abort", code))
    monkeypatch.setattr(time, "sleep", lambda s: done.append(("sleep", s)))
    monkeypatch.setattr(os, "dup2", lambda _, to: done.append(("silence", to)))

    def leave(code: int) -> None:
        done.append(("exit", code))
        raise EndedError

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(EndedError):
        own.abort(5)
    forwarding = message_passing.FORWARDING_SECONDS
    assert done == [("sleep", forwarding), ("silence", 2), ("abort", 5), ("exit", 5)]
    with pytest.raises(EndedError):
        ALONE.abort(3)
    assert done[-1] == ("exit", 3)


def test_the_stand_in_notices_processes_that_do_not_do_the_same() -> None:
    def differ(own: MpiProcesses) -> Callable[[], Any]:
        return own._world.allgather(1) if own.rank else own._world.bcast(1)  # type: ignore[no-any-return]

    with pytest.raises(AssertionError):
        in_processes(2, differ)


def test_in_the_stand_in_what_all_have_sent_arrives_though_one_has_failed_since() -> None:
    shared = Shared(2)
    given = {0: ("allgather", 1), 1: ("allgather", 2)}
    with shared.turn:
        shared.has_failed = True
        assert shared.wait_for(lambda: len(given) == 2)
        with pytest.raises(LeftAloneError):
            shared.wait_for(lambda: len(given) == 3)
