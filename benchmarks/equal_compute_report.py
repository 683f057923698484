"""What the scores of ``equal_compute`` say: means, paired differences with intervals, figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.errors import UserError

RESAMPLES = 10_000
BOOTSTRAP_SEED = 0
PERCENTILES = (2.5, 97.5)  # a 95 % interval
HUNDRED = 100  # scores are shown as points of 100

Floats = npt.NDArray[np.float64]


class Score(NamedTuple):
    """One line of the file: one fine-tuned model on one task."""

    variant: str
    seed: int  # of pre-training
    step: int
    flop: float  # of pre-training so far
    task: str
    finetuning_seed: int
    score: float


class Interval(NamedTuple):
    """A mean with its 95 % interval and its standard error, in points of 100."""

    mean: float
    low: float
    high: float
    error: float

    def __str__(self) -> str:
        interval = f"{self.low:+.1f} to {self.high:+.1f}"
        return f"{self.mean:+.1f} ({interval}; {self.error:.1f})"


def last_of_each(scores: Iterable[Score]) -> list[Score]:
    """Return the scores of the last step of each variant."""
    scores = list(scores)
    last: dict[str, int] = {}
    for one in scores:
        last[one.variant] = max(one.step, last.get(one.variant, 0))
    return [one for one in scores if one.step == last[one.variant]]


def by_seed(scores: Iterable[Score], variant: str, task: str) -> dict[int, Floats]:
    """Return by the seed of pre-training the scores (F,) of its fine-tuning seeds, in points."""
    found: dict[int, list[float]] = {}
    for one in sorted(scores):
        if (one.variant, one.task) == (variant, task):
            found.setdefault(one.seed, []).append(HUNDRED * one.score)
    return {seed: np.array(values) for seed, values in found.items()}


def difference(ours: dict[int, Floats], theirs: dict[int, Floats]) -> Interval | None:
    """Return the mean paired difference with its interval; None without two seeds in common.

    A resample draws pre-training seeds, and for each of them fine-tuning seeds of both sides. The
    standard error is that of the differences of the pre-training seeds.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if len(seeds) < 2:
        return None
    random = np.random.default_rng(BOOTSTRAP_SEED)

    def resampled(values: Floats) -> Floats:
        picks = random.integers(values.size, size=(RESAMPLES, values.size))
        return np.asarray(values[picks].mean(axis=1))

    pairs = np.stack([resampled(ours[seed]) - resampled(theirs[seed]) for seed in seeds])
    picks = random.integers(len(seeds), size=(RESAMPLES, len(seeds)))
    means = pairs[picks, np.arange(RESAMPLES)[:, None]].mean(axis=1)
    found = np.array([ours[seed].mean() - theirs[seed].mean() for seed in seeds])
    error = found.std(ddof=1) / np.sqrt(found.size)
    return Interval(*map(float, (found.mean(), *np.percentile(means, PERCENTILES), error)))


def names(scores: Iterable[Score], field: str) -> list[Any]:
    """Return the values of ``field``, each once, in their order."""
    return list(dict.fromkeys(getattr(one, field) for one in scores))


def score_table(scores: Sequence[Score]) -> Iterator[str]:
    """Yield a Markdown table: the mean of each variant on each task, +- over pre-training seeds."""
    tasks = names(scores, "task")
    yield f"| variant | FLOP | {' | '.join(tasks)} |"
    yield "|---" * (len(tasks) + 2) + "|"
    for variant in names(scores, "variant"):
        flop = max(one.flop for one in scores if one.variant == variant)
        cells = [_cell(by_seed(scores, variant, task)) for task in tasks]
        yield f"| {variant} | {flop:.2g} | {' | '.join(cells)} |"


def difference_table(scores: Sequence[Score], to: str) -> Iterator[str]:
    """Yield a Markdown table: the difference of each variant to the variant ``to``.

    In brackets are its 95 % interval and its standard error.
    """
    tasks = names(scores, "task")
    yield f"| minus {to} | {' | '.join(tasks)} |"
    yield "|---" * (len(tasks) + 1) + "|"
    for variant in names(scores, "variant"):
        if variant != to:
            cells = [
                difference(by_seed(scores, variant, task), by_seed(scores, to, task))
                for task in tasks
            ]
            yield f"| {variant} | {' | '.join(str(cell or '') for cell in cells)} |"


def print_report(scores: Sequence[Score], plot: Path | None, references: Sequence[str]) -> None:
    """Print the tables, and draw the figures to ``plot`` if it is given. Raises UserError."""
    last = last_of_each(scores)
    print("\n".join(["", *score_table(last)]))
    for reference in references:
        if reference in names(last, "variant"):
            print("\n".join(["", *difference_table(last, reference)]))
    if plot is not None:
        draw(scores, plot)


def _cell(values: dict[int, Floats]) -> str:
    if not values:
        return ""
    means = [float(each.mean()) for each in values.values()]
    if len(means) == 1:
        return f"{means[0]:.1f}"
    return f"{np.mean(means):.1f} +- {np.std(means, ddof=1):.1f}"


def draw(scores: Sequence[Score], path: Path) -> None:
    """Draw each task: scores against FLOP, a line for each variant with several steps."""
    try:
        import matplotlib as mpl  # noqa: PLC0415  (an extra, needed only here)
        from matplotlib.figure import Figure  # noqa: PLC0415  (the same)
    except ImportError:
        raise UserError("--plot needs matplotlib (extra: plots)") from None
    tasks = names(scores, "task")
    with mpl.rc_context({"svg.hashsalt": "electra_ref", "svg.fonttype": "none"}):
        figure = Figure(figsize=(3.2 * len(tasks), 3.4), layout="constrained")
        row: Any = figure.subplots(1, len(tasks), squeeze=False)[0]
        for axes, task in zip(row, tasks, strict=True):
            for number, variant in enumerate(names(scores, "variant")):
                points = list(_points(scores, variant, task))
                if points:
                    flop, mean, low, high = (np.array(each) for each in zip(*points, strict=True))
                    errors = (mean - low, high - mean)
                    style = {"color": f"C{number}", "marker": "os^vDP*X"[number % 8]}
                    axes.errorbar(flop, mean, errors, label=variant, linewidth=1, **style)
            axes.set_title(task)
            axes.set_xlabel("FLOP of pre-training")
        row[0].set_ylabel("score, least to greatest of the seeds")
        row[0].legend(fontsize=7)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _points(
    scores: Sequence[Score], variant: str, task: str
) -> Iterator[tuple[float, float, float, float]]:
    """Yield FLOP, and the mean, the least and the greatest over the pre-training seeds."""
    of_variant = [one for one in scores if one.variant == variant]
    for step in sorted({one.step for one in of_variant}):
        there = [one for one in of_variant if one.step == step]
        means = [float(each.mean()) for each in by_seed(there, variant, task).values()]
        if means:
            yield there[0].flop, float(np.mean(means)), min(means), max(means)
