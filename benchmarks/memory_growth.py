"""Memory that training steps keep: resident bytes and Python's blocks, over 1,000 steps.

    python -m benchmarks.memory_growth [--rivals NAME ...] [--steps N] [--warmup N] [--threads N]
        [--preset tiny] [--set KEY=VALUE ...]

Each rival trains in its own process. After every ten steps its garbage is collected and its memory
is read. The median of the first tenth of these figures after the warm-up is compared with that of
the last tenth. Whatever a step keeps takes at least one block of Python's allocator, and memory
elsewhere comes in pages of 4,096 bytes. So the growth must be less than one block and less than one
page a step; otherwise the exit code is 1. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.electra_step import make_batches, prepare_electra_ref
from benchmarks.harness import origin, print_origin, print_summary, print_table
from benchmarks.rivals import Rival, our_own, rivals_of
from benchmarks.turns import Program, Worker, resident_bytes
from electra_ref.config.pretraining import PRESETS, PretrainingConfig, resolve_config
from electra_ref.errors import UserError

BOUNDS = {"resident_bytes": 4096.0, "blocks": 1.0}  # a step
DROPOUT = ("hidden_dropout=0.1", "attention_dropout=0.1")  # tiny has none
STEPS_A_TURN = 10
FEWEST_STEPS = 300  # Python keeps 100 to 200 blocks in all, whatever the number of steps


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0, 1 if memory grows, or 2 after one line of error."""
    options = build_parser().parse_args(arguments)
    try:
        if options.warmup < 0:
            raise UserError(f"--warmup {options.warmup}: at least 0")
        if options.steps - options.warmup < FEWEST_STEPS:
            raise UserError(
                f"--steps {options.steps}: at least {FEWEST_STEPS} more than --warmup "
                f"{options.warmup}; in fewer, what Python keeps once looks like growth"
            )
        config = resolve_config(preset=options.preset, settings=[*DROPOUT, *options.settings])
        if not config.vocab_size:  # the rows are invented: no data decide it
            config = dataclasses.replace(config, vocab_size=config.max_vocab_size)
        rivals = our_own(rivals_of(options.rivals))
        where_from = origin(("numpy", "numba"))
        print_origin(where_from)
        growth = {rival.name: measure(rival, config, options) for rival in rivals}
    except UserError as error:
        print(f"benchmarks.memory_growth: error: {error}", file=sys.stderr)
        return 2
    print(f"{config.preset}, {options.steps} steps, the first {options.warmup} not counted\n")
    print_growth(growth)
    excess = [
        f"{name}: {figures[kind]['growth_per_step']:,.2f} {kind} a step, the bound is {bound:,.0f}"
        for name, figures in growth.items()
        for kind, bound in BOUNDS.items()
        if figures[kind]["growth_per_step"] >= bound
    ]
    print("\n" + ("; ".join(excess) or "no growth: less than a block and a page a step"))
    print_summary(
        {
            "benchmark": "memory_growth",
            "steps": options.steps,
            "warmup": options.warmup,
            "threads": options.threads,
            "config": dataclasses.asdict(config),
            "bounds_per_step": BOUNDS,
            "growth": growth,
            "machine": where_from,
        }
    )
    return 1 if excess else 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory_growth",
        description=(__doc__ or "").partition("\n")[0],
    )
    add = parser.add_argument
    add("--preset", choices=list(PRESETS), default="tiny", help="default: %(default)s")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    add("--steps", type=int, default=1100, metavar="N", help="of a rival; default: %(default)s")
    add("--warmup", type=int, default=100, metavar="N", help="steps before; default: %(default)s")
    add("--threads", type=int, default=2, metavar="N", help="of a rival; default: %(default)s")
    names = ["cpu-float32", "cpu-bfloat16"]
    add("--rivals", nargs="+", default=names, metavar="NAME", help="default: " + " ".join(names))
    return parser


def prepare_soak(
    config: PretrainingConfig, device: str, precision: str
) -> Callable[[None], dict[str, float]]:
    """Return a function that trains ``config`` for ten steps and returns the memory in use."""
    train = prepare_electra_ref(config, device, precision)
    batches = list(make_batches(config, STEPS_A_TURN))

    def turn(_: None) -> dict[str, float]:
        for batch in batches:
            train(batch)
        gc.collect()
        return {
            "resident_bytes": float(resident_bytes()),
            "blocks": float(sys.getallocatedblocks()),
        }

    return turn


def measure(
    rival: Rival, config: PretrainingConfig, options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Return the memory of ``rival`` at the start and at the end, and its growth a step."""
    arguments = {"config": config, "device": rival.device, "precision": rival.precision}
    program = Program("benchmarks.memory_growth", "prepare_soak", arguments)
    figures: list[dict[str, float]] = []
    with Worker(rival.name, program, options.threads) as worker:
        for step in range(STEPS_A_TURN, options.steps + 1, STEPS_A_TURN):
            figures.append(worker.step(None).figures)
            if step % 100 == 0:
                print(f"{rival.name}: step {step} of {options.steps}", file=sys.stderr)
    kept = figures[options.warmup // STEPS_A_TURN :]
    return {kind: growth_of([each[kind] for each in kept]) for kind in BOUNDS}


def growth_of(values: Sequence[float]) -> dict[str, float]:
    """Return the medians of the first and last tenth of ``values``, and the growth a step.

    There is one value for every ``STEPS_A_TURN`` steps.
    """
    tenth = max(1, len(values) // 10)
    start, end = statistics.median(values[:tenth]), statistics.median(values[-tenth:])
    steps = STEPS_A_TURN * (len(values) - tenth)
    return {"start": start, "end": end, "growth_per_step": (end - start) / steps}


def print_growth(growth: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print one line a rival."""
    header = ("", "MB at start", "at end", "bytes/step", "blocks at start", "at end", "blocks/step")
    rows: list[Sequence[Any]] = []
    for name, figures in growth.items():
        resident, blocks = figures["resident_bytes"], figures["blocks"]
        rows.append(
            (
                name,
                *(f"{resident[key] / 1e6:.2f}" for key in ("start", "end")),
                f"{resident['growth_per_step']:.1f}",
                *(f"{blocks[key]:,.0f}" for key in ("start", "end")),
                f"{blocks['growth_per_step']:.4f}",
            )
        )
    print_table(header, rows)


if __name__ == "__main__":
    sys.exit(main())
