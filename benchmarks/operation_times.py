"""Where the time of a training step goes: seconds and GFLOP/s of every operation of a backend.

    python -m benchmarks.train_step --profile [--rivals NAME ...]

This is the step that ``train_step`` times, with a clock around every call of the backend, which
takes a microsecond a call. GFLOP/s are the FLOP of the matrix products in an operation, divided by
all its time; an operation such as layer norm has none.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from benchmarks.electra_step import SPECIAL_TOKENS, make_batches, open_rival, synchronizer
from benchmarks.harness import print_table, spread
from benchmarks.matrix_products import flop_by
from benchmarks.rivals import Rival, measure, our_own
from benchmarks.turns import Program, Turn
from electra_ref.batch import Batch
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.freed_memory import keep_freed_memory
from electra_ref.model.objectives.table import objective_of
from electra_ref.training.pretraining.products import step_products
from electra_ref.training.pretraining.task import initial_state
from electra_ref.training.step import train_step

REST = "all else"  # masking, sampling, and Python between the operations


class Timed:
    """Takes the place of a backend and adds the seconds of each call to ``seconds``.

    ``wait`` returns when the device has finished.
    """

    def __init__(self, target: Any, seconds: dict[str, float], wait: Callable[[], None]) -> None:
        self._target, self._seconds, self._wait = target, seconds, wait

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not callable(value):
            return value

        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = value(*arguments, **options)
            self._wait()
            self._seconds[name] += time.perf_counter() - start
            return result

        return timed


def prepare_profile(
    config: PretrainingConfig, device: str, precision: str
) -> Callable[[Batch], dict[str, float]]:
    """Return a step that trains ``config`` on a batch and returns the seconds of each operation."""
    opened = open_rival(device, precision)
    keep_freed_memory()
    seconds: dict[str, float] = defaultdict(float)
    wait = synchronizer(opened)
    objective = objective_of(config)
    model = objective.model_of(config, config, SPECIAL_TOKENS)
    state = initial_state(config, opened.backend, model, opened.dtype)
    backend: Any = Timed(opened.backend, seconds, wait)

    def step(batch: Batch) -> dict[str, float]:
        seconds.clear()
        train_step(config, backend, objective, model, state, [batch])
        return dict(seconds)

    return step


def profile_program(rival: Rival, config: PretrainingConfig) -> Program:
    """Return the program that the process of ``rival`` runs."""
    arguments = {"config": config, "device": rival.device, "precision": rival.precision}
    return Program("benchmarks.operation_times", "prepare_profile", arguments)


def profile(
    config: PretrainingConfig, rivals: list[Rival], options: argparse.Namespace
) -> dict[str, Any]:
    """Time the operations of this project's rivals in turns, print a table, return the figures."""
    programs = {rival.name: profile_program(rival, config) for rival in our_own(rivals)}
    batches = make_batches(config, options.warmup + options.repeats)
    turns = measure(programs, [dict.fromkeys(programs, batch) for batch in batches], options)
    flop = flop_by("operation", step_products(config))
    operations = {name: operation_figures(taken, flop) for name, taken in turns.items()}
    print(f"{config.preset}: milliseconds a step, share of the step, GFLOP/s of matrix products\n")
    print_operations(operations)
    return {"operations": operations}


def operation_figures(turns: list[Turn], flop: dict[str, int]) -> dict[str, dict[str, float]]:
    """Return the median seconds, the share in percent and the GFLOP/s of each operation.

    The slowest come first, then ``REST`` and the whole step.
    """
    seconds = {name: [turn.figures[name] for turn in turns] for name in turns[0].figures}
    medians = {name: spread(values)["median"] for name, values in seconds.items()}
    rest = [turn.seconds - sum(turn.figures.values()) for turn in turns]
    step = spread([turn.seconds for turn in turns])["median"]
    ordered = dict(sorted(medians.items(), key=lambda item: -item[1]))
    ordered |= {REST: spread(rest)["median"], "step": step}
    totals = {**flop, "step": sum(flop.values())}
    return {
        name: {
            "seconds": taken,
            "percent": 100 * taken / step,
            "gigaflop_per_second": totals.get(name, 0) / taken / 1e9 if taken > 0 else 0.0,
        }
        for name, taken in ordered.items()
    }


def print_operations(operations: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print one line an operation and three columns a rival, in the order of the first rival."""
    header = ["", *(cell for name in operations for cell in (name, "%", "GFLOP/s"))]
    names = dict.fromkeys(name for figures in operations.values() for name in figures)
    rows = []
    for name in names:
        cells = [name]
        for figures in operations.values():
            cells += _cells(figures.get(name))
        rows.append(cells)
    print_table(header, rows)


def _cells(figures: dict[str, float] | None) -> tuple[str, str, str]:
    if figures is None:
        return "", "", ""
    rate = figures["gigaflop_per_second"]
    return (
        f"{1e3 * figures['seconds']:.2f}",
        f"{figures['percent']:.1f}",
        f"{rate:.0f}" if rate else "",
    )
