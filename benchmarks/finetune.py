"""Rows a second that a classifier learns from, and answers: this project and transformers.

    python -m benchmarks.finetune [--set KEY=VALUE ...] [--workloads NAME ...] [--rows N]
        [--batch-size N] [--repeats N] [--warmup N] [--threads N] [--patience SECONDS]
        [--rivals NAME ...|all]

Every rival has its own process and the same weights. First each answers the same few rows, and its
logits must be those of the reference formulas. Then all take turns: one turn trains on all rows of
a workload, or answers them. Both sides get the same batches: rows sorted by length, padded to the
longest of the batch in multiples of 8; in training they come in a random order. A training step is
forward and backward pass, clipping and AdamW. Figures are medians with the fastest and the slowest
turn; ratios are formed round by round. Tokens do not include padding. CPU s is the time of all
threads on a core; with --threads 1 it is the time on a quiet machine.

Workloads: ``phrases`` are as long as SST-2's training rows (13 pieces on average, [CLS] and [SEP]
included), ``sentences`` as its dev rows (25). The token ids are drawn at random: they do not
matter. The model is ELECTRA-small; ``--set`` changes its sizes.

Modes that torch.compile makes are compiled for each padded length: minutes a length. A rival that
takes longer than ``--patience`` for a turn ends the comparison. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.choosing import check_numbers
from benchmarks.comparison import check_losses
from benchmarks.finetuning import WORKLOADS, Reading, expected_logits, row_lengths
from benchmarks.harness import origin, print_origin, print_summary, print_table, spread
from benchmarks.predict import PACKAGES, check_logits
from benchmarks.prediction_rivals import OURS, RIVALS, Rival, rivals_of
from benchmarks.turns import Program, Turn, take_turns
from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.config.settings import resolve
from electra_ref.errors import UserError

CHECKED_ROWS = 24
WORK = {"train": True, "predict": False}  # whether a turn learns
BASE = {"vocab_size": 30522, "steps": 1_000_000, "warmup_steps": 100}
Task = tuple[str, str]  # workload, work


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0, or 2 after one line of error."""
    options = build_parser().parse_args(arguments)
    try:
        config = config_of(options)
        rivals = rivals_of(options.rivals)
        where_from = origin(PACKAGES)
        print_origin(where_from)
        results = list(measure(config, rivals, options))
    except UserError as error:
        print(f"benchmarks.finetune: error: {error}", file=sys.stderr)
        return 2
    for result in results:
        print_result(result)
    print_summary(
        {
            "benchmark": "finetune",
            "threads": options.threads,
            "batch_size": options.batch_size,
            "repeats": options.repeats,
            "warmup": options.warmup,
            "config": dataclasses.asdict(config),
            "results": results,
            "machine": where_from,
        }
    )
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.finetune",
        description=(__doc__ or "").partition("\n")[0],
        epilog="rivals: " + ", ".join(rival.name for rival in RIVALS if not rival.autocast),
    )
    add = parser.add_argument
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    add("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME")
    add("--work", nargs="+", choices=WORK, default=list(WORK), metavar="NAME", help="train predict")
    add("--rows", type=int, default=256, metavar="N", help="of a turn; default: %(default)s")
    add("--batch-size", type=int, default=32, metavar="N", help="default: %(default)s")
    add("--repeats", type=int, default=7, metavar="N", help="timed rounds; default: %(default)s")
    add("--warmup", type=int, default=1, metavar="N", help="rounds before; default: %(default)s")
    add("--threads", type=int, default=2, metavar="N", help="of each rival; default: %(default)s")
    add("--patience", type=int, default=1800, metavar="SECONDS", help="default: %(default)s")
    add("--rivals", nargs="+", metavar="NAME", help="all: all that can run here. Default: those "
        "but the compiled ones, which take minutes to compile")  # fmt: skip
    return parser


def config_of(options: argparse.Namespace) -> FinetuningConfig:
    """Return the sizes of the model. Raises UserError if they cannot be timed."""
    check_numbers(
        options,
        {"repeats": 1, "warmup": 0, "threads": 1, "rows": 1, "batch_size": 1, "patience": 1},
    )
    return resolve(FinetuningConfig, {}, settings=options.settings, base=BASE)


def measure(
    config: FinetuningConfig, rivals: list[Rival], options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Check the rivals, time them on every workload, yield the figures of each."""
    rivals = [rival for rival in rivals if not rival.autocast]  # bfloat16 is by autocast here
    programs = {rival.name: program_of(rival, config, options.threads) for rival in rivals}
    lengths = {
        name: row_lengths(name, options.rows, config.max_position_embeddings)
        for name in options.workloads
    }
    few = Reading(row_lengths("phrases", CHECKED_ROWS, config.max_position_embeddings), 8, False)
    tasks: list[tuple[Task | None, Reading]] = [
        (None, few._replace(expected=expected_logits(config, few)))
    ]
    for _ in range(options.warmup + options.repeats):
        for workload, rows in lengths.items():
            for work in options.work:
                reading = Reading(rows, options.batch_size, WORK[work])
                tasks.append(((workload, work), reading))
    done: list[Sequence[Turn]] = []

    def on_round(turns: Sequence[Turn]) -> None:
        task, _ = tasks[len(done)]
        done.append(turns)
        if task is None:
            check_logits(rivals, turns)
            return
        seconds = zip(rivals, turns, strict=True)
        told = ", ".join(f"{rival.name} {turn.seconds:.2f} s" for rival, turn in seconds)
        print(f"{' '.join(task)}: {told}", file=sys.stderr)

    rounds = (dict.fromkeys(programs, reading) for _, reading in tasks)
    take_turns(programs, rounds, options.threads, on_round, options.patience)
    for workload, rows in lengths.items():
        for work in options.work:
            chosen = [turns for (task, _), turns in zip(tasks, done, strict=True)
                      if task == (workload, work)]  # fmt: skip
            by_rival = zip(*chosen[options.warmup :], strict=True)
            turns = {rival.name: list(own) for rival, own in zip(rivals, by_rival, strict=True)}
            if WORK[work]:
                check_losses({name: own[-1].figures["loss"] for name, own in turns.items()})
            yield {
                "workload": workload,
                "work": work,
                "rows": len(rows),
                "tokens": sum(rows),
                "results": [rival_figures(name, own, rows) for name, own in turns.items()],
                "times_as_fast": times_as_fast(rivals, turns),
            }


def program_of(rival: Rival, config: FinetuningConfig, threads: int) -> Program:
    """Return the program that the process of ``rival`` runs."""
    if rival.program == OURS:
        arguments = {"config": config, "device": "cpu", "precision": rival.precision}
        return Program("benchmarks.finetuning", "prepare_electra_ref", arguments)
    options = {
        "config": config,
        "precision": rival.precision,
        "attention": rival.attention,
        "compiled": rival.compiled,
        "threads": threads,
    }
    module = "benchmarks.transformers_finetuning"
    return Program(module, "prepare_transformers", options, is_ours=False)


def rival_figures(name: str, turns: Sequence[Turn], rows: Sequence[int]) -> dict[str, Any]:
    """Return the figures of one rival."""
    seconds = [turn.seconds for turn in turns]
    return {
        "name": name,
        "seconds": spread(seconds),
        "cpu_seconds": spread([turn.cpu_seconds for turn in turns]),
        "rows_per_second": spread([len(rows) / s for s in seconds]),
        "tokens_per_second": spread([sum(rows) / s for s in seconds]),
        "peak_megabytes": turns[-1].peak_bytes / 1e6,
    }


def times_as_fast(rivals: list[Rival], turns: dict[str, list[Turn]]) -> dict[str, dict[str, Any]]:
    """Return how many times as fast each rival of this project is as transformers' fastest mode.

    Modes are those of the same precision; ``cpu_seconds`` is the ratio of the time of all threads,
    to the mode that takes the least of it.
    """
    ratios = {}
    for ours in (rival for rival in rivals if rival.program == OURS):
        modes = [r.name for r in rivals if r.program != OURS and r.precision == ours.precision]
        if not modes:
            continue
        figures: dict[str, Any] = {"modes": len(modes)}
        for key in ("seconds", "cpu_seconds"):
            times = {name: [getattr(turn, key) for turn in turns[name]] for name in modes}
            fastest = min(modes, key=lambda name: spread(times[name])["median"])
            own = [getattr(turn, key) for turn in turns[ours.name]]
            pairs = zip(times[fastest], own, strict=True)
            figures[key] = {"mode": fastest, **spread([theirs / mine for theirs, mine in pairs])}
        ratios[ours.name] = figures
    return ratios


def print_result(result: dict[str, Any]) -> None:
    """Print one line a rival, and the ratios."""
    print(f"\n{result['work']} {result['workload']}: {result['rows']} rows, "
          f"{result['tokens']:,} tokens\n")  # fmt: skip
    rows = []
    for r in result["results"]:
        each = [f"{r['rows_per_second'][key]:,.1f}" for key in ("median", "min", "max")]
        cpu, tokens = r["cpu_seconds"]["median"], r["tokens_per_second"]["median"]
        rows.append((r["name"], *each, f"{tokens:,.0f}", f"{cpu:.2f}",
                     f"{r['peak_megabytes']:,.0f}"))  # fmt: skip
    print_table(["", "rows/s", "min", "max", "tokens/s", "CPU s", "peak MB"], rows)
    for name, figures in result["times_as_fast"].items():
        for key, what in (("seconds", "time"), ("cpu_seconds", "CPU time")):
            ratio = "{median:.2f} ({min:.2f}-{max:.2f}) times as fast as {mode}".format(
                **figures[key])  # fmt: skip
            print(f"{name}, {what}: {ratio}, the fastest of {figures['modes']} modes")


if __name__ == "__main__":
    sys.exit(main())
