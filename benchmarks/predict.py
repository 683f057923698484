"""Texts a second that a discriminator reads: this project's backends and transformers.

    python -m benchmarks.predict [--preset small] [--set KEY=VALUE ...] [--texts N]
        [--workloads NAME ...] [--batch-tokens N ...] [--repeats N] [--warmup N] [--threads N]
        [--rivals NAME ...|all]

Every rival has its own process and the same weights. First each reads the same few texts, and its
logits must be those of the reference formulas. Then all take turns: one turn reads all texts of a
workload, from token ids to a logit for each token. Both sides get the same batches: the texts
sorted by length, each batch padded to its longest text. How many tokens a batch holds is a matter
of speed, so several sizes are timed, and each rival is judged by its own best one. Figures are
medians with the fastest and the slowest turn; ratios are formed round by round. Tokens do not
include padding. CPU s is the time of all threads on a core; with --threads 1 it is the time on a
quiet machine.

Workloads: ``sentences`` are as long as those of the documentation that comes with Python, counted
in words and punctuation marks, [CLS] and [SEP] (median 19, at most 128 are read); ``128`` and
``512`` are texts of that many tokens. The token ids are drawn at random: they do not matter.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.choosing import check_numbers
from benchmarks.harness import origin, print_origin, print_summary, print_table, spread
from benchmarks.prediction import Reading, expected_logits, text_lengths
from benchmarks.prediction_rivals import OURS, RIVALS, Rival, program_of, rivals_of
from benchmarks.turns import Turn, take_turns
from electra_ref.config.pretraining import PRESETS, PretrainingConfig, resolve_config
from electra_ref.errors import UserError

PACKAGES = ("numpy", "numba", "torch", "transformers")
WORKLOADS = ("sentences", "128", "512")
BATCH_TOKENS = (1024, 2048, 4096)
CHECKED_TEXTS = 24
TOLERANCES = {"float32": 1e-5, "bfloat16": 0.05}  # of the norm of the logits
Turns = dict[tuple[str, int], list[Turn]]  # by rival and tokens of a batch


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0, or 2 after one line of error."""
    options = build_parser().parse_args(arguments)
    try:
        config = config_of(options)
        rivals = rivals_of(options.rivals)
        where_from = origin(PACKAGES)
        print_origin(where_from)
        results = measure(config, rivals, options)
    except UserError as error:
        print(f"benchmarks.predict: error: {error}", file=sys.stderr)
        return 2
    for workload in results:
        print_workload(workload)
    print_summary(
        {
            "benchmark": "predict",
            "threads": options.threads,
            "repeats": options.repeats,
            "warmup": options.warmup,
            "config": dataclasses.asdict(config),
            "workloads": results,
            "machine": where_from,
        }
    )
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.predict",
        description=(__doc__ or "").partition("\n")[0],
        epilog="rivals: " + ", ".join(rival.name for rival in RIVALS),
    )
    add = parser.add_argument
    add("--preset", choices=list(PRESETS), default="small", help="default: %(default)s")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    add("--texts", type=int, default=512, metavar="N", help="of sentences; default: %(default)s")
    add("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME")
    add("--batch-tokens", nargs="+", type=int, default=list(BATCH_TOKENS), metavar="N")
    add("--repeats", type=int, default=7, metavar="N", help="timed rounds; default: %(default)s")
    add("--warmup", type=int, default=1, metavar="N", help="rounds before; default: %(default)s")
    add("--threads", type=int, default=2, metavar="N", help="of each rival; default: %(default)s")
    add(
        "--rivals",
        nargs="+",
        metavar="NAME",
        help="see below. all: all that can run here. Default: those but the compiled ones, which "
        "take minutes to compile",
    )
    return parser


def config_of(options: argparse.Namespace) -> PretrainingConfig:
    """Return the sizes of the model. Raises UserError if they cannot be timed."""
    check_numbers(options, {"repeats": 1, "warmup": 0, "threads": 1, "texts": 1, "batch_tokens": 1})
    return resolve_config(preset=options.preset, settings=["vocab_size=30522", *options.settings])


def measure(
    config: PretrainingConfig, rivals: list[Rival], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Check the rivals and time them on every workload; return the figures of each."""
    programs = {rival.name: program_of(rival, config, options.threads) for rival in rivals}
    lengths = {
        name: text_lengths(name, options.texts, config.max_position_embeddings)
        for name in options.workloads
    }
    tasks: list[tuple[str, Reading]] = [("check", checked_reading(config))]
    for name, texts in lengths.items():
        for _ in range(options.warmup + options.repeats):
            tasks += [(name, Reading(texts, tokens)) for tokens in options.batch_tokens]
    done: list[Sequence[Turn]] = []

    def on_round(turns: Sequence[Turn]) -> None:
        name, reading = tasks[len(done)]
        done.append(turns)
        if len(done) == 1:
            check_logits(rivals, turns)
        seconds = ", ".join(f"{rival.name} {turn.seconds:.2f} s" for rival, turn in zip(
            rivals, turns, strict=True))  # fmt: skip
        print(f"{name}, {reading.batch_tokens} tokens a batch: {seconds}", file=sys.stderr)

    rounds = (dict.fromkeys(programs, reading) for _, reading in tasks)
    taken = take_turns(programs, rounds, options.threads, on_round)
    return list(figures_of(rivals, lengths, tasks, taken, options))


def checked_reading(config: PretrainingConfig) -> Reading:
    """Return a few texts with the logits that the reference formulas give them."""
    lengths = text_lengths("sentences", CHECKED_TEXTS, config.max_position_embeddings)
    reading = Reading(lengths, 256)
    return reading._replace(expected=expected_logits(config, reading))


def check_logits(rivals: list[Rival], turns: Sequence[Turn]) -> None:
    """Raise UserError unless all rivals found the expected logits."""
    for rival, turn in zip(rivals, turns, strict=True):
        error = turn.figures["error"]
        if not error <= TOLERANCES[rival.precision]:  # true for NaN, too
            raise UserError(f"{rival.name}: its logits are off by {error:.1e} of their norm")


def figures_of(
    rivals: list[Rival],
    lengths: Mapping[str, Sequence[int]],
    tasks: Sequence[tuple[str, Reading]],
    taken: Mapping[str, list[Turn]],
    options: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    """Yield the figures of each workload."""
    for workload, texts in lengths.items():
        turns: Turns = {}
        for rival in rivals:
            for (name, reading), turn in zip(tasks, taken[rival.name], strict=True):
                if name == workload:
                    turns.setdefault((rival.name, reading.batch_tokens), []).append(turn)
        turns = {key: timed[options.warmup :] for key, timed in turns.items()}
        results = [rival_figures(rival, turns, options.batch_tokens, texts) for rival in rivals]
        yield {
            "workload": workload,
            "texts": len(texts),
            "tokens": sum(texts),
            "results": results,
            "times_as_fast": times_as_fast(rivals, results, turns),
        }


def rival_figures(
    rival: Rival, turns: Turns, sizes: Sequence[int], lengths: Sequence[int]
) -> dict[str, Any]:
    """Return the figures of one rival with the batches that suit it best."""
    seconds = {size: spread([t.seconds for t in turns[rival.name, size]]) for size in sizes}
    best = min(sizes, key=lambda size: seconds[size]["median"])
    taken = turns[rival.name, best]
    return {
        "name": rival.name,
        "batch_tokens": best,
        "seconds": seconds[best],
        "seconds_by_batch_tokens": {size: spread_["median"] for size, spread_ in seconds.items()},
        "cpu_seconds": spread([turn.cpu_seconds for turn in taken]),
        "tokens_per_second": spread([sum(lengths) / turn.seconds for turn in taken]),
        "texts_per_second": spread([len(lengths) / turn.seconds for turn in taken]),
        "padding": taken[0].figures["padding"],
        "peak_megabytes": taken[-1].peak_bytes / 1e6,
    }


def times_as_fast(
    rivals: list[Rival], results: list[dict[str, Any]], turns: Turns
) -> dict[str, dict[str, Any]]:
    """Return how many times as fast each rival of this project is as transformers' fastest mode.

    Modes are those of the same precision; ``cpu_seconds`` is the ratio of the time of all threads.
    """
    best = {r["name"]: turns[r["name"], r["batch_tokens"]] for r in results}
    ratios = {}
    for ours in (rival for rival in rivals if rival.program == OURS):
        others = [r for r in rivals if r.program != OURS and r.precision == ours.precision]
        if not others:
            continue
        medians = {r.name: spread([t.seconds for t in best[r.name]])["median"] for r in others}
        fastest = min(medians, key=lambda name: medians[name])
        pairs = list(zip(best[fastest], best[ours.name], strict=True))
        ratios[ours.name] = {
            "fastest_mode": fastest,
            "modes": len(others),
            "seconds": spread([other.seconds / turn.seconds for other, turn in pairs]),
            "cpu_seconds": spread([other.cpu_seconds / turn.cpu_seconds for other, turn in pairs]),
        }
    return ratios


def print_workload(workload: dict[str, Any]) -> None:
    """Print one line a rival, and the ratios."""
    print(f"\n{workload['workload']}: {workload['texts']} texts, {workload['tokens']:,} tokens\n")
    header = ["", "tokens/s", "min", "max", "texts/s", "CPU s", "tokens a batch", "padding %"]
    header += ["peak MB"]
    rows = []
    for r in workload["results"]:
        tokens = [f"{r['tokens_per_second'][key]:,.0f}" for key in ("median", "min", "max")]
        rows.append((
            r["name"], *tokens, f"{r['texts_per_second']['median']:,.1f}",
            f"{r['cpu_seconds']['median']:.2f}", str(r["batch_tokens"]),
            f"{100 * r['padding']:.1f}", f"{r['peak_megabytes']:,.0f}",
        ))  # fmt: skip
    print_table(header, rows)
    for name, ratio in workload["times_as_fast"].items():
        times, cpu = (
            "{median:.2f} ({min:.2f}-{max:.2f})".format(**ratio[key])
            for key in ("seconds", "cpu_seconds")
        )
        print(
            f"\n{name}: {times} times as fast as {ratio['fastest_mode']}, the fastest of "
            f"{ratio['modes']} modes; CPU time {cpu}"
        )


if __name__ == "__main__":
    sys.exit(main())
