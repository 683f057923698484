"""Seconds of a training step in several processes, and what a network would make of it.

    python -m benchmarks.processes [--preset small] [--set KEY=VALUE ...] [--batch-size N]
        [--max-length N] [--vocab-size N] [--precision NAME] [--processes K] [--repeats N]
        [--warmup N] [--model | --link MBIT] [--latency MICROSECONDS]
        [--tokens-per-second PRESET=N ...]

K processes of one thread each take turns with one process of K threads. Both take the same steps on
the same K micro-batches, and must leave the same bits. Ratios are formed round by round. CPU s is
the time of all threads on a core, spinning included: threads that spin for one that other work
keeps from its core make the one process slow on a busy machine. Then the sum of a gradient among
the processes takes turns with MPI's own Allreduce of the same vector.

Last comes a table of efficiencies for 1 to 1,024 machines, by the formula in ``network_model``;
--model prints nothing else and needs no MPI. Its steps are those of the presets small, base and
large with their own batches; --tokens-per-second says how fast one machine is.

--link MBIT measures one point of the formula instead: two processes at the two ends of a link of so
many megabits a second, which takes root (``limited_link``). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.choosing import check_numbers
from benchmarks.harness import origin, print_origin, print_summary, print_table, spread
from benchmarks.limited_link import limited_link
from benchmarks.network_model import (
    LATENCY,
    Work,
    exchange_seconds,
    model_figures,
    network_of,
    parameters_of,
    print_model,
    work_of,
)
from benchmarks.ranks import STEP, SUM, Ranks, mpiexec
from benchmarks.rivals import tokens_of
from benchmarks.train_step import SIZES
from benchmarks.turns import SETTLE_SECONDS
from electra_ref.config.pretraining import PRESETS, PretrainingConfig, resolve_config
from electra_ref.errors import UserError

PACKAGES = ("numpy", "numba", "mpi4py", "mpich", "openmpi")
MODELLED = ("small", "base", "large")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0, or 2 after one line of error."""
    options = build_parser().parse_args(arguments)
    try:
        config, works = config_of(options), works_of(options)
        where_from = origin(PACKAGES)
        print_origin(where_from)
        if options.link:
            figures: dict[str, Any] = {"link": link_figures(config, options)}
        else:
            figures = {} if options.model else turns_figures(config, options)
            figures["model"] = model_figures(works, options.latency / 1e6)
            print_model(works, figures["model"])
    except UserError as error:
        print(f"benchmarks.processes: error: {error}", file=sys.stderr)
        return 2
    print_summary(
        {
            "benchmark": "processes",
            "processes": options.processes,
            "precision": options.precision,
            "config": dataclasses.asdict(config),
            **figures,
            "machine": where_from,
        }
    )
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.processes", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--preset", choices=list(PRESETS), default="small", help="default: %(default)s")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    for key, size in SIZES.items():
        add(f"--{key.replace('_', '-')}", type=int, metavar="N", help=f"default: {size}")
    add("--precision", choices=["float32", "bfloat16"], default="float32")
    add("--processes", type=int, default=2, metavar="K", help="default: %(default)s")
    add("--repeats", type=int, default=10, metavar="N", help="timed rounds; default: %(default)s")
    add("--warmup", type=int, default=2, metavar="N", help="rounds before; default: %(default)s")
    microseconds = round(1e6 * LATENCY)
    add("--latency", type=float, default=microseconds, metavar="MICROSECONDS",
        help="of a message in the table; default: %(default)s")  # fmt: skip
    add("--tokens-per-second", nargs="+", default=[], metavar="PRESET=N",
        help="of one machine in the table; default: measured, see network_model")  # fmt: skip
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--model", action="store_true", help="print the table only")
    other.add_argument("--link", type=int, metavar="MBIT", help="measure over such a link (root)")
    return parser


def config_of(options: argparse.Namespace) -> PretrainingConfig:
    """Return the configuration to time. Raises UserError if it cannot be timed."""
    check_numbers(options, {"repeats": 1, "warmup": 0, "processes": 2, "latency": 0})
    if options.link is not None:
        check_numbers(options, {"link": 1})
        if options.processes != 2:
            raise UserError(f"--processes {options.processes}: a link has two ends")
    return resolve_config(preset=options.preset, settings=settings_of(options))


def settings_of(options: argparse.Namespace) -> list[str]:
    """Return all settings; each process has one micro-batch."""
    given = [f"{key}={n}" for key in SIZES if (n := getattr(options, key)) is not None]
    sizes = [f"{key}={size}" for key, size in SIZES.items()]
    return [*sizes, *options.settings, *given, f"accumulate={options.processes}"]


def works_of(options: argparse.Namespace) -> dict[str, Work]:
    """Return the steps of the table. Raises UserError for a speed that is none."""
    speeds: dict[str, float] = {}
    for given in options.tokens_per_second:
        preset, _, number = given.partition("=")
        try:
            speeds[preset] = float(number)
        except ValueError:
            speeds[preset] = 0.0
        if preset not in MODELLED or not 0 < speeds[preset] < float("inf"):
            raise UserError(
                f"--tokens-per-second {given}: write one of {', '.join(MODELLED)}, = and a number"
            )
    return {preset: work_of(preset, speeds.get(preset)) for preset in MODELLED}


def turns_figures(config: PretrainingConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Time steps and sums, print them, return the figures. Raises UserError."""
    count = options.processes
    start = mpiexec()
    names = [f"{count} processes x 1 thread", f"1 process x {count} threads"]
    with (
        Ranks(names[0], [start, "-n", str(count)], 1, order_of(options)) as many,
        Ranks(names[1], [start, "-n", "1"], count, order_of(options)) as one,
    ):
        rounds = [(take(many), take(one)) for _ in range(options.warmup + options.repeats)]
        sums = [many.do(SUM) for _ in range(options.warmup + options.repeats)]
    for each in rounds:
        if each[0]["sha256"] != each[1]["sha256"]:
            raise UserError(f"{names[0]} and {names[1]} do not leave the same bits")
    timed, sums = rounds[options.warmup :], sums[options.warmup :]
    steps = {
        name: step_figures([each[place] for each in timed], config)
        for place, name in enumerate(names)
    }
    ratio, cpu_ratio = (
        spread([a[key] / b[key] for a, b in timed]) for key in ("seconds", "cpu_seconds")
    )
    reduction = reduction_figures(sums, parameters_of(config))
    print_steps(steps)
    print(
        f"time of {names[0]} to that of {names[1]}: {in_words(ratio)}, of the processor "
        f"{in_words(cpu_ratio)}; the same bits"
    )
    tree, plain = (in_words(reduction[name], 1e3) for name in ("tree", "allreduce"))
    print(
        f"sum of {reduction['numbers']:,} numbers: {tree} ms, Allreduce {plain} ms; ratio "
        f"{in_words(reduction['ratio'])}"
    )
    return {"steps": steps, "ratio": ratio, "ratio_of_cpu": cpu_ratio, "reduction": reduction}


def link_figures(config: PretrainingConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Time steps and sums over a link and without it, print them beside the formula's."""
    rounds = range(options.warmup + options.repeats)
    start, order = mpiexec(), order_of(options)
    with (
        limited_link(start, options.link) as link,
        Ranks("over the link", link.launcher, 1, order, link.environment) as apart,
        Ranks("on one machine", [start, "-n", "2"], 1, order) as together,
    ):
        steps = [(take(apart), take(together)) for _ in rounds][options.warmup :]
        sums = [(apart.do(SUM), together.do(SUM)) for _ in rounds][options.warmup :]
    latency = statistics.median(over["one_number"] for over, _ in sums)
    network = network_of(options.link / 1000, latency)
    numbers = parameters_of(config)
    predicted = exchange_seconds(numbers, 2, network)
    sum_here = statistics.median(here["tree"] for _, here in sums)
    step_here = statistics.median(here["seconds"] for _, here in steps)
    figures = {
        "megabits": options.link,
        "latency": latency,
        "numbers": numbers,
        "sum": {"model": predicted, "measured": spread([over["tree"] for over, _ in sums])},
        "allreduce": spread([over["allreduce"] for over, _ in sums]),
        "step": {
            "model": step_here - sum_here + predicted,
            "measured": spread([over["seconds"] for over, _ in steps]),
        },
        "step_on_one_machine": spread([here["seconds"] for _, here in steps]),
    }
    print(
        f"2 processes, link of {options.link} Mb/s, {1e6 * latency:.0f} us a message, "
        f"{numbers:,} numbers"
    )
    print_table(
        ("seconds", "model", "measured", "fastest", "slowest"),
        [
            (what, *(f"{x:.3f}" for x in (each["model"], *ordered(each["measured"]))))
            for what, each in (("sum", figures["sum"]), ("step", figures["step"]))
        ],
    )
    print(f"on one machine, a step takes {in_words(figures['step_on_one_machine'])} s")
    return figures


def order_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of ``ranks.tasks_of``."""
    return {
        "preset": options.preset,
        "settings": settings_of(options),
        "precision": options.precision,
        "batches": options.warmup + options.repeats,
    }


def take(ranks: Ranks) -> dict[str, Any]:
    """Let the processes take a step, and their threads fall asleep."""
    figures = ranks.do(STEP)
    print(f"{ranks.name}: {figures['seconds']:.2f} s", file=sys.stderr)
    time.sleep(SETTLE_SECONDS)
    return figures


def step_figures(turns: list[dict[str, Any]], config: PretrainingConfig) -> dict[str, Any]:
    """Return seconds, tokens a second and processor seconds of some steps."""
    seconds = spread([turn["seconds"] for turn in turns])
    return {
        "seconds": seconds,
        "tokens_per_second": tokens_of(config) / seconds["median"],
        "cpu_seconds": spread([turn["cpu_seconds"] for turn in turns]),
        "all_seconds": [turn["seconds"] for turn in turns],
    }


def reduction_figures(sums: list[dict[str, Any]], numbers: int) -> dict[str, Any]:
    """Return the seconds of both ways to add vectors, and the ratios of each round."""
    return {
        "numbers": numbers,
        "tree": spread([one["tree"] for one in sums]),
        "allreduce": spread([one["allreduce"] for one in sums]),
        "ratio": spread([one["tree"] / one["allreduce"] for one in sums]),
        "one_number": spread([one["one_number"] for one in sums]),
    }


def print_steps(steps: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a line for each way to use the processors."""
    rows = [
        (
            name,
            *(f"{value:.3f}" for value in ordered(each["seconds"])),
            f"{each['tokens_per_second']:,.0f}",
            f"{each['cpu_seconds']['median']:.2f}",
        )
        for name, each in steps.items()
    ]
    print_table(("", "s/step", "fastest", "slowest", "tokens/s", "CPU s"), rows)


def ordered(values: Mapping[str, float]) -> tuple[float, float, float]:
    """Return median, minimum, maximum."""
    return values["median"], values["min"], values["max"]


def in_words(values: Mapping[str, float], unit: float = 1) -> str:
    """Return the median and, in brackets, the range."""
    median, least, most = (f"{unit * value:.3g}" for value in ordered(values))
    return f"{median} ({least}-{most})"


if __name__ == "__main__":
    sys.exit(main())
