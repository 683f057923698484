"""The figures of ``equal_compute``.

With all labels there are two panels for each task. Above are the differences to BERT at equal FLOP,
with their 95 % intervals, and small circles for the seeds of pre-training. Below are the scores of
the variants with several checkpoints against FLOP (the paper's figure 1, small): the mean, the
least and the greatest over the seeds of pre-training, of the first fine-tuning seed; dotted, what
is not pre-trained.

With few labels there is one panel for each task: the scores against the number of labelled
sentences, the mean, the least and the greatest over the seeds. Dotted is what is not pre-trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.equal_compute_report import (
    Floats,
    Score,
    by_seed,
    difference_to,
    is_trained,
    last_of_each,
    names,
    of_equal_flop,
)
from benchmarks.figure_file import figure_file

FONT_SIZE = 8


def draw(scores: Sequence[Score], path: Path, to: str, without: str) -> None:
    """Draw differences to the variant ``to`` and curves; leave the variant ``without`` out.

    Raises UserError if matplotlib is missing or the file cannot be written.
    """
    shown = [one for one in scores if one.variant != without]
    compared = of_equal_flop(last_of_each(shown))
    tasks = names(shown, "task")
    with figure_file(path, 3.0 * len(tasks) + 1.2, 6.0, FONT_SIZE) as figure:
        above, below = figure.subplots(2, len(tasks), squeeze=False)
        for column, task in enumerate(tasks):
            _draw_differences(above[column], compared, to, task)
            _draw_curves(below[column], shown, task)
        for axes in above[1:]:
            axes.tick_params(labelleft=False)
        below[0].set_ylabel("score, points of 100")
        below[0].legend()


def draw_few_labels(scores: Sequence[Score], path: Path) -> None:
    """Draw scores against labelled sentences; tasks have names such as "SNIPS slots, 1,600".

    Raises UserError if matplotlib is missing or the file cannot be written.
    """
    last = last_of_each(scores)
    tasks = list(dict.fromkeys(task.rpartition(", ")[0] for task in names(last, "task")))
    with figure_file(path, 3.2 * len(tasks) + 0.8, 3.2, FONT_SIZE) as figure:
        (panels,) = figure.subplots(1, len(tasks), squeeze=False)
        for axes, task in zip(panels, tasks, strict=True):
            _draw_sizes(axes, last, task)
        panels[0].set_ylabel("score, points of 100")
        panels[0].legend()


def _draw_differences(axes: Any, scores: Sequence[Score], to: str, task: str) -> None:
    variants = [name for name in names(scores, "variant") if name != to]
    theirs = by_seed(scores, to, task)
    for row, variant in enumerate(variants):
        found = difference_to(scores, variant, to, task)
        if found is not None:
            ends = ((found.mean - found.low,), (found.high - found.mean,))
            axes.errorbar(found.mean, row, xerr=ends, fmt="o", color=f"C{row}")
        for seed, values in by_seed(scores, variant, task).items():
            if seed in theirs and is_trained(scores, variant):
                axes.plot(
                    values.mean() - theirs[seed].mean(), row + 0.25, "o", color=f"C{row}",
                    markersize=3, fillstyle="none",
                )  # fmt: skip
    axes.axvline(0, color="0.5", linewidth=1)
    axes.set_yticks(range(len(variants)), variants)
    axes.set_ylim(len(variants) - 0.5, -0.5)  # the first one above
    axes.set_title(task)
    axes.set_xlabel(f"points above {to}")


def _draw_curves(axes: Any, scores: Sequence[Score], task: str) -> None:
    for number, variant in enumerate(names(scores, "variant")):
        points = list(_points(scores, variant, task))
        if len(points) > 1:
            _draw_line(axes, points, number, variant)
        elif points and not is_trained(scores, variant):
            axes.axhline(points[0][1], color=f"C{number}", linestyle=":", label=variant)
    axes.set_xlim(left=0)
    axes.set_xlabel("FLOP of pre-training")


def _draw_sizes(axes: Any, scores: Sequence[Score], task: str) -> None:
    sizes: set[int] = set()
    for number, variant in enumerate(names(scores, "variant")):
        found = {
            int(name.rpartition(", ")[2].replace(",", "")): by_seed(scores, variant, name)
            for name in names(scores, "task")
            if name.rpartition(", ")[0] == task
        }
        points = [(size, *_spread(values)) for size, values in sorted(found.items()) if values]
        if points:
            _draw_line(axes, points, number, variant, dotted=not is_trained(scores, variant))
            sizes.update(size for size, *_ in points)
    axes.set_xscale("log")
    axes.set_xticks(sorted(sizes), [f"{size:,}" for size in sorted(sizes)], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_title(task)
    axes.set_xlabel("labelled sentences")


def _draw_line(
    axes: Any,
    points: Sequence[tuple[float, float, float, float]],
    number: int,
    name: str,
    *,
    dotted: bool = False,
) -> None:
    """Draw x with its mean, least and greatest value, for each of ``points``."""
    x, mean, low, high = (np.array(each) for each in zip(*points, strict=True))
    axes.errorbar(
        x, mean, (mean - low, high - mean), label=name, color=f"C{number}",
        marker="os^vDP*X"[number % 8], linewidth=1, linestyle=":" if dotted else "-",
    )  # fmt: skip


def _spread(values: dict[int, Floats]) -> tuple[float, float, float]:
    """Return the mean, the least and the greatest mean of a seed."""
    means = [float(each.mean()) for each in values.values()]
    return float(np.mean(means)), min(means), max(means)


def _points(
    scores: Sequence[Score], variant: str, task: str
) -> Iterator[tuple[float, float, float, float]]:
    """Yield FLOP, and the mean, the least and the greatest over the pre-training seeds."""
    own = [one for one in scores if one.variant == variant]
    for step in sorted({one.step for one in own}):
        there = [one for one in own if one.step == step and (not step or one.finetuning_seed == 0)]
        if values := by_seed(there, variant, task):
            yield there[0].flop, *_spread(values)
