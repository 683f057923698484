"""Do the fast backends learn what the reference learns? Compare three runs from one seed.

    python -m benchmarks.loss_curves [--steps N] [--preset small] [--set KEY=VALUE ...] [--seed N]
        [--corpus PATH ...] [--rivals NAME ...] [--output-dir DIR] [--plot FILE.svg]

The training command runs once for each rival. All start from the same parameters and read the same
rows with the same masks and dropout, so only rounding differs. Rounding errors grow from step to
step, and sometimes they change which token is sampled. So the losses of single steps differ sooner
or later, as those of two builds of the reference would. For each of the two losses, these figures
must agree with those of the first rival:

1. The first ten steps, where the parameters have hardly changed. The relative tolerance is 2^-16 in
   float32: 256 roundings, as many as a sum over the widest layer may have. With products in
   bfloat16 it is 2^-8 for MLM: one rounding. For RTD it is 2^-6: probabilities that are wrong by
   2^-8 sometimes change one of the 80 samples of a step, and if the loss of one token of 512
   changes by three nats, a mean of 0.4 changes by 2^-6.
2. Every mean of fifty steps. The tolerance is two standard errors of the difference of two such
   means, which is sqrt 2 times the standard error of one. The scatter of the first rival's steps
   gives that. Two runs on newly drawn rows would differ as much.
3. The loss on held-out rows at the end, with the same tolerance for means of as many batches.

The exit code is 1 if one of them does not agree. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from subprocess import run
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.figure_file import check_that_it_can_draw, figure_file
from benchmarks.harness import CHECKOUT, origin, print_origin, print_summary, print_table
from benchmarks.rivals import Rival, our_own, rivals_of
from electra_ref.config.pretraining import PRESETS, resolve_config
from electra_ref.errors import UserError

LOSSES = ("mlm_loss", "rtd_loss")
FIRST_STEPS = 10
FIRST_STEPS_TOLERANCE = {  # relative
    "float32": {"mlm_loss": 2.0**-16, "rtd_loss": 2.0**-16},
    "bfloat16": {"mlm_loss": 2.0**-8, "rtd_loss": 2.0**-6},
}
WINDOW = 50
STANDARD_ERRORS = 2.0 * np.sqrt(2.0)  # of one mean; both means of a difference have theirs
SETTINGS = (
    *("max_vocab_size=8192", "batch_size=8", "max_length=64", "evaluation_batches=32"),
    # At 5e-4 the RTD loss jumps up and down for a while after 30 steps. The last bit decides how
    # far, so two runs in float32 differ by more than the rows explain.
    *("learning_rate=2e-4", "warmup_steps=100"),
)
STEPS = 300


class Curves(NamedTuple):
    """The losses of one run."""

    training: dict[str, npt.NDArray[np.float64]]  # (steps,) each
    held_out: dict[str, float]


class Check(NamedTuple):
    """One figure that must agree; ``difference`` and ``tolerance`` have the unit of the loss."""

    rival: str
    loss: str
    what: str
    expected: float
    difference: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        return abs(self.difference) <= self.tolerance  # false for NaN


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0, 1 if the curves differ, or 2 after one line of error."""
    options = build_parser().parse_args(arguments)
    try:
        if options.steps < WINDOW or options.steps % WINDOW:
            raise UserError(f"--steps {options.steps}: a multiple of {WINDOW}, the steps of a mean")
        if options.plot is not None:
            check_that_it_can_draw()
        rivals = our_own(rivals_of(options.rivals))
        where_from = origin(("numpy", "numba"))
        print_origin(where_from)
        curves = train_all(rivals, options)
        checks = [
            check
            for rival in rivals[1:]
            for check in compare(rival, curves[rivals[0].name], curves[rival.name], options)
        ]
    except UserError as error:
        return _refused(error)
    parted = [check for check in checks if not check.agrees]
    print_checks(checks, rivals[0].name)
    print(f"\n{len(checks) - len(parted)} of {len(checks)} agree")
    print_summary(
        {
            "benchmark": "loss_curves",
            "steps": options.steps,
            "seed": options.seed,
            "settings": settings_of(options),
            "checks": [{**check._asdict(), "agrees": check.agrees} for check in checks],
            "held_out": {name: each.held_out for name, each in curves.items()},
            "machine": where_from,
        }
    )
    if options.plot is not None:
        try:
            plot(curves, options.plot)
        except UserError as error:
            return _refused(error)
    return 1 if parted else 0


def _refused(error: UserError) -> int:
    print(f"benchmarks.loss_curves: error: {error}", file=sys.stderr)
    return 2


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loss_curves", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    names = ["reference-float32", "cpu-float32", "cpu-bfloat16"]
    add("--steps", type=int, default=STEPS, metavar="N", help="default: %(default)s")
    add("--preset", choices=list(PRESETS), default="small", help="default: %(default)s")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help=f"besides {', '.join(SETTINGS)}",
    )
    add("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    add("--corpus", nargs="+", default=[], metavar="PATH", help="as for the training command")
    add("--rivals", nargs="+", default=names, metavar="NAME", help="default: " + " ".join(names))
    add("--output-dir", type=Path, metavar="DIR", help="where the runs are kept; default: nowhere")
    add("--plot", type=Path, metavar="FILE.svg", help="draw the curves (extra: plots)")
    return parser


def settings_of(options: argparse.Namespace) -> list[str]:
    """Return the ``key=value`` of all runs. Raises UserError for one that is wrong."""
    steps = [f"steps={options.steps}", f"evaluate_every={options.steps}", "log_every=1"]
    settings = [*SETTINGS, *steps, f"seed={options.seed}", *options.settings]
    resolve_config(preset=options.preset, settings=settings)
    return settings


def train_all(rivals: list[Rival], options: argparse.Namespace) -> dict[str, Curves]:
    """Let each rival train, one after the other, and return their losses."""
    with tempfile.TemporaryDirectory() as nowhere:
        folder = Path(nowhere) if options.output_dir is None else options.output_dir.resolve()
        return {rival.name: train(rival, folder / rival.name, options) for rival in rivals}


def train(rival: Rival, folder: Path, options: argparse.Namespace) -> Curves:
    """Run the training command, its progress on standard error, and return the losses."""
    command = [sys.executable, "-m", "electra_ref.train", "--output-dir", str(folder)]
    command += ["--preset", options.preset]
    command += ["--device", rival.device, "--precision", rival.precision]
    command += [part for setting in settings_of(options) for part in ("--set", setting)]
    if options.corpus:
        command += ["--corpus", *(str(Path(path).resolve()) for path in options.corpus)]
    print(f"{rival.name}:", file=sys.stderr, flush=True)
    code = run(command, cwd=CHECKOUT, stdout=sys.stderr.fileno(), check=False).returncode
    if code:
        raise UserError(f"{rival.name}: the training command ended with exit code {code}")
    return read_curves(folder / "metrics.jsonl")


def read_curves(metrics: Path) -> Curves:
    """Return the losses in the ``metrics.jsonl`` of a run that logged every step."""
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = [record for record in records if record["split"] == "training"]
    *_, last = (record for record in records if record["split"] == "held_out")
    return Curves(
        {loss: np.array([record[loss] for record in steps]) for loss in LOSSES},
        {loss: last[loss] for loss in LOSSES},
    )


def compare(
    rival: Rival, expected: Curves, curves: Curves, options: argparse.Namespace
) -> list[Check]:
    """Return what must agree between the first rival and ``rival``."""
    batches = resolve_config(
        preset=options.preset, settings=settings_of(options)
    ).evaluation_batches
    checks: list[Check] = []

    def add(loss: str, what: str, mean: float, other: float, tolerance: float) -> None:
        difference = float(other) - float(mean)
        checks.append(Check(rival.name, loss, what, float(mean), difference, float(tolerance)))

    for loss in LOSSES:
        ours, theirs = curves.training[loss], expected.training[loss]
        relative = np.abs(ours - theirs)[:FIRST_STEPS] / theirs[:FIRST_STEPS]
        worst = int(relative.argmax())
        tolerance = FIRST_STEPS_TOLERANCE[rival.precision][loss] * theirs[worst]
        what = f"step {worst + 1}, the worst of {FIRST_STEPS}"
        add(loss, what, theirs[worst], ours[worst], tolerance)
        means, errors = ours.reshape(-1, WINDOW).mean(axis=1), standard_errors(theirs)
        for number, (mean, tolerance) in enumerate(
            zip(theirs.reshape(-1, WINDOW).mean(axis=1), STANDARD_ERRORS * errors, strict=True)
        ):
            what = f"mean of steps {number * WINDOW + 1}-{(number + 1) * WINDOW}"
            add(loss, what, mean, means[number], tolerance)
        tolerance = STANDARD_ERRORS * errors[-1] * np.sqrt(WINDOW / batches)
        add(loss, "held-out rows", expected.held_out[loss], curves.held_out[loss], tolerance)
    return checks


def standard_errors(losses: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the standard error of each mean of ``WINDOW`` of the ``losses``.

    The variance of the steps is half the mean square of the differences between neighbours. A trend
    has little influence on it (von Neumann 1941).
    """
    differences = np.diff(losses.reshape(-1, WINDOW), axis=1)
    errors: npt.NDArray[np.float64] = np.sqrt((differences**2).mean(axis=1) / 2 / WINDOW)
    return errors


def print_checks(checks: list[Check], first: str) -> None:
    """Print one line a check."""
    header = ("", "", "", first, "difference", "tolerance", "")
    rows = [
        (
            check.rival,
            check.loss,
            check.what,
            f"{check.expected:.4f}",
            f"{check.difference:+.2e}",
            f"{check.tolerance:.2e}",
            "" if check.agrees else "too far",
        )
        for check in checks
    ]
    print_table(header, rows)


def plot(curves: dict[str, Curves], path: Path) -> None:
    """Draw both losses of all runs, and below them the difference of each to the first."""
    expected, *others = curves.values()
    with figure_file(path, 9, 5.5) as figure:
        axes: Any = figure.subplots(2, 2, sharex=True, height_ratios=(2, 1))
        for column, (loss, title) in enumerate(zip(LOSSES, ("MLM", "RTD"), strict=True)):
            above, below = axes[:, column]
            for name, style, each in zip(curves, ("-", "--", ":"), curves.values(), strict=False):
                steps = np.arange(1, each.training[loss].size + 1)
                above.plot(steps, each.training[loss], style, label=name, linewidth=1)
            band = STANDARD_ERRORS * standard_errors(expected.training[loss])
            middles = np.arange(WINDOW // 2, expected.training[loss].size, WINDOW)
            below.fill_between(middles, -band, band, color="0.9", label="tolerance")
            below.plot(middles, np.zeros(middles.size), "C0-", linewidth=1)
            for number, (style, each) in enumerate(zip(("--", ":"), others, strict=False), start=1):
                difference = each.training[loss] - expected.training[loss]
                means = difference.reshape(-1, WINDOW).mean(axis=1)
                below.plot(middles, means, f"C{number}{style}", marker=".", linewidth=1)
            above.set_title(f"{title} loss")
            below.set_title(f"means of {WINDOW} steps, difference to {next(iter(curves))}", size=9)
            below.set_xlabel("step")
        axes[0, 0].legend()
        axes[1, 0].legend(loc="upper right")


if __name__ == "__main__":
    sys.exit(main())
