"""What each objective and each option learns: train the tiny preset with all of them.

Attention begins with random numbers in all of them, as in the original.

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
import statistics
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import pretraining_runs
from benchmarks.choosing import check_numbers, seeds_of
from benchmarks.harness import exit_code_of, origin, print_origin, print_summary
from benchmarks.pretraining_runs import (
    HALF,
    Plan,
    Run,
    check_folders,
    last_record,
    steps_of_equal_flop,
    train,
)
from benchmarks.side_by_side import Job, run_jobs
from electra_ref.config.pretraining import PRESETS, PretrainingConfig
from electra_ref.errors import UserError

PRESET, MEASURE = "tiny", "electra"
START = "initial_attention=random"  # the original's, for which all of these were made
STEPS = int(PRESETS[PRESET]["steps"])
FIGURES = (
    *("mlm_accuracy", "encoder_mlm_accuracy", "generator_entropy"),
    *("rtd_auc", "rtd_masked_auc", "replaced_share"),
)
EQUAL_SIZES = ("generator_hidden_size=1", "generator_layers=1")
GUMBEL = ("adversarial=gumbel-softmax",)
FOOLS = ("adversarial_weight=10",)  # a masked token then weighs about as much as in the MLM loss
VARIANTS: dict[str, tuple[str, ...]] = {
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
        f"two_stage_steps={HALF}",
    ),
    "uniform-generator": ("uniform_generator=true",),
    "exploration": ("exploration=0.1",),
    "disallow-correct": ("disallow_correct=true",),
    "temperature-schedule": ("temperature=2", "temperature_end=1", f"temperature_steps={HALF}"),
}
STUDIES = {"adversarial": ("electra", "reinforce", "gumbel-straight-through")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code of ``exit_code_of``."""
    options = build_parser().parse_args(arguments)
    return exit_code_of("objectives", partial(compare, options))


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


def compare(options: argparse.Namespace) -> list[str]:
    """Train what is missing, print all figures; return the failures. Raises UserError."""
    check_numbers(options, {"jobs": 1})
    seeds = seeds_of(options.seeds)
    plans = plans_of(names_of(options), options.steps, equal_flop=options.equal_flop)
    runs = runs_of(plans, seeds, options.output_dir.resolve())
    where_from = origin(("numpy", "numba"))
    print_origin(where_from)
    missing = [run for run in runs if last_record(run) is None]
    failures = run_jobs([Job(run.name, partial(train, run)) for run in missing], options.jobs)
    results = [result(plan, [run for run in runs if run.plan == plan]) for plan in plans]
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
    return failures


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
    return [plan_of(plan.variant, steps_of_equal_flop(plan, budget)) for plan in plans]


def plan_of(variant: str, steps: int) -> Plan:
    """Return the plan of ``variant`` that takes ``steps``. Raises UserError."""
    settings = (*VARIANTS[variant], START, f"evaluate_every={steps}")
    return pretraining_runs.plan_of(variant, PRESET, settings, steps)


def runs_of(plans: Iterable[Plan], seeds: Iterable[int], output: Path) -> list[Run]:
    """Return the runs of all plans, one seed after the other.

    Raises UserError if the folder of one holds a run with other settings.
    """
    runs = [
        Run(plan, seed, output / plan.variant / f"{plan.steps}-steps-seed-{seed}")
        for seed in seeds
        for plan in plans
    ]
    check_folders(runs)
    return runs


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
