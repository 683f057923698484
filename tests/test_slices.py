"""The sum of vectors among processes, a slice in each, over the stand-in for mpi4py.

``test_nccl_processes`` has the same among GPUs.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from electra_ref import message_passing
from electra_ref.arrays import Array
from electra_ref.message_passing import MpiProcesses, slice_length
from electra_ref.slices import pieces_of
from tests import threaded_mpi
from tests.threaded_mpi import in_processes

COUNTS = [3, 0, 1, 2, 1]


def fold_in_a_row(vectors: Any) -> None:
    for vector in vectors[1:]:
        vectors[0] += vector


def drawn(counts: list[int], length: int, dtype: type = np.float32) -> list[Array]:
    """Return the vectors (count, length) of each process."""
    random = np.random.default_rng(0)
    return [random.standard_normal((count, length)).astype(dtype) for count in counts]


def summed(own: MpiProcesses, vectors: list[Array]) -> Array:
    mine = [vector.copy() for vector in vectors[own.rank]]
    result = mine[0] if mine else np.full_like(vectors[0][0], np.nan)
    own.sum_slices(mine, [len(each) for each in vectors], result, fold_in_a_row)
    return result  # type: ignore[no-any-return]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six numbers, at most, or one for each process."""
    monkeypatch.setattr(message_passing, "PIECE", 6)
    monkeypatch.setattr(message_passing, "SLICE", 1)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [1, 4, 23])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slices_of_all_vectors_are_added_in_the_order_of_the_ranks(
    size: int, length: int, dtype: type
) -> None:
    """Also of a vector shorter than there are processes, of several pieces, and of none."""
    vectors = drawn(COUNTS[:size], length, dtype)
    expected: Array = np.zeros(length, dtype)
    for vector in np.concatenate(vectors):  # as fold_in_a_row; 0 + x is x
        expected += vector
    for result in in_processes(size, lambda own: summed(own, vectors)):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("numbers", [1, 2, 3, 7, 12, 13, 24, 25])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("longest", [1, 2, 4, 100])
def test_every_number_is_in_one_slice_and_those_of_the_rest_in_all(
    numbers: int, count: int, longest: int
) -> None:
    rest = list(range(numbers - numbers % count, numbers))
    found: list[int] = []
    for slices in pieces_of(numbers, count, longest):
        each = [list(range(numbers)[one]) for one in slices]
        assert len(each) == count
        assert len({len(one) for one in each}) == 1
        if each[0] == rest:
            assert each == [rest] * count
            found += rest
        else:
            assert len(each[0]) <= longest
            found += itertools.chain.from_iterable(each)
    assert found == list(range(numbers))


@pytest.mark.parametrize(
    ("count", "length"), [(2, 2**19), (3, 2**20 // 3), (8, 2**17), (9, 2**17), (1024, 2**17)]
)
def test_a_slice_is_not_so_short_that_a_message_takes_longer_than_its_bytes(
    count: int, length: int
) -> None:
    assert slice_length(count) == length
    pieces = [slices[0].stop - slices[0].start for slices in pieces_of(3 * 2**27, count, length)]
    assert set(pieces[:-2]) <= {length}


class Noting(MpiProcesses):
    """Writes down what is called."""

    def meet(self) -> None:
        super().meet()
        self.__dict__.setdefault("calls", []).append("meet")

    def exchange(self, sent: Any, received: Any) -> None:
        to = [(rank, array.size) for rank, array in sent]
        self.__dict__["calls"].append((to, [rank for rank, _ in received]))
        super().exchange(sent, received)


@pytest.mark.usefixtures("small_pieces")
def test_all_meet_once_and_only_the_slices_of_others_are_sent() -> None:
    """Not all send to the same process first; one without a vector sends nothing."""

    def calls(own: MpiProcesses) -> Any:
        own.__class__ = Noting
        summed(own, drawn([2, 0, 1], 7))
        return own.__dict__["calls"]

    first, second, third = in_processes(3, calls)
    assert first == [
        "meet",
        ([(1, 2), (1, 2), (2, 2), (2, 2)], [2]),
        ([(1, 1), (1, 1), (2, 1), (2, 1)], [2]),
    ]
    assert second == ["meet", ([], [0, 0, 2]), ([], [0, 0, 2])]
    assert third == ["meet", ([(0, 2), (1, 2)], [0, 0]), ([(0, 1), (1, 1)], [0, 0])]


# Planted mistakes


class OtherTarget(MpiProcesses):
    """A mutant: the slices of two processes are exchanged."""

    def exchange(self, sent: Any, received: Any) -> None:
        ranks = [rank for rank, _ in sent]
        arrays = [array for _, array in sent]
        super().exchange(list(zip(ranks, reversed(arrays), strict=True)), received)


class OrderOfArrival(MpiProcesses):
    """A mutant: what comes from two processes stands in the other order."""

    def exchange(self, sent: Any, received: Any) -> None:
        ranks = [rank for rank, _ in received]
        arrays = [array for _, array in received]
        super().exchange(sent, list(zip(ranks, reversed(arrays), strict=True)))


class NotGathered(MpiProcesses):
    """A mutant: each keeps what it has summed."""

    def gather_in_place(self, whole: Array) -> None:
        pass


class RestTwice(MpiProcesses):
    """A mutant: of the rest, what comes from others counts twice."""

    def exchange(self, sent: Any, received: Any) -> None:
        super().exchange(sent, received)
        for _, array in received:
            np.multiply(array, 1 + (array.size == 1), out=array)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("mutant", [OtherTarget, OrderOfArrival, NotGathered, RestTwice])
def test_the_comparison_notices(mutant: type[MpiProcesses]) -> None:
    vectors = drawn([1, 1, 1], 7)

    def work(own: MpiProcesses) -> list[float]:
        own.__class__ = mutant
        return summed(own, vectors).tolist()  # type: ignore[no-any-return]

    assert in_processes(3, work) != in_processes(3, lambda own: summed(own, vectors).tolist())


class NotSent(MpiProcesses):
    """A mutant: the last one does not send."""

    def exchange(self, sent: Any, received: Any) -> None:
        super().exchange(sent[:0] if self.rank == 2 else sent, received)


class NotReceived(MpiProcesses):
    """A mutant: the last one does not receive."""

    def exchange(self, sent: Any, received: Any) -> None:
        super().exchange(sent, received[:0] if self.rank == 2 else received)


class UsedTooEarly(MpiProcesses):
    """A mutant: what is sent is changed meanwhile."""

    def exchange(self, sent: Any, received: Any) -> None:
        requests = [self._world.Irecv(array, rank) for rank, array in received]
        requests += [self._world.Isend(array, rank) for rank, array in sent]
        for _, array in sent:
            np.add(array, 1, out=array)
        for request in requests:
            request.Wait()


class NotAwaited(MpiProcesses):
    """A mutant: what is received may come later."""

    def exchange(self, sent: Any, received: Any) -> None:
        requests = [self._world.Isend(array, rank) for rank, array in sent]
        for rank, array in received:
            self._world.Irecv(array, rank)
        for request in requests:
            request.Wait()


@pytest.mark.parametrize(
    ("mutant", "error", "message"),
    [
        (NotSent, TimeoutError, "(Irecv|Allgather) waits for"),
        (NotReceived, TimeoutError, "(Isend|Allgather) waits for"),
        (UsedTooEarly, AssertionError, "used before Wait"),
        (NotAwaited, AssertionError, "nobody waits for these messages"),
    ],
)
def test_the_stand_in_notices(
    mutant: type[MpiProcesses],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What would wait forever, or leave wrong sums, over a network."""
    vectors = drawn([1, 1, 1], 6)

    def work(own: MpiProcesses) -> None:
        own.__class__ = mutant
        if error is TimeoutError:
            monkeypatch.setattr(threaded_mpi, "PATIENCE", 0.3)
        with np.errstate(all="ignore"):  # what was not received may be any numbers
            summed(own, vectors)

    with pytest.raises(error, match=message):
        in_processes(3, work)
