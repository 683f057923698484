"""How the cost of a training step grows with lengths, batches, widths and vocabularies.

    python -m benchmarks.train_step --scaling [--rivals NAME]

Each size takes turns with the initial size, so that other work on the machine slows both. For a row
of T tokens, attention takes 12 T² C FLOP a layer and everything else a multiple of T. So the time
of attention a token should grow as T, and the rest should stay the same. Both are timed
(``operation_times``) and shown with their FLOP. Time may grow less than FLOP, because larger
products run nearer to the peak rate of the processor. It may grow more than FLOP when the data of
an operation no longer fit into a cache.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from typing import Any

from benchmarks.electra_step import make_batches
from benchmarks.harness import print_table, spread
from benchmarks.matrix_products import flop_by
from benchmarks.operation_times import profile_program
from benchmarks.rivals import Rival, measure, our_own, tokens_of
from benchmarks.turns import Turn
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.training.pretraining.products import step_products

LENGTHS = (64, 128, 256, 512)
ATTENTION = ("attention", "attention_backward")


def scaling_points(config: PretrainingConfig) -> Iterator[tuple[str, int, PretrainingConfig]]:
    """Yield what varies, its value, and ``config`` with that value.

    A longer row means fewer rows, so that a step has about the same number of tokens. Another width
    keeps the width of a head, and the ratio of the feed-forward layer to the rest.
    """
    tokens = tokens_of(config)
    for length in LENGTHS:
        if length <= config.max_position_embeddings:
            rows = max(1, tokens // length)
            yield "length", length, dataclasses.replace(config, max_length=length, batch_size=rows)
    for factor in (0.25, 0.5, 2.0):
        rows = max(1, int(config.batch_size * factor))
        yield "batch", rows, dataclasses.replace(config, batch_size=rows)
    for factor in (0.5, 2.0):
        width, heads, intermediate = (
            max(1, int(size * factor))
            for size in (config.hidden_size, config.num_attention_heads, config.intermediate_size)
        )
        yield (
            "width",
            width,
            dataclasses.replace(
                config, hidden_size=width, num_attention_heads=heads, intermediate_size=intermediate
            ),
        )
    for factor in (0.25, 4.0):
        words = int(config.vocab_size * factor)
        yield "vocabulary", words, dataclasses.replace(config, vocab_size=words)


def scaling(
    config: PretrainingConfig, rivals: list[Rival], options: argparse.Namespace
) -> dict[str, Any]:
    """Time the first of this project's rivals at all sizes, print a table, return the figures."""
    rival = our_own(rivals)[0]
    points = []
    for varied, value, point in scaling_points(config):
        turns = _pair(rival, config, point, options)
        points.append({"varied": varied, "value": value, **point_figures(config, point, turns)})
    print(
        f"{rival.name}, {config.preset}, from batch {config.batch_size}, length "
        f"{config.max_length}, width {config.hidden_size}, vocabulary {config.vocab_size}; a token:"
    )
    print_points(points)
    return {"rival": rival.name, "scaling": points}


def point_figures(
    start: PretrainingConfig, point: PretrainingConfig, turns: dict[str, list[Turn]]
) -> dict[str, Any]:
    """Return seconds and FLOP a token at ``point``, and their ratios to those at ``start``."""
    seconds = {name: split_seconds(turns[name], tokens_of(c)) for name, c in _named(start, point)}
    flop = {name: split_flop(c) for name, c in _named(start, point)}
    return {
        part: {
            "seconds_per_token": spread(seconds["point"][part]),
            "flop_per_token": flop["point"][part],
            "ratio_of_seconds": spread(
                [a / b for a, b in zip(seconds["point"][part], seconds["start"][part], strict=True)]
            ),
            "ratio_of_flop": flop["point"][part] / flop["start"][part],
        }
        for part in ("step", "attention", "rest")
    }


def split_seconds(turns: list[Turn], tokens: int) -> dict[str, list[float]]:
    """Return the seconds a token of each step, of its attention and of the rest."""
    step = [turn.seconds / tokens for turn in turns]
    attention = [sum(turn.figures[name] for name in ATTENTION) / tokens for turn in turns]
    rest = [whole - part for whole, part in zip(step, attention, strict=True)]
    return {"step": step, "attention": attention, "rest": rest}


def split_flop(config: PretrainingConfig) -> dict[str, float]:
    """Return the FLOP a token of all matrix products of a step, of attention's, of the rest."""
    flop = flop_by("operation", step_products(config))
    step = sum(flop.values()) / tokens_of(config)
    attention = sum(flop[name] for name in ATTENTION) / tokens_of(config)
    return {"step": step, "attention": attention, "rest": step - attention}


def print_points(points: list[dict[str, Any]]) -> None:
    """Print one line a size: the step, then its attention, then the rest."""
    header = ["", "us", "MFLOP", "x time", "min", "max", "x FLOP"]
    for part in ("attention", "rest"):
        header += [f"{part} us", "x time", "x FLOP"]
    rows = []
    for point in points:
        step = point["step"]
        cells = [
            f"{point['varied']} {point['value']}",
            f"{1e6 * step['seconds_per_token']['median']:.1f}",
            f"{step['flop_per_token'] / 1e6:.1f}",
            *(f"{step['ratio_of_seconds'][key]:.2f}" for key in ("median", "min", "max")),
            f"{step['ratio_of_flop']:.2f}",
        ]
        for part in (point["attention"], point["rest"]):
            cells += [
                f"{1e6 * part['seconds_per_token']['median']:.1f}",
                f"{part['ratio_of_seconds']['median']:.2f}",
                f"{part['ratio_of_flop']:.2f}",
            ]
        rows.append(cells)
    print_table(header, rows)


def _pair(
    rival: Rival, start: PretrainingConfig, point: PretrainingConfig, options: argparse.Namespace
) -> dict[str, list[Turn]]:
    """Return the timed turns of ``rival`` at two sizes, each on its own batches."""
    count = options.warmup + options.repeats
    programs = {name: profile_program(rival, config) for name, config in _named(start, point)}
    batches = [make_batches(config, count) for _, config in _named(start, point)]
    rounds = [dict(zip(programs, pair, strict=True)) for pair in zip(*batches, strict=True)]
    return measure(programs, rounds, options)


def _named(
    start: PretrainingConfig, point: PretrainingConfig
) -> tuple[tuple[str, PretrainingConfig], tuple[str, PretrainingConfig]]:
    return ("start", start), ("point", point)
