"""What the scores of ``equal_compute`` say: means, and differences with their intervals.

Two pre-trained variants are compared seed by seed: they read the same batches and mask the same
places. What is not pre-trained has no such partner; there the runs of both sides are drawn apart.

An interval is from the 2.5th to the 97.5th percentile of the mean difference over resamples: of the
pre-training seeds, and inside each of the fine-tuning seeds. These are drawn once for each seed and
resample, so a seed that is drawn twice brings the same mean twice: that makes intervals up to a
fifth wider than drawing anew. With three seeds they are too narrow all the same. Of
400 simulated comparisons without any difference it had 0 inside in 74 % where pre-training seeds
alone vary, in 90 % where both kinds vary alike, and in 98 % where fine-tuning seeds alone do. The
standard error that stands behind it tells more then: 4.3 of it (Student's t for three seeds) to
each side had 0 inside in 95 % each time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
BOOTSTRAP_SEED = 0
PERCENTILES = (2.5, 97.5)  # a 95 % interval
HUNDRED = 100  # scores are shown as points of 100
EQUAL = 0.99  # share of the FLOP aimed at from which on a variant counts as trained to its end

Floats = npt.NDArray[np.float64]


class Score(NamedTuple):
    """One line of the file: one fine-tuned model on one task."""

    variant: str
    seed: int  # of pre-training
    step: int  # 0: not pre-trained
    flop: float  # of pre-training so far
    task: str
    finetuning_seed: int
    score: float


class Interval(NamedTuple):
    """A mean with its 95 % interval and its standard error, in points of 100.

    Of a single seed there is the mean alone, and the rest is nan.
    """

    mean: float
    low: float = math.nan
    high: float = math.nan
    error: float = math.nan

    def __str__(self) -> str:
        if math.isnan(self.error):
            return f"{self.mean:+.1f}"
        interval = f"{self.low:+.1f} to {self.high:+.1f}"
        return f"{self.mean:+.1f} ({interval}; {self.error:.1f})"


def last_of_each(scores: Iterable[Score]) -> list[Score]:
    """Return the scores of the last step of each variant."""
    scores = list(scores)
    last: dict[str, int] = {}
    for one in scores:
        last[one.variant] = max(one.step, last.get(one.variant, 0))
    return [one for one in scores if one.step == last[one.variant]]


def of_equal_flop(last: Sequence[Score]) -> list[Score]:
    """Return the scores of the variants that are trained to their end, or not at all.

    Steps are whole: the FLOP of a variant differ by up to half of its step from what was aimed at.
    """
    trained = [one for one in last if one.step]
    aim = max((one.flop - 0.5 * one.flop / one.step for one in trained), default=0.0)

    def is_at_its_end(one: Score) -> bool:
        return one.flop + 0.5 * one.flop / one.step >= EQUAL * aim

    return [one for one in last if one.step == 0 or is_at_its_end(one)]


def by_seed(scores: Iterable[Score], variant: str, task: str) -> dict[int, Floats]:
    """Return by the seed of pre-training the scores (F,) of its fine-tuning seeds, in points.

    What is not pre-trained has one score for each seed, that of fine-tuning.
    """
    found: dict[int, list[float]] = {}
    for one in sorted(scores):
        if (one.variant, one.task) == (variant, task):
            seed = one.seed if one.step else one.finetuning_seed
            found.setdefault(seed, []).append(HUNDRED * one.score)
    return {seed: np.array(values) for seed, values in found.items()}


def difference(
    ours: dict[int, Floats], theirs: dict[int, Floats], *, paired: bool
) -> Interval | None:
    """Return the mean difference with its interval; None without a seed (in common).

    ``paired`` differences are formed for each seed. The standard error is that of their mean, or
    that of the difference of two means.
    """
    if paired:
        common = ours.keys() & theirs.keys()
        ours, theirs = ({seed: side[seed] for seed in common} for side in (ours, theirs))
    if not ours or not theirs:
        return None
    our_means, their_means = _means(ours), _means(theirs)
    mean = float(our_means.mean() - their_means.mean())
    if min(our_means.size, their_means.size) == 1:
        return Interval(mean)
    random = np.random.default_rng(BOOTSTRAP_SEED)
    ours_drawn, theirs_drawn = _resampled_each(ours, random), _resampled_each(theirs, random)
    if paired:
        found = _mean_of_drawn(ours_drawn - theirs_drawn, random)
        error = _standard_error(our_means - their_means)
    else:
        found = _mean_of_drawn(ours_drawn, random) - _mean_of_drawn(theirs_drawn, random)
        error = math.hypot(_standard_error(our_means), _standard_error(their_means))
    low, high = map(float, np.percentile(found, PERCENTILES))
    return Interval(mean, low, high, error)


def _means(side: dict[int, Floats]) -> Floats:
    """Return the mean of each seed (n,), in the order of the seeds."""
    return np.array([side[seed].mean() for seed in sorted(side)])


def _resampled_each(side: dict[int, Floats], random: np.random.Generator) -> Floats:
    """Return for each seed the means of its resampled values, (n, RESAMPLES)."""
    return np.stack([_resampled(side[seed], random) for seed in sorted(side)])


def _resampled(values: Floats, random: np.random.Generator) -> Floats:
    """Return the means (RESAMPLES,) of as many values drawn from ``values``."""
    picks = random.integers(values.size, size=(RESAMPLES, values.size))
    return np.asarray(values[picks].mean(axis=1))


def _mean_of_drawn(rows: Floats, random: np.random.Generator) -> Floats:
    """Return for each column the mean of as many rows, drawn from ``rows`` (n, RESAMPLES)."""
    picks = random.integers(len(rows), size=(RESAMPLES, len(rows)))
    return np.asarray(rows[picks, np.arange(RESAMPLES)[:, None]].mean(axis=1))


def _standard_error(values: Floats) -> float:
    return float(values.std(ddof=1) / np.sqrt(values.size))


def names(scores: Iterable[Score], field: str) -> list[Any]:
    """Return the values of ``field``, each once, in their order."""
    return list(dict.fromkeys(getattr(one, field) for one in scores))


def is_trained(scores: Iterable[Score], variant: str) -> bool:
    """Return whether ``variant`` is pre-trained."""
    return any(one.step for one in scores if one.variant == variant)


def score_table(scores: Sequence[Score]) -> Iterator[str]:
    """Yield a Markdown table: the mean of each variant on each task, +- over its seeds."""
    tasks = names(scores, "task")
    yield f"| variant | FLOP | {' | '.join(tasks)} |"
    yield "|---" * (len(tasks) + 2) + "|"
    for variant in names(scores, "variant"):
        flop = max(one.flop for one in scores if one.variant == variant)
        cells = [_cell(by_seed(scores, variant, task)) for task in tasks]
        yield f"| {variant} | {flop:.2g} | {' | '.join(cells)} |"


def difference_to(scores: Sequence[Score], variant: str, to: str, task: str) -> Interval | None:
    """Return the difference between two variants on ``task``; None without a seed (in common)."""
    paired = is_trained(scores, variant) and is_trained(scores, to)
    return difference(by_seed(scores, variant, task), by_seed(scores, to, task), paired=paired)


def difference_table(scores: Sequence[Score], to: str) -> Iterator[str]:
    """Yield a Markdown table: the difference of each variant to the variant ``to``.

    In brackets are its 95 % interval and its standard error.
    """
    tasks = names(scores, "task")
    yield f"| minus {to} | {' | '.join(tasks)} |"
    yield "|---" * (len(tasks) + 1) + "|"
    for variant in names(scores, "variant"):
        if variant != to:
            cells = [difference_to(scores, variant, to, task) for task in tasks]
            yield f"| {variant} | {' | '.join(str(cell or '') for cell in cells)} |"


def print_report(scores: Sequence[Score], references: Sequence[str]) -> None:
    """Print the tables: all scores, then the differences to each of the ``references``."""
    last = last_of_each(scores)
    print("\n".join(["", *score_table(last)]))
    compared = of_equal_flop(last)
    for reference in references:
        if reference in names(compared, "variant"):
            print("\n".join(["", *difference_table(compared, reference)]))
    unequal = [name for name in names(last, "variant") if name not in names(compared, "variant")]
    if unequal:
        print(f"\nnot compared, since they are not trained to their end: {'; '.join(unequal)}")


def _cell(values: dict[int, Floats]) -> str:
    if not values:
        return ""
    means = [float(each.mean()) for each in values.values()]
    if len(means) == 1:
        return f"{means[0]:.1f}"
    return f"{np.mean(means):.1f} +- {np.std(means, ddof=1):.1f}"
