"""Which figures a report has, and what each shows: as data, for whatever draws them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from electra_ref.training.report.curves import MOST_POINTS, Curve, last_defined, thinned
from electra_ref.training.report.reading import HELD_OUT, TRAINING, Run

STEP, MAIN, SECOND, BASELINE = "step", "main", "second", "baseline"  # how a series is drawn


class Series(NamedTuple):
    """One curve of one run."""

    run: int  # its number in the report
    role: str  # STEP, MAIN, SECOND or BASELINE
    what: str  # for people
    curve: Curve  # thinned


class Panel(NamedTuple):
    """One figure. Its series have at least one defined value each."""

    slug: str  # of letters, digits and hyphens only
    title: str
    note: str
    series: Sequence[Series]
    changes: Sequence[tuple[int, int]]  # run and step at which a resumed run got other settings
    last_step: int  # of all runs, so that figures can be compared
    is_thinned: bool
    scale: str = "linear"  # or "log", or "from zero"
    level: float | None = None  # where a horizontal line is drawn


class _Line(NamedTuple):
    split: str
    key: str
    role: str
    what: str
    is_complement: bool = False  # 1 - the figure


class _Kind(NamedTuple):
    slug: str
    title: str
    lines: Sequence[_Line]
    note: str = ""
    scale: str = "linear"
    level: float | None = None


_LOSSES = {
    "loss": "Total loss",
    "mlm_loss": "MLM loss",
    "rtd_loss": "RTD loss",
    "replace_mlm_loss": "Replace MLM loss",
    "all_tokens_loss": "All-tokens loss",
    "encoder_mlm_loss": "MLM loss of the encoder",
    "policy_loss": "Policy loss",
    "baseline_loss": "Loss of the policy's baseline",
}
_KINDS = (
    _Kind(
        "rtd-auc",
        "RTD AUC",
        (
            _Line(HELD_OUT, "rtd_auc", MAIN, "all tokens"),
            _Line(HELD_OUT, "rtd_masked_auc", SECOND, "masked tokens"),
        ),
        "Chance that a replaced token scores above an original one. 0.5 is guessing.",
        level=0.5,
    ),
    _Kind(
        "rtd-accuracy",
        "RTD accuracy",
        (
            _Line(HELD_OUT, "rtd_accuracy", MAIN, "discriminator"),
            _Line(HELD_OUT, "replaced_share", BASELINE, "all original", is_complement=True),
        ),
        "At a score of 0. The baseline answers that all tokens are original.",
    ),
    _Kind(
        "mlm-accuracy",
        "MLM accuracy",
        (
            _Line(HELD_OUT, "mlm_accuracy", MAIN, "best guess behind [MASK]"),
            _Line(HELD_OUT, "encoder_mlm_accuracy", SECOND, "full-size encoder beside it"),
            _Line(HELD_OUT, "mlm_baseline_accuracy", BASELINE, "most frequent token"),
        ),
        "Of the masked tokens. The baseline always answers the most frequent token.",
    ),
    _Kind("learning-rate", "Learning rate", (_Line(TRAINING, "learning_rate", STEP, ""),)),
    _Kind(
        "gradient-norm",
        "Gradient norm",
        (_Line(TRAINING, "gradient_norm", STEP, ""),),
        "Of single steps, before clipping.",
        scale="log",
    ),
    _Kind(
        "tokens-per-second",
        "Tokens per second",
        (_Line(TRAINING, "tokens_per_second", STEP, ""),),
        "Of single steps, without padding.",
        scale="from zero",
    ),
)


def panels_of(runs: Sequence[Run]) -> list[Panel]:
    """Return the figures for which some run has a value."""
    panels = (_panel(kind, runs) for kind in (*_loss_kinds(runs), *_KINDS))
    return [panel for panel in panels if panel is not None]


def description(panel: Panel, runs: Sequence[Run]) -> str:
    """Return ``panel`` in words, for readers who do not see it: the last value of each series."""
    parts = []
    for each in panel.series:
        last = last_defined(each.curve)
        if last is not None:
            step, value = last
            name = f"{runs[each.run].name}, {each.what}" if each.what else runs[each.run].name
            parts.append(f"{name}: {value:.4g} at step {step:,}")
    return f"{panel.title} by step. {'; '.join(parts)}."


def _loss_kinds(runs: Sequence[Run]) -> Iterator[_Kind]:
    """Yield a figure for each loss of the runs, known ones first."""
    found = {key for run in runs for columns in run.curves.values() for key in columns.figures()}
    others = sorted(key for key in found if key.endswith("loss") and key not in _LOSSES)
    slugs = [key.replace("_", "-") for key in _LOSSES]
    slugs += [f"other-loss-{number}" for number in range(len(others))]
    for slug, key in zip(slugs, (*_LOSSES, *others), strict=True):
        lines = (
            _Line(TRAINING, key, STEP, "training, one step"),
            _Line(HELD_OUT, key, MAIN, "held-out rows"),
        )
        yield _Kind(slug, _LOSSES.get(key, key), lines)


def _panel(kind: _Kind, runs: Sequence[Run]) -> Panel | None:
    series, is_thinned = [], False
    for number, run in enumerate(runs):
        for line in kind.lines:
            curve = run.curves[line.split].curve(line.key)
            if line.is_complement:
                curve = curve._replace(values=1.0 - curve.values)
            if np.isfinite(curve.values).any():
                is_thinned |= len(curve.steps) > MOST_POINTS
                series.append(Series(number, line.role, line.what, thinned(curve)))
    if not series:
        return None
    shown = {each.run for each in series}
    changes = sorted({(n, change.step) for n in shown for change in runs[n].changes})
    last = max(run.last_step for run in runs)
    return Panel(
        kind.slug, kind.title, kind.note, series, changes, last, is_thinned, kind.scale, kind.level
    )
