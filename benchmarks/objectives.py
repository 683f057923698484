"""What each objective and each option learns: train the tiny preset with all of them.

    python -m benchmarks.objectives [--variants NAME,NAME,...|--study NAME] [--seeds N,N,...]
        [--steps N] [--equal-flop] [--jobs N] [--output-dir DIR]

Each variant is trained once for each seed: the training command on the embedded corpus, on one
thread of a processor. The warm-up takes the same share of the steps as in the preset. A run that
has finished is not repeated, and a run that was stopped goes on, so this command can be stopped and
started again. What a run prints is in a file beside its folder.

With ``--equal-flop`` a variant does not take ``--steps`` steps but as many as the matrix products
of ``--steps`` steps of ``electra`` pay for:

    steps x (FLOP a step of electra) / (FLOP a step of the variant)

The FLOP are counted for a vocabulary of ``max_vocab_size``, which the embedded corpus fills.

The figures are those of the last evaluation on held-out rows: the mean over the seeds, the least
and the greatest in brackets. ``mlm_accuracy`` is the generator's; ``encoder_mlm_accuracy`` is that
of the full-size network, where it guesses words. (``mlm`` has one network only, which logs its own
as ``mlm_accuracy``; the table has it with the other full-size networks.) The table is Markdown; the
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import CHECKOUT, origin, print_origin, print_summary
from benchmarks.turns import THREAD_VARIABLES
from electra_ref.config.pretraining import PRESETS, PretrainingConfig, resolve_config
from electra_ref.errors import UserError
from electra_ref.training.pretraining.products import run_flop
from electra_ref.training.records import read_records

PRESET, MEASURE = "tiny", "electra"
STEPS = int(PRESETS[PRESET]["steps"])
WARMUP_SHARE = float(PRESETS[PRESET]["warmup_steps"]) / STEPS
FIGURES = (
    *("mlm_accuracy", "encoder_mlm_accuracy", "generator_entropy"),
    *("rtd_auc", "rtd_masked_auc", "replaced_share"),
)
EQUAL_SIZES = ("generator_hidden_size=1", "generator_layers=1")
GUMBEL = ("adversarial=gumbel-softmax",)
FOOLS = ("adversarial_weight=10",)  # a masked token then weighs about as much as in the MLM loss
VARIANTS: dict[str, tuple[str, ...]] = {  # {half} stands for half of the steps
    "electra": (),
    "electra-15": ("objective=electra-15",),
    "mlm": ("objective=mlm",),
    "replace-mlm": ("objective=replace-mlm",),
    "all-tokens-mlm": ("objective=all-tokens-mlm",),
    "sharing-none": ("sharing=none",),
    "sharing-all": ("sharing=all", *EQUAL_SIZES),
    "sharing-gdes": ("sharing=gdes",),
    "reinforce": ("adversarial=reinforce", *FOOLS),
    "reinforce-alone": ("adversarial=reinforce", *FOOLS, "generator_weight=0"),  # the paper's
    "gumbel-straight-through": (*GUMBEL, *FOOLS, "straight_through=true"),
    "gumbel-soft": (*GUMBEL, *FOOLS, "straight_through=false"),
    "gumbel-negative": (*GUMBEL, "adversarial_weight=-10", "straight_through=true"),
    "paired": ("discriminator_input=paired",),
    "two-stage": (
        *("sharing=none", *EQUAL_SIZES, "num_attention_heads=2"),  # as many as the generator's
        "two_stage_steps={half}",
    ),
    "uniform-generator": ("uniform_generator=true",),
    "exploration": ("exploration=0.1",),
    "disallow-correct": ("disallow_correct=true",),
    "temperature-schedule": ("temperature=2", "temperature_end=1", "temperature_steps={half}"),
}
STUDIES = {"adversarial": ("electra", "reinforce", "gumbel-straight-through")}


class Plan(NamedTuple):
    """A variant, and how long it trains."""

    variant: str
    steps: int
    settings: tuple[str, ...]  # key=value
    flop_per_step: float  # of matrix products, the mean of all steps

    def config(self, seed: int) -> PretrainingConfig:
        """Return the whole configuration. Raises UserError for a setting that is wrong."""
        return resolve_config(preset=PRESET, settings=[*self.settings, f"seed={seed}"])


class Run(NamedTuple):
    """A plan with one seed, in its folder."""

    plan: Plan
    seed: int
    folder: Path

    @property
    def log(self) -> Path:
        """Return the file for what the training command prints."""
        return self.folder.with_name(f"{self.folder.name}.log")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0, 1 if a run failed, 2 after a line of error, 130 after SIGINT."""
    options = build_parser().parse_args(arguments)
    try:
        seeds = seeds_of(options.seeds)
        plans = plans_of(names_of(options), options.steps, equal_flop=options.equal_flop)
        runs = runs_of(plans, seeds, options.output_dir.resolve())
        if options.jobs < 1:
            raise UserError(f"--jobs {options.jobs}: at least 1")
        where_from = origin(("numpy", "numba"))
        print_origin(where_from)
        failures = train_all([run for run in runs if last_record(run) is None], options.jobs)
        results = [result(plan, [run for run in runs if run.plan == plan]) for plan in plans]
    except UserError as error:
        print(f"benchmarks.objectives: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmarks.objectives: stopped; the same command goes on", file=sys.stderr)
        return 130
    for failure in failures:
        print(f"benchmarks.objectives: error: {failure}", file=sys.stderr)
    print(f"\n{PRESET}, seeds {', '.join(map(str, seeds))}\n\n{table(results)}\n")
    print_summary(
        {
            "benchmark": "objectives",
            "steps": options.steps,
            "equal_flop": options.equal_flop,
            "seeds": seeds,
            "results": results,
            "failures": failures,
            "machine": where_from,
        }
    )
    return 1 if failures else 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.objectives",
        description=(__doc__ or "").partition("\n")[0],
        epilog="variants: " + ", ".join(VARIANTS),
    )
    add = parser.add_argument
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--variants", metavar="NAME,...", help="default: all, see below")
    chosen.add_argument("--study", choices=list(STUDIES), help="the variants of a comparison")
    add("--seeds", default="0,1,2", metavar="N,...", help="default: %(default)s")
    add("--steps", type=int, default=STEPS, metavar="N", help="default: %(default)s")
    add("--equal-flop", action="store_true", help=f"--steps counts for {MEASURE} only")
    add("--jobs", type=int, default=2, metavar="N", help="runs at a time; default: %(default)s")
    folder = Path("runs/objectives")
    add("--output-dir", type=Path, default=folder, metavar="DIR", help="default: %(default)s")
    return parser


def names_of(options: argparse.Namespace) -> list[str]:
    """Return the variants that were asked for. Raises UserError for a wrong name."""
    if options.study is not None:
        return list(STUDIES[options.study])
    names = list(VARIANTS) if options.variants is None else options.variants.split(",")
    for name in names:
        if name not in VARIANTS:
            raise UserError(f"--variants {name}: none of {', '.join(VARIANTS)}")
        if names.count(name) > 1:
            raise UserError(f"--variants {name}: given twice")
    return names


def seeds_of(text: str) -> list[int]:
    """Return the seeds in ``text``, separated by commas. Raises UserError."""
    try:
        seeds = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text}: write whole numbers, separated by commas") from None
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {text}: a seed is given twice")
    return seeds


def plans_of(names: Iterable[str], steps: int, *, equal_flop: bool) -> list[Plan]:
    """Return the plans of the variants ``names``, each with ``steps`` or with equal FLOP.

    Raises UserError for ``steps`` below 2, which have no half, and for a setting that is wrong.
    """
    if steps < 2:
        raise UserError(f"--steps {steps}: at least 2")
    plans = [plan_of(name, steps) for name in names]
    if not equal_flop:
        return plans
    budget = steps * plan_of(MEASURE, steps).flop_per_step
    return [plan_of(plan.variant, round(budget / plan.flop_per_step)) for plan in plans]


def plan_of(variant: str, steps: int) -> Plan:
    """Return the plan of ``variant`` that takes ``steps``. Raises UserError."""
    settings = (
        *(setting.format(half=steps // 2) for setting in VARIANTS[variant]),
        *(f"steps={steps}", f"warmup_steps={round(WARMUP_SHARE * steps)}"),
        *(f"evaluate_every={steps}", "device=cpu"),
    )
    config = resolve_config(preset=PRESET, settings=settings)
    counted = resolve_config(
        preset=PRESET, settings=[*settings, f"vocab_size={config.max_vocab_size}"]
    )
    return Plan(variant, steps, settings, run_flop(counted) / steps)


def runs_of(plans: Iterable[Plan], seeds: Iterable[int], output: Path) -> list[Run]:
    """Return the runs of all plans, one seed after the other.

    Raises UserError if the folder of one holds a run with other settings.
    """
    runs = [
        Run(plan, seed, output / plan.variant / f"{plan.steps}-steps-seed-{seed}")
        for seed in seeds
        for plan in plans
    ]
    for run in runs:
        wanted, path = asdict(run.plan.config(run.seed)), run.folder / "config.toml"
        if path.exists():
            there = asdict(resolve_config(path=path))
            other = [key for key, value in wanted.items() if there[key] != value]
            if other:
                raise UserError(
                    f"{run.folder} holds a run with another {other[0]}: "
                    "move it elsewhere, or choose another --output-dir"
                )
    return runs


def last_record(run: Run) -> dict[str, Any] | None:
    """Return the evaluation at the end of ``run``, or None if it has not finished.

    Raises UserError if the file is damaged.
    """
    for record in reversed(read_records(run.folder / "metrics.jsonl")):
        if record.get("split") == "held_out":
            return record if record["step"] == run.plan.steps else None
    return None


def command_of(run: Run) -> list[str]:
    """Return the command that begins ``run``, or continues it if it has begun."""
    command = [sys.executable, "-m", "electra_ref.train", "--output-dir", str(run.folder)]
    if (run.folder / "config.toml").exists():
        return [*command, "--resume"]
    command += ["--preset", PRESET, "--seed", str(run.seed)]
    return [*command, *(part for setting in run.plan.settings for part in ("--set", setting))]


def train_all(runs: Sequence[Run], jobs: int) -> list[str]:
    """Train ``runs``, ``jobs`` at a time; return one line for each that failed.

    If this process is interrupted, the runs that have not begun do not begin, and it waits for the
    others: a terminal interrupts them, too, and they save a checkpoint.
    """
    failures: list[str] = []
    with ThreadPoolExecutor(jobs) as pool:
        futures: dict[Future[None], Run] = {pool.submit(train, run): run for run in runs}
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                run = futures[future]
                if (error := future.exception()) is not None:
                    failures.append(f"{run.plan.variant}, seed {run.seed}: {error}")
                print(
                    f"run {number} of {len(runs)}: {run.plan.variant}, seed {run.seed}, "
                    f"{'ended' if error is None else 'failed'}",
                    file=sys.stderr,
                )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


def train(run: Run) -> None:
    """Begin or continue ``run`` and wait for its end. Raises UserError if it fails."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    with run.log.open("a", encoding="utf-8") as log:
        code = subprocess.run(
            command_of(run),
            cwd=CHECKOUT,
            env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if code:
        raise UserError(f"the training command ended with exit code {code}; see {run.log}")


def result(plan: Plan, runs: Iterable[Run]) -> dict[str, Any]:
    """Return the figures of ``plan``, over those of its ``runs`` that have finished."""
    records = {run.seed: record for run in runs if (record := last_record(run)) is not None}
    by_column = [columns_of(record, plan.config(seed)) for seed, record in records.items()]
    spreads = {}
    for name in FIGURES:
        values = [figures[name] for figures in by_column if figures.get(name) is not None]
        if values:
            spreads[name] = {
                "mean": statistics.fmean(values), "min": min(values), "max": max(values),
            }  # fmt: skip
    return {
        "variant": plan.variant,
        "steps": plan.steps,
        "settings": plan.settings,
        "flop_per_step": plan.flop_per_step,
        "figures": spreads,
        "held_out": records,
    }


def columns_of(record: dict[str, Any], config: PretrainingConfig) -> dict[str, Any]:
    """Return the figures of ``record`` under the columns that they belong to."""
    if config.objective != "mlm":
        return record
    own = record.get("encoder_mlm_accuracy", record.get("mlm_accuracy"))
    return {"encoder_mlm_accuracy": own}


def table(results: Iterable[dict[str, Any]]) -> str:
    """Return a Markdown table with one line a variant; what a variant has not is left empty."""
    rows = [("variant", *FIGURES, "GFLOP a step", "steps"), ("---",) * (len(FIGURES) + 3)]
    for each in results:
        cells = [cell(each["figures"].get(name)) for name in FIGURES]
        gigaflop = f"{each['flop_per_step'] / 1e9:.2f}"
        rows.append((each["variant"], *cells, gigaflop, f"{each['steps']:,}"))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cell(figure: dict[str, float] | None) -> str:
    """Return mean, least and greatest of a figure, or the one value it has."""
    if figure is None:
        return ""
    mean, least, most = (f"{figure[key]:.3f}" for key in ("mean", "min", "max"))
    return mean if least == most else f"{mean} ({least}-{most})"


if __name__ == "__main__":
    sys.exit(main())
