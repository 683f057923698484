"""The processes of one run, and what they tell each other; one process is the plain case.

A launcher such as ``mpiexec -n 4`` starts the same command several times. All processes do the
same, in the same order, but for two things: each does its own share of a step, an evaluation or the
tokenizing, and the first one alone prints, and writes to the folder of the run. They wait for each
other wherever one of these functions is called, so all must call the same functions in the same
order.

Only this module imports mpi4py, and only where a launcher has started several processes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from electra_ref.errors import UserError
from electra_ref.process import limit_threads

if TYPE_CHECKING:  # a command sets the number of threads before NumPy is loaded
    from electra_ref.arrays import Array

T = TypeVar("T")
Facts = TypeVar("Facts")
Fold = Callable[[Sequence["Array"]], object]

# What launchers tell a process: of Open MPI; of MPICH and Intel MPI; of Slurm's srun.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")


class Processes(Protocol):
    """What a run asks of the processes that it consists of.

    Objects travel pickled, between the processes of one run only.
    """

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def size(self) -> int:
        """How many processes there are."""

    @property
    def local_rank(self) -> int:
        """The number of this process among those on its node."""

    @property
    def local_size(self) -> int:
        """How many processes are on the node of this one."""

    @property
    def nodes(self) -> int:
        """On how many machines the processes are."""

    def meet(self) -> None:
        """Wait until all processes are here."""

    def sum_counts(self, counts: Sequence[int]) -> list[int]:
        """Return the sums of ``counts`` over all processes, which give equally many."""

    def gather(self, value: T) -> list[T]:
        """Return the ``value`` of every process, in the order of their ranks."""

    def of_first(self, make: Callable[[], T]) -> T:
        """Return what ``make`` returns in the first process; the others do not call it.

        What it raises there is raised in all.
        """

    def share(self, array: Array) -> None:
        """Replace the numbers in ``array``, on the host, by those of the first process."""

    def sum_slices(
        self, vectors: Sequence[Array], counts: Sequence[int], result: Array, fold: Fold
    ) -> None:
        """Let ``result`` (P,) be the sum of the ``vectors`` (P,) of all processes.

        ``counts`` says how many vectors each process gives. Every process gets one slice of all
        vectors, in the order of their ranks, and ``fold`` adds all into the first one. ``result``
        is the first of ``vectors`` where there is one. The numbers in ``vectors`` are lost.
        """

    def ends_together(self) -> bool:
        """Return whether all processes call this within a second, to end in the same way."""

    def abort(self, code: int) -> NoReturn:
        """End all processes at once with the exit ``code``."""


class OneProcess:
    """A process that was started alone."""

    rank = local_rank = 0
    size = local_size = nodes = 1

    def meet(self) -> None:
        """Return at once."""

    def sum_counts(self, counts: Sequence[int]) -> list[int]:
        """Return ``counts``."""
        return list(counts)

    def gather(self, value: T) -> list[T]:
        """Return ``value`` alone."""
        return [value]

    def of_first(self, make: Callable[[], T]) -> T:
        """Return what ``make`` returns."""
        return make()

    def share(self, array: Array) -> None:
        """Leave ``array`` as it is."""

    def sum_slices(
        self, vectors: Sequence[Array], counts: Sequence[int], result: Array, fold: Fold
    ) -> None:
        """Add ``vectors`` into the first one, which is ``result``."""
        del counts, result
        fold(vectors)

    def ends_together(self) -> bool:
        """Return True."""
        return True

    def abort(self, code: int) -> NoReturn:
        """End the process at once."""
        os._exit(code)


ALONE = OneProcess()


def open_processes() -> Processes:
    """Return the processes that a launcher has started; ``ALONE`` without one.

    Those of a node share its cores: libraries start as many threads as a process has cores, unless
    the user has set it. Call this before NumPy is imported. Raises UserError if the launcher
    started several that cannot find each other.
    """
    _, size = launched()
    if size == 1:
        return ALONE
    world, local = _connected(size)
    cores = usable_cores()
    limit_threads(threads_for(cores, local.allgather(cores)))
    from electra_ref.message_passing import MpiProcesses  # noqa: PLC0415  (loads NumPy)

    return MpiProcesses(world, local)


def _connected(size: int) -> tuple[Any, Any]:
    """Return the communicators of all ``size`` processes and of those on this node."""
    try:
        with warnings.catch_warnings():
            # that it is of another MPI than the launcher, which is said below
            warnings.simplefilter("ignore", RuntimeWarning)
            import mpi4py  # noqa: PLC0415  (an extra)

            mpi4py.rc(initialize=False, finalize=True)
            from mpi4py import MPI  # noqa: PLC0415  (it loads the library of MPI)
    except (ImportError, RuntimeError) as error:  # RuntimeError: there is no such library
        raise UserError(
            f"{size} processes were started, and mpi4py cannot be loaded ({error}): "
            "pip install 'electra-ref[mpi]'"
        ) from error
    vendor, found = MPI.get_vendor()[0], 1
    if _SIZES[0] not in os.environ or vendor == "Open MPI":  # another MPI would end the process
        MPI.Init_thread()
        found = MPI.COMM_WORLD.Get_size()
    if found != size:
        raise UserError(
            f"the launcher started {size} processes, but the {vendor} of mpi4py sees "
            f"{'only this one' if found == 1 else found}: they belong to different MPIs; use the "
            "launcher of the same MPI (pip install mpich brings an mpiexec), or install mpi4py "
            "for the MPI of this launcher"
        )
    return MPI.COMM_WORLD, MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)


def launched() -> tuple[int, int]:
    """Return the rank of this process, and how many processes the launcher started with it."""
    for rank, size in zip(_RANKS, _SIZES, strict=True):
        values = os.environ.get(rank, ""), os.environ.get(size, "")
        if all(value.isdecimal() for value in values) and int(values[1]) > 0:
            return int(values[0]), int(values[1])
    return 0, 1


def is_first_on_node() -> bool:
    """Return whether the launcher says that no process on this node has a smaller rank."""
    return next((os.environ[name] for name in _LOCAL_RANKS if name in os.environ), "") == "0"


def usable_cores() -> set[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))  # macOS ties no process to cores


def threads_for(own: Collection[int], of_each: Sequence[Collection[int]]) -> int:
    """Return how many threads a process gets that may use the cores ``own``.

    ``of_each`` has the cores of every process on the node, this one included. A core that several
    may use is divided among them.
    """
    cores = sum(Fraction(1, sum(core in others for others in of_each)) for core in own)
    return max(1, int(cores))


def describe(processes: Processes, threads: int) -> str:
    """Return one line for people."""
    nodes, each = processes.nodes, "thread" if threads == 1 else "threads"
    return f"{processes.size} processes on {nodes} node{'s' * (nodes > 1)}, {threads} {each} each"


def share_of(count: int, rank: int, size: int) -> range:
    """Return which of ``count`` things the process ``rank`` of ``size`` takes, in one piece."""
    return range(rank * count // size, (rank + 1) * count // size)


def divided(processes: Processes, count: int, work: Callable[[int], T]) -> list[T]:
    """Return ``work(0)``, ``work(1)``, ... up to ``count``, each done by one process."""
    rank, size = processes.rank, processes.size
    parts = processes.gather([work(number) for number in range(rank, count, size)])
    return [parts[number % size][number // size] for number in range(count)]


def in_turn(
    processes: Processes, first: Callable[[], tuple[T, Facts]], other: Callable[[Facts], T]
) -> T:
    """Return what ``first`` returns in the first process, and ``other`` in the others.

    ``other`` gets the facts that ``first`` returns beside its result. It is called in one process
    of each other node, and after that in the rest. So what is kept on a disk is made once, whether
    or not the nodes share it. What ``first`` raises is raised in all processes.
    """
    kept: list[T] = []

    def begin() -> Facts:
        result, facts = first()
        kept.append(result)
        return facts

    facts = processes.of_first(begin)
    for is_mine in (processes.local_rank == 0, True):
        if is_mine and not kept:
            kept.append(other(facts))
        processes.meet()
    return kept[0]


def require_same(processes: Processes, facts: Mapping[str, str]) -> None:
    """Raise UserError in all processes if ``facts`` are not the same in all of them."""
    for difference in _differences(processes.gather(dict(facts))):
        raise UserError(
            f"the processes differ, and their results would drift apart: {difference}; "
            "give all nodes the same versions, settings and data, and use nodes of one kind"
        )


def _differences(of_each: Sequence[Mapping[str, str]]) -> Iterator[str]:
    first = of_each[0]
    for rank, facts in enumerate(of_each):
        for key in sorted(first.keys() | facts.keys()):
            if first.get(key) != facts.get(key):
                yield f"{key} is {first.get(key)} in process 0, {facts.get(key)} in process {rank}"
