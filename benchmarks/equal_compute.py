"""What each objective teaches for the same compute: the paper's table 5, small.

    python -m benchmarks.equal_compute [--corpus FILE ...] [--data DIR] [--preset NAME] [--steps N]
        [--variants NAME;...] [--seeds N,N,...] [--finetuning-seeds N] [--jobs N] [--output-dir DIR]
        [--set KEY=VALUE ...] [--few-labels] [--plot FILE.svg]
    python -m benchmarks.equal_compute --from FILE.csv [FILE.csv ...] [--plot FILE.svg]

Clark et al. 2020 (arXiv:2003.10555), section 3.5, table 5: ELECTRA, all-tokens MLM, replace MLM,
ELECTRA 15 % and BERT, here each for the floating-point operations that ``--steps`` steps of ELECTRA
take. Other generators of ELECTRA (figure 3, left), and half of the steps for the generator alone
before the discriminator begins with its parameters (figure 3, right), get the same operations, too.
All variants of one seed read the same batches and mask the same places. Parameters that have the
same name begin with the same numbers: between ELECTRA and BERT those are the embeddings, and not
the layers.

Two differences to the paper: ``electra-15`` has its loss at all masked tokens, of which the preset
decides how many there are (``laptop``: 30 %); and of those 15 % keep their word, as in the original
ELECTRA, while the paper's BERT also puts random words in place of some.

Every model is then fine-tuned ``--finetuning-seeds`` times for each of four tasks
(``scored_encoders``; without ``--data`` for the one that ``finetune`` brings with it), ELECTRA and
BERT also once after a quarter, half and three quarters of their steps (figure 1). So are two models
that are not pre-trained, as often as the models of one variant: ``start`` has random numbers of
the kind that pre-training begins with, ``random`` those of the original.

With ``--few-labels`` there are 100 to 1,600 sentences to learn from: that is where it matters most
what a model knew before. Models are fine-tuned after all their steps only, and all scores go to
``few_labels.csv``.

What has finished is not repeated, so the command can be stopped and started again. The scores of
the seeds and variants that it names go to ``equal_compute.csv`` in the output folder, in the place
of others. ``--from`` reads such files and does nothing else, so seeds and variants can be divided
among machines.

The score of a pre-trained model is the mean over its fine-tuning seeds, and +- is the standard
deviation of these means (of the runs of what is not pre-trained). ``equal_compute_report`` says how
differences and their intervals are formed.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import pretraining_runs
from benchmarks.choosing import check_numbers, check_settings, corpus_of, seeds_of
from benchmarks.equal_compute_figure import draw, draw_few_labels
from benchmarks.equal_compute_report import Score, print_report
from benchmarks.figure_file import check_that_it_can_draw
from benchmarks.harness import exit_code_of, origin, print_origin
from benchmarks.pretraining_runs import (
    HALF,
    Plan,
    Run,
    check_folders,
    checkpoint_of,
    has_finished,
    steps_of_equal_flop,
    train,
)
from benchmarks.scored_encoders import (
    DATA_HELP,
    FEW_LABELS,
    SMALL_TASKS,
    START,
    USUAL,
    Encoder,
    fine_tune,
    small_files,
)
from benchmarks.scored_encoders import check_folders as check_scored
from benchmarks.side_by_side import Job, run_jobs
from electra_ref.config.pretraining import PRESETS, resolve_config
from electra_ref.errors import UserError

ELECTRA, BERT = "electra", "mlm"
OBJECTIVES = (ELECTRA, "all-tokens-mlm", "replace-mlm", "electra-15", BERT)
WITH_CURVES = (ELECTRA, BERT)
PARTS = 4  # a quarter, half, three quarters and all of the steps
RANDOM = "random"
NOT_PRETRAINED = {"start": START, RANDOM: USUAL}
GENERATORS = {
    f"electra, generator {name}": (f"generator_hidden_size={share}",)
    for name, share in (("1/8", 1 / 8), ("1/4", 1 / 4))
}
HEADS = "{heads}"  # in a setting: as many as the preset has
STAGES = {
    "electra, two stages": (
        *("sharing=none", "generator_hidden_size=1.0", "generator_layers=1.0"),
        *(f"generator_num_attention_heads={HEADS}", f"two_stage_steps={HALF}"),
    )
}
VARIANTS = {**{name: (f"objective={name}",) for name in OBJECTIVES}, **GENERATORS, **STAGES}
ALL_VARIANTS = (*VARIANTS, *NOT_PRETRAINED)
KEPT = 1000  # checkpoints; a run that is stopped and goes on has some more than its quarters
DECIDED = {  # settings that are not free, and what decides
    "objective": "--variants",
    "seed": "--seeds",
    **dict.fromkeys(("steps", "warmup_steps"), "--steps and the preset"),
    **dict.fromkeys(("evaluate_every", "checkpoint_every"), "--steps"),
    "keep_checkpoints": "what is fine-tuned",
    "device": "what is compared",
}
REFERENCES = ("start", BERT)  # differences are shown to them
CSV_FILE, FEW_CSV_FILE = "equal_compute.csv", "few_labels.csv"
TASK_SETS = {False: (SMALL_TASKS, CSV_FILE), True: (FEW_LABELS, FEW_CSV_FILE)}
FROM_HELP = "only report what these files have, of runs with equal settings"


class Scored(NamedTuple):
    """An encoder that is fine-tuned, and what it is."""

    variant: str
    seed: int
    step: int
    flop: float
    encoder: Encoder
    finetuning_seeds: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code of ``exit_code_of``."""
    options = build_parser().parse_args(arguments)
    return exit_code_of("equal_compute", partial(compare_or_report, options))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.equal_compute",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--corpus", nargs="+", default=[], metavar="FILE", help="default: the embedded corpus")
    add("--data", type=Path, metavar="DIR", help=DATA_HELP)
    add("--preset", choices=list(PRESETS), default="laptop", help="default: %(default)s")
    add("--steps", type=int, metavar="N", help="of ELECTRA; default: the preset's")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    add("--variants", metavar="NAME;...", help=f"default: all of {'; '.join(ALL_VARIANTS)}")
    add("--seeds", default="0,1,2", metavar="N,...", help="of pre-training; default: %(default)s")
    add("--finetuning-seeds", type=int, default=3, metavar="N", help="default: %(default)s")
    add("--few-labels", action="store_true", help="100 to 1,600 sentences; needs --data")
    add("--jobs", type=int, default=2, metavar="N", help="runs at a time; default: %(default)s")
    folder = Path("runs/equal-compute")
    add("--output-dir", type=Path, default=folder, metavar="DIR", help="default: %(default)s")
    add("--from", nargs="+", type=Path, metavar="CSV", dest="scores", help=FROM_HELP)
    add("--plot", type=Path, metavar="FILE.svg", help="draw the figure; needs matplotlib")
    return parser


def compare_or_report(options: argparse.Namespace) -> list[str]:
    """Do what the command line asks for; return the failures. Raises UserError."""
    failures: list[str] = []
    if options.plot is not None:
        check_that_it_can_draw()
    if options.scores is None:
        failures, scores = compare(options)
    else:
        scores = read_all(options.scores)
    if not scores and not failures:
        raise UserError("there is no score to report")
    print_report(scores, REFERENCES)
    if options.plot is not None and scores:
        if {one.task for one in scores} <= FEW_LABELS.keys():
            draw_few_labels(scores, options.plot)
        else:
            draw(scores, options.plot, BERT, without=RANDOM)
    return failures


def compare(options: argparse.Namespace) -> tuple[list[str], list[Score]]:
    """Train and fine-tune what is missing, write all scores; return the failures and the scores."""
    _check(options)
    output = options.output_dir.resolve()
    plans, seeds = plans_of(options), seeds_of(options.seeds)
    corpus = corpus_of(options.corpus)
    runs = [
        Run(plan, seed, folder_of(output, plan, seed), corpus) for seed in seeds for plan in plans
    ]
    check_folders(runs)
    tasks, csv_name = TASK_SETS[options.few_labels]
    files = small_files(options.data and options.data.resolve(), output, tasks)
    print_origin(origin(("numpy", "numba", "scikit-learn")))
    again, curves = options.finetuning_seeds, not options.few_labels
    to_score = {run: list(encoders_of(run, output, again, curves=curves)) for run in runs}
    to_score[runs[0]] += [
        one
        for one in not_pretrained(runs[0], output, again * len(seeds))
        if one.variant in names_of(options)
    ]
    for run, scored in to_score.items():
        for one in scored:
            is_trained = has_finished(run)
            check_scored(one.encoder, files, one.finetuning_seeds, is_trained=is_trained)
    jobs = [Job(run.name, partial(do, run, to_score[run], files)) for run in runs]
    try:
        failures = run_jobs(jobs, options.jobs)
    finally:
        found = (scores_of(scored, tasks) for run in runs for scored in to_score[run])
        scores = list(itertools.chain.from_iterable(found))
        write_scores(output / csv_name, scores)
    return failures, scores


def _check(options: argparse.Namespace) -> None:
    check_numbers(options, {"jobs": 1, "finetuning_seeds": 1})
    check_settings(options.settings, DECIDED)
    if options.few_labels and options.data is None:
        raise UserError("--few-labels needs the files of the tasks: --data DIR")


def plans_of(options: argparse.Namespace) -> list[Plan]:
    """Return the plans of all variants, with the FLOP of ``--steps`` steps of ELECTRA."""
    steps = resolve_config(preset=options.preset).steps if options.steps is None else options.steps
    if steps < PARTS:
        raise UserError(f"--steps {steps}: at least {PARTS}")
    names = [name for name in names_of(options) if name in VARIANTS]
    if not names:
        raise UserError(
            f"--variants {options.variants}: name one that is pre-trained, too, for its vocabulary"
        )
    budget = steps * _plan(ELECTRA, options, steps).flop_per_step
    plans = [_plan(name, options, steps) for name in names]
    return [_plan(plan.variant, options, steps_of_equal_flop(plan, budget)) for plan in plans]


def names_of(options: argparse.Namespace) -> list[str]:
    """Return the names of ``--variants``. Raises UserError for one that is unknown."""
    names = list(ALL_VARIANTS) if options.variants is None else options.variants.split(";")
    for name in names:
        if name not in ALL_VARIANTS:
            raise UserError(f"--variants {name}: none of {'; '.join(ALL_VARIANTS)}")
        if names.count(name) > 1:
            raise UserError(f"--variants {name}: given twice")
    return names


def _plan(variant: str, options: argparse.Namespace, steps: int) -> Plan:
    part = -(-steps // PARTS)
    heads = resolve_config(preset=options.preset, settings=options.settings).num_attention_heads
    settings = (
        *(*options.settings, *(one.replace(HEADS, str(heads)) for one in VARIANTS[variant])),
        *(f"evaluate_every={part}", f"checkpoint_every={part}", f"keep_checkpoints={KEPT}"),
    )
    return pretraining_runs.plan_of(variant, options.preset, settings, steps)


def folder_of(output: Path, plan: Plan, seed: int) -> Path:
    """Return the folder of a pre-training run."""
    name = plan.variant.replace(", ", "-").replace(" ", "-").replace("/", "-")
    return output / "pre-trained" / f"{name}-{plan.steps}-steps-seed-{seed}"


def do(run: Run, to_score: Iterable[Scored], files: dict[str, tuple[Path, Path]]) -> None:
    """Train and fine-tune what is missing of ``run``. Raises UserError if something fails."""
    if not has_finished(run):
        train(run)
    for scored in to_score:
        fine_tune(scored.encoder, files, scored.finetuning_seeds)


def encoders_of(
    run: Run, output: Path, finetuning_seeds: int, *, curves: bool = True
) -> Iterator[Scored]:
    """Yield the encoders of ``run`` that are fine-tuned, the last one last.

    Without ``curves`` that is the only one.
    """
    plan, steps = run.plan, [run.plan.steps]
    if curves and plan.variant in WITH_CURVES:
        part = -(-plan.steps // PARTS)
        steps = [*range(part, plan.steps, part), plan.steps]
    for step in steps:
        folder = output / "fine-tuned" / run.folder.name / f"step-{step}"
        encoder = Encoder(checkpoint_of(run, step), folder)
        flop = step * plan.flop_per_step
        seeds = finetuning_seeds if step == plan.steps else 1
        yield Scored(plan.variant, run.seed, step, flop, encoder, seeds)


def not_pretrained(run: Run, output: Path, seeds: int) -> Iterator[Scored]:
    """Yield what has the sizes and the vocabulary of the model of ``run``, and random numbers."""
    for name, start in NOT_PRETRAINED.items():
        encoder = Encoder(run.folder, output / "fine-tuned" / name, start)
        yield Scored(name, 0, 0, 0.0, encoder, seeds)


def scores_of(scored: Scored, tasks: Iterable[str]) -> Iterator[Score]:
    """Yield the scores of those of ``tasks`` that are done."""
    for task in tasks:
        for seed, value in (scored.encoder.scores(task) or {}).items():
            yield Score(*scored[:4], task, seed, value)


def write_scores(path: Path, scores: Iterable[Score]) -> None:
    """Write one line for each score."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Score._fields)
        writer.writerows(scores)


def read_all(paths: Iterable[Path]) -> list[Score]:
    """Return the scores of all files. Raises UserError if two have the same run."""
    found: dict[tuple[Any, ...], Path] = {}
    scores: list[Score] = []
    for path in paths:
        for one in read_scores(path):
            run = (one.variant, one.seed, one.step, one.task, one.finetuning_seed)
            if run in found:
                raise UserError(
                    f"{found[run]} and {path} both have the score of {one.variant}, seed "
                    f"{one.seed}, step {one.step}, {one.task}, fine-tuning seed "
                    f"{one.finetuning_seed}: leave it out of one of them"
                )
            found[run] = path
            scores.append(one)
    return scores


def read_scores(path: Path) -> list[Score]:
    """Return what ``write_scores`` wrote. Raises UserError if it is something else."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        if tuple(reader.fieldnames or ()) != Score._fields:
            raise ValueError
        return [
            Score(
                *(row["variant"], int(row["seed"]), int(row["step"]), float(row["flop"])),
                *(row["task"], int(row["finetuning_seed"]), float(row["score"])),
            )
            for row in rows
        ]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, csv.Error):
        raise UserError(f"{path}: no file of scores, whose columns are {Score._fields}") from None


if __name__ == "__main__":
    sys.exit(main())
