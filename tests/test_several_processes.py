"""Steps and loops in several processes: all go the same way, and the first one alone writes.

The processes are threads here: see ``threaded_mpi``.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref.backends import Backend, reference
from electra_ref.batch import Batch, MadeOnDemand
from electra_ref.config.settings import to_toml
from electra_ref.config.training import TrainingConfig, require_micro_batches, shared_out
from electra_ref.errors import UserError
from electra_ref.message_passing import MpiProcesses
from electra_ref.model.objectives import electra
from electra_ref.model.parameters import initial_values
from electra_ref.processes import ALONE, Processes, share_of
from electra_ref.training import saving, step
from electra_ref.training.checkpoint import save_checkpoint
from electra_ref.training.loop import Trainer
from electra_ref.training.optimizer import TrainingState
from electra_ref.training.records import read_records
from electra_ref.training.run_directory import RunDirectory, opened_by_first
from electra_ref.training.step import StepResult, train_step
from electra_ref.training.stop_signals import StopSignals
from electra_ref.training.task import Evaluation
from tests.fixed_steps import BACKENDS
from tests.small_runs import quiet
from tests.test_loop import CONFIG, LineTask, what_is_left
from tests.test_metamorphic import draw_rows
from tests.threaded_mpi import in_processes
from tests.tiny_electra import tiny_config, tiny_model, tiny_state

ROWS = 7  # the first two micro-batches have one row, the others two or more: counts differ
STEPS = 3


def micro_batches(count: int) -> MadeOnDemand[Batch]:
    """Return ROWS drawn rows, with padding, in ``count`` parts."""
    batch = draw_rows(ROWS, 9, 0)
    parts = np.array_split(np.arange(ROWS)[::-1], count)[::-1]

    def make(part: int) -> Batch:
        ids, segments, mask = (array[parts[part]] for array in batch)
        return Batch(ids.astype(np.int32), segments.astype(np.int32), mask.astype(bool))

    return MadeOnDemand(count, make)


def steps(
    processes: Processes, count: int, backend: Backend = reference
) -> tuple[list[StepResult], bytes]:
    """Return what STEPS steps report, and the bits that they leave."""
    config = tiny_config(
        batch_size=ROWS, max_length=9, learning_rate=0.01, warmup_steps=0, initializer_range=0.3
    )
    state = tiny_state(config, "float32", backend)
    results = [
        train_step(
            config, backend, electra, tiny_model(config), state, micro_batches(count), processes
        )
        for _ in range(STEPS)
    ]
    flats = (state.parameters, state.first_moment, state.second_moment)
    return results, b"".join(flat.vector.tobytes() for flat in flats)


@pytest.mark.parametrize("count", [5, 7])
@pytest.mark.parametrize("size", [2, 3, 4, 6])
def test_a_step_has_the_same_bits_for_any_number_of_processes(size: int, count: int) -> None:
    """Also where a process has no micro-batch at all."""
    assert in_processes(size, lambda own: steps(own, count)) == [steps(ALONE, count)] * size


@pytest.mark.parametrize("name", BACKENDS)
def test_fast_steps_have_the_same_bits_for_any_number_of_processes(name: str) -> None:
    backend = BACKENDS[name]
    assert in_processes(3, lambda own: steps(own, 5, backend)) == [steps(ALONE, 5, backend)] * 3


def test_each_process_makes_its_own_micro_batches_only() -> None:
    made: dict[int, list[int]] = {0: [], 1: []}

    def take_step(own: MpiProcesses) -> None:
        def make(number: int) -> Batch:
            made[own.rank].append(number)
            return batches[number]

        batches = micro_batches(5)
        config = tiny_config(batch_size=ROWS, max_length=9)
        state = tiny_state(config, "float64")
        model = tiny_model(config)
        train_step(config, reference, electra, model, state, MadeOnDemand(5, make), own)

    in_processes(2, take_step)
    assert made == {0: [0, 1], 1: [2, 3, 4]}


def test_entries_are_made_on_demand() -> None:
    squares = MadeOnDemand(4, lambda number: number**2)
    assert list(squares) == [0, 1, 4, 9]
    assert squares[1:3] == [1, 4]
    assert squares[-1] == 9
    with pytest.raises(IndexError):
        squares[4]


class OwnCounts(MpiProcesses):
    """A mutant: every process divides by what it has counted itself."""

    def gather(self, value: Any) -> Any:
        values = super().gather(value)
        if value and isinstance(value[0], step.MicroBatch):
            own = value[0].counts
            values = [[one._replace(counts=own) for one in part] for part in values]
        return values


class OwnPlaces(MpiProcesses):
    """A mutant: every process begins to number its examples at 0."""

    def gather(self, value: Any) -> Any:
        values = super().gather(value)
        if value and isinstance(value[0], step.MicroBatch):
            values = [[one._replace(examples=0) for one in part] for part in values]
        return values


class OtherOrder(MpiProcesses):
    """A mutant: losses are added in another order of the processes."""

    def gather(self, value: Any) -> Any:
        return super().gather(value)[::-1]


class LastIsLost(MpiProcesses):
    """A mutant: the gradient of the last micro-batch is not sent."""

    def sum_slices(self, vectors: Any, counts: Any, result: Any, fold: Any) -> None:
        if self.rank == self.size - 1:
            vectors[-1][...] = 0
        super().sum_slices(vectors, counts, result, fold)


@pytest.mark.parametrize("mutant", [OwnCounts, OwnPlaces, OtherOrder, LastIsLost])
def test_the_comparison_notices(mutant: type[MpiProcesses]) -> None:
    def take_steps(own: MpiProcesses) -> tuple[list[StepResult], bytes]:
        own.__class__ = mutant
        return steps(own, 5)

    try:
        found = in_processes(3, take_steps)
    except AssertionError:  # they do not even do the same
        return
    assert found != [steps(ALONE, 5)] * 3


# The loop


def trained(
    path: Path, size: int, stop_at: dict[int, tuple[int, int]], **changes: Any
) -> list[tuple[int, int | None]]:
    """Train a line in ``size`` processes; return the step where each ends, and its signal.

    ``stop_at`` maps ranks to a signal, and to the step before which it comes.
    """
    config = dataclasses.replace(CONFIG, **changes)

    def train(own: MpiProcesses) -> tuple[int, int | None]:
        stop = StopSignals()
        trainer = trainer_in(path, own, config, StoppedTask(stop, *stop_at.get(own.rank, (0, -1))))
        with trainer.run:
            trainer.train(stop, config.steps)
        return trainer.state.step, stop.requested

    return in_processes(size, train)


class StoppedTask(LineTask):
    """A line, and a signal that comes while the step number ``step`` is prepared."""

    def __init__(self, stop: StopSignals, number: int, step: int) -> None:
        super().__init__()
        self._stop, self._number, self._step = stop, number, step

    def batches(self, step: int) -> Any:
        if step == self._step:
            self._stop._receive(self._number, None)
        return super().batches(step)


def trainer_in(path: Path, own: Processes, config: TrainingConfig, task: LineTask) -> Trainer:
    run = opened_by_first(own, lambda: RunDirectory.create(path, to_toml(config), {}))
    specs = task.objective.parameter_specs(task.model)
    values = initial_values(specs, config.seed + own.rank, 0.5)  # the first one's count
    state = TrainingState(reference, specs, values)
    trainer = Trainer(config, reference, state, task, run, quiet(), own)
    trainer.share_state()
    return trainer


def test_a_run_of_two_processes_leaves_what_a_run_of_one_leaves(tmp_path: Path) -> None:
    assert trained(tmp_path / "two", 2, {}) == [(10, None)] * 2
    assert trained(tmp_path / "one", 1, {}) == [(10, None)]
    assert what_is_left(tmp_path / "two") == what_is_left(tmp_path / "one")


@pytest.mark.parametrize(
    ("stop_at", "number"),
    [
        ({0: (signal.SIGINT, 2)}, signal.SIGINT),
        ({1: (signal.SIGTERM, 2)}, signal.SIGTERM),
        ({0: (signal.SIGINT, 2), 1: (signal.SIGTERM, 2)}, signal.SIGTERM),
        ({1: (signal.SIGINT, 2), 0: (signal.SIGINT, 3)}, signal.SIGINT),
    ],
)
def test_a_signal_to_one_stops_all_after_the_same_step(
    stop_at: dict[int, tuple[int, int]], number: int, tmp_path: Path
) -> None:
    """It comes during the third step, which is completed and saved."""
    assert trained(tmp_path / "run", 2, stop_at) == [(3, number)] * 2
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert saved.name == "step-00000003"


def test_processes_agree_on_a_signal_that_only_one_got() -> None:
    """A signal that comes later to the others is their first, and does not end them at once."""

    def agree(own: MpiProcesses) -> tuple[bool, int | None]:
        stop = StopSignals(is_silent=True)
        assert not stop.agree(own)
        if own.rank == 1:
            stop._receive(signal.SIGTERM, None)
        stopped = stop.agree(own)
        if own.rank == 0:
            stop._receive(signal.SIGTERM, None)
        return stopped, stop.requested

    assert in_processes(2, agree) == [(True, signal.SIGTERM)] * 2


def test_the_clock_of_the_first_process_counts(tmp_path: Path) -> None:
    def train(own: MpiProcesses) -> int:
        trainer = trainer_in(tmp_path / "run", own, CONFIG, LineTask())
        deadline = time.monotonic() + (0 if own.rank == 0 else 1000)
        with trainer.run:
            trainer.train(StopSignals(), 10, deadline)
        return trainer.state.step

    assert in_processes(3, train) == [1] * 3

    def never(own: MpiProcesses) -> bool:
        return StopSignals().agree(own, is_late=own.rank == 1)

    assert in_processes(2, never) == [False, False]


def test_the_best_model_and_an_early_end_are_the_same_for_all(tmp_path: Path) -> None:
    def train(own: MpiProcesses) -> tuple[int, list[int]]:
        task = LineTask()
        task.best, task.enough = {1}, 2
        trainer = trainer_in(
            tmp_path / "run", own, dataclasses.replace(CONFIG, evaluate_every=3), task
        )
        with trainer.run:
            trainer.train(StopSignals(), 10)
            return trainer.state.step, [one["step"] for one in trainer.held_out_records()]

    assert in_processes(2, train) == [(6, [3, 6])] * 2
    (best,) = (tmp_path / "run" / "best").iterdir()
    assert best.name == "step-00000003"


def test_every_checkpoint_is_saved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[tuple[str, int]] = []

    def noting(folder: Path, step: int, *rest: Any, **options: Any) -> Any:
        saved.append((folder.name, step))
        return save_checkpoint(folder, step, *rest, **options)

    monkeypatch.setattr(saving, "save_checkpoint", noting)

    def train(own: MpiProcesses) -> None:
        task = LineTask()
        task.best = {1}
        config = dataclasses.replace(CONFIG, evaluate_every=3, checkpoint_every=5)
        trainer = trainer_in(tmp_path / "run", own, config, task)
        with trainer.run:
            trainer.train(StopSignals(), 10)

    in_processes(2, train)
    assert saved == [("checkpoints", 3), ("best", 3), ("checkpoints", 5), ("checkpoints", 10)]


def test_a_resumed_run_gives_all_the_state_of_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run"
    trained(path, 1, {0: (signal.SIGINT, 4)})

    def resume(own: MpiProcesses) -> tuple[int, bytes]:
        run = opened_by_first(own, lambda: RunDirectory.resume(path))
        task = LineTask()
        specs = task.objective.parameter_specs(task.model)
        state = TrainingState(reference, specs, initial_values(specs, own.rank, 0.5))
        trainer = Trainer(CONFIG, reference, state, task, run, quiet(), own)
        with run:
            trainer.restore(CONFIG)
            trainer.train(StopSignals(), 10)
        return state.step, state.parameters.vector.tobytes() + state.first_moment.vector.tobytes()

    first, second, third = in_processes(3, resume)
    assert first == second == third
    assert first[0] == 10
    trained(tmp_path / "straight", 1, {})
    assert what_is_left(path) == what_is_left(tmp_path / "straight")


def test_an_error_of_the_first_process_is_an_error_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk is full; the others do not wait for it."""

    def refuse(*_: Any, **__: Any) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(saving, "save_checkpoint", refuse)

    def train(own: MpiProcesses) -> str:
        trainer = trainer_in(tmp_path / "run", own, CONFIG, LineTask())
        with trainer.run, pytest.raises(UserError) as error:
            trainer.train(StopSignals(), 10)
        return str(error.value)

    assert in_processes(2, train) == ["the disk is full"] * 2


def test_a_figure_that_is_not_finite_is_an_error_of_all(tmp_path: Path) -> None:
    class Broken(LineTask):
        def evaluate(self, parameters: Any, step: int) -> Evaluation:
            evaluation = super().evaluate(parameters, step)
            return evaluation._replace(metrics={"slope": float("nan")})

    def train(own: MpiProcesses) -> None:
        trainer = trainer_in(tmp_path / "run", own, CONFIG, Broken())
        with trainer.run, pytest.raises(UserError, match="step 5 is not logged"):
            trainer.train(StopSignals(), 10)

    in_processes(2, train)
    assert all(one["split"] == "training" for one in read_records(tmp_path / "run/metrics.jsonl"))


@pytest.mark.parametrize("flat", ["parameters", "first_moment", "second_moment"])
def test_processes_that_drift_apart_do_not_save(flat: str, tmp_path: Path) -> None:
    """A bit has flipped in the memory of the second one."""

    def train(own: MpiProcesses) -> None:
        trainer = trainer_in(tmp_path / "run", own, CONFIG, LineTask())
        with trainer.run:
            trainer.save()
            if own.rank == 1:
                vector = getattr(trainer.state, flat).vector
                vector[1] = np.nextafter(vector[1], 9)
            with pytest.raises(UserError, match=r"step 0 is not saved: processes [01] and [01] "):
                trainer.save()

    in_processes(2, train)


def test_only_the_first_process_holds_the_lock(tmp_path: Path) -> None:
    """The others neither release it nor delete anything."""

    def open_run(own: MpiProcesses) -> None:
        run = opened_by_first(own, lambda: RunDirectory.create(tmp_path / "run", "", {}))
        if own.rank == 1:
            run.discard(folder=True)
            run.close()
        own.meet()
        assert run.config.exists()
        with pytest.raises(UserError, match="another process"):
            own.of_first(lambda: RunDirectory.resume(run.path))
        own.meet()
        run.discard(folder=True)

    in_processes(2, open_run)
    assert not (tmp_path / "run").exists()


# How many micro-batches there are


@pytest.mark.parametrize(
    ("batch_size", "chosen", "processes", "accumulate"),
    [(8, [], 1, 2), (8, [], 4, 4), (8, ["accumulate"], 4, 2), (8, [], 3, 2)],
)
def test_a_new_run_has_a_micro_batch_for_each_process(
    batch_size: int, chosen: list[str], processes: int, accumulate: int
) -> None:
    config = TrainingConfig(batch_size=batch_size, accumulate=2, learning_rate=0.5)
    shared = shared_out(config, chosen, processes)
    assert shared == dataclasses.replace(config, accumulate=accumulate)


@pytest.mark.parametrize(
    ("batch_size", "processes", "message"),
    [
        (12, 4, r"--set accumulate=4$"),
        (8, 3, r"--set accumulate=4, or a batch_size that 3 divides, for an equal share each$"),
        (24, 5, r"--set accumulate=6, or a batch_size that 5 divides"),
        (3, 4, r"batch_size = 3 is too small for 4 processes: start 3 at most, or set a larger"),
    ],
)
def test_too_few_micro_batches_are_refused_with_what_to_set(
    batch_size: int, processes: int, message: str
) -> None:
    config = TrainingConfig(batch_size=batch_size)
    require_micro_batches(config, 1)
    with pytest.raises(UserError, match=message):
        require_micro_batches(config, processes)
    with pytest.raises(UserError, match="cannot change in a run that has begun: start 1 at most"):
        require_micro_batches(config, processes, resumed=True)


def test_a_share_is_never_empty_with_as_many_micro_batches() -> None:
    for size in range(1, 20):
        assert all(share_of(size, rank, size) for rank in range(size))
