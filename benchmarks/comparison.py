"""Compare rivals: seconds, memory, ratios to PyTorch and to the floor, data work."""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.electra_step import make_batches
from benchmarks.harness import print_table, spread
from benchmarks.matrix_products import flop_by
from benchmarks.rivals import (
    OURS,
    PYTORCH,
    Rival,
    measure,
    program_of,
    ratios,
    tokens_of,
)
from benchmarks.turns import Program, Turn
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.errors import UserError
from electra_ref.training.pretraining.products import step_products

FLOOR, DATA = "floor", "data work"  # not rivals, but timed in their rounds
MEMORY_OF = "pytorch-float32"  # the rival whose memory is the measure
LOSS_TOLERANCE = 0.05  # seeds differ; all start at a loss of ln V + 50 ln 2


def comparison(
    config: PretrainingConfig, rivals: list[Rival], options: argparse.Namespace
) -> dict[str, Any]:
    """Time all rivals in turns, print the tables, return the figures."""
    products = step_products(config)
    programs = {rival.name: program_of(rival, config, options.threads) for rival in rivals}
    programs[FLOOR] = Program("benchmarks.matrix_products", "prepare_floor", {"products": products})
    programs[DATA] = Program("benchmarks.electra_step", "prepare_data_work", {"config": config})
    batches = make_batches(config, options.warmup + options.repeats)
    turns = measure(programs, [dict.fromkeys(programs, batch) for batch in batches], options)
    check_losses({rival.name: turns[rival.name][-1].figures["loss"] for rival in rivals})
    flop, tokens = sum(product.flop for product in products), tokens_of(config)
    names = [*(rival.name for rival in rivals), FLOOR]
    results = [
        result(name, turns[name], turns[rivals[0].name], turns[FLOOR], flop, tokens)
        for name in names
    ]
    relative = relative_to_pytorch(rivals, turns)
    fastest = min((rival.name for rival in rivals), key=lambda name: _median(turns[name]))
    data = data_shares(turns[DATA], turns[fastest])
    print(
        f"{config.preset}: batch {config.batch_size}, length {config.max_length}, vocabulary "
        f"{config.vocab_size}, {options.threads} threads, {options.repeats} rounds; "
        f"{flop / 1e9:.1f} GFLOP a step, {flop / tokens / 1e6:.1f} MFLOP a token\n"
    )
    print_results(results, rivals[0].name)
    print_relative(relative)
    print_data(data, fastest)
    return {
        "flop_per_step": flop,
        "flop_per_token": flop / tokens,
        "flop_by_product": flop_by("name", products),
        "results": results,
        "relative_to_pytorch": relative,
        "data_work": {"share_of": fastest, **data},
    }


def check_losses(losses: dict[str, float]) -> None:
    """Raise UserError if, after the same steps, the losses of the rivals are too far apart."""
    first, expected = next(iter(losses.items()))
    for name, loss in losses.items():
        if not abs(loss - expected) <= LOSS_TOLERANCE * abs(expected):  # true for NaN, too
            raise UserError(
                f"{first} has come to a loss of {expected:.2f} and {name} to {loss:.2f}: "
                "they do not do the same work"
            )


def result(
    name: str, turns: list[Turn], first: list[Turn], floor: list[Turn], flop: int, tokens: int
) -> dict[str, Any]:
    """Return the figures of one rival; ratios are formed round by round."""
    seconds = [turn.seconds for turn in turns]
    median = _median(turns)
    return {
        "name": name,
        "seconds": spread(seconds),
        "all_seconds": seconds,
        "cpu_seconds": spread([turn.cpu_seconds for turn in turns]),
        "tokens_per_second": tokens / median,
        "gigaflop_per_second": flop / median / 1e9,
        "ratio_to_first": spread(ratios(turns, first)),
        "ratio_to_floor": spread(ratios(turns, floor)),
        "peak_megabytes": turns[-1].peak_bytes / 1e6,
        "device_megabytes": turns[-1].figures.get("device_bytes", 0.0) / 1e6,
        "loss": turns[-1].figures.get("loss"),
    }


def relative_to_pytorch(
    rivals: list[Rival], turns: dict[str, list[Turn]]
) -> dict[str, dict[str, Any]]:
    """Return for each rival of this project how many times as fast as each PyTorch mode it is.

    ``memory`` is its peak divided by that of MEMORY_OF, None if that was not timed.
    """
    modes = [rival.name for rival in rivals if rival.program == PYTORCH]
    if not modes:
        return {}
    fastest = min(modes, key=lambda name: _median(turns[name]))
    relative = {}
    for name in (rival.name for rival in rivals if rival.program == OURS):
        peak = turns[name][-1].peak_bytes
        relative[name] = {
            "times_as_fast_as": {mode: spread(ratios(turns[mode], turns[name])) for mode in modes},
            "fastest_mode": fastest,
            "memory": peak / turns[MEMORY_OF][-1].peak_bytes if MEMORY_OF in modes else None,
        }
    return relative


def data_shares(work: list[Turn], steps: list[Turn]) -> dict[str, dict[str, float]]:
    """Return seconds and percent of a step, round by round, for each part and for all parts."""
    shares = {}
    for name in (*work[0].figures, "all"):
        seconds = [
            sum(turn.figures.values()) if name == "all" else turn.figures[name] for turn in work
        ]
        percent = [100 * s / step.seconds for s, step in zip(seconds, steps, strict=True)]
        shares[name] = {
            "median_seconds": spread(seconds)["median"],
            "percent": spread(percent)["median"],
        }
    return shares


def print_results(results: list[dict[str, Any]], first: str) -> None:
    """Print one line a rival."""
    header = ["", "s/step", "min", "max", "CPU s", "tokens/s", f"x {first}", "min", "max"]
    header += ["x floor", "min", "max", "GFLOP/s", "peak MB", "GPU MB", "loss"]
    rows = []
    for r in results:
        loss = "" if r["loss"] is None else f"{r['loss']:.2f}"
        rows.append(
            (
                r["name"],
                *_three(r["seconds"], 3),
                f"{r['cpu_seconds']['median']:.3f}",
                f"{r['tokens_per_second']:,.0f}",
                *_three(r["ratio_to_first"], 2),
                *_three(r["ratio_to_floor"], 2),
                f"{r['gigaflop_per_second']:.1f}",
                f"{r['peak_megabytes']:,.0f}",
                f"{r['device_megabytes']:,.0f}" if r["device_megabytes"] else "",
                loss,
            )
        )
    print_table(header, rows)


def print_relative(relative: dict[str, dict[str, Any]]) -> None:
    """Print one line for each rival of this project and each PyTorch mode."""
    for name, figures in relative.items():
        print()
        modes = figures["times_as_fast_as"]
        for mode, times in modes.items():
            median, least, most = _three(times, 2)
            fastest = mode == figures["fastest_mode"]
            note = f", the fastest of {len(modes)} PyTorch modes" if fastest else ""
            print(f"{name}: {median} times ({least}-{most}) as fast as {mode}{note}")
        if figures["memory"] is not None:
            print(f"{name}: {figures['memory']:.2f} of the peak memory of {MEMORY_OF}")


def print_data(shares: dict[str, dict[str, float]], rival: str) -> None:
    """Print one line for each part of the data work, and one for all."""
    print(f"\ndata work as a share of the step of {rival}")
    rows = [
        (name, f"{1e3 * part['median_seconds']:.2f}", f"{part['percent']:.2f}")
        for name, part in shares.items()
    ]
    print_table(("part", "ms", "%"), rows)


def _median(turns: list[Turn]) -> float:
    return spread([turn.seconds for turn in turns])["median"]


def _three(figures: dict[str, float], digits: int) -> tuple[str, str, str]:
    median, least, most = (f"{figures[key]:.{digits}f}" for key in ("median", "min", "max"))
    return median, least, most
