"""Search for a recipe: pre-train with each configuration of a folder, and score what it taught.

    python -m benchmarks.recipe [--corpus FILE ...] [--data DIR] [--names NAME,...]
        [--finetuning-seeds N] [--jobs N] [--output-dir DIR] [--results DIR]

``--results`` is a folder with a file NAME.toml for each run: the settings in which it differs from
the ``tiny`` preset. ``results.csv`` in it has a line for each run that was made: its tokens (steps
x batch x length, padding included), the FLOP of its matrix products, its last figures on held-out
text, and the mean score of its fine-tuned models for each of the tasks of ``scored_encoders``. The
line ``random`` has random numbers in place of a model, with the sizes of the first run.

The line ``random`` is made only if all files are chosen.

What has finished is not repeated, and what was stopped goes on. Lines of runs that have failed, of
runs that had finished before, and of other runs stay, and so do notes, which only people write.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.choosing import check_numbers, corpus_of
from benchmarks.harness import CHECKOUT, commit, exit_code_of, origin, print_origin
from benchmarks.pretraining_runs import (
    Plan,
    Run,
    check_folders,
    has_finished,
    last_record,
    plan_with,
    train,
)
from benchmarks.scored_encoders import (
    DATA_HELP,
    SMALL_TASKS,
    USUAL,
    Encoder,
    fine_tune,
    small_files,
)
from benchmarks.scored_encoders import check_folders as check_scored
from benchmarks.side_by_side import Job, run_jobs
from electra_ref.errors import UserError

PRESET = "tiny"
RANDOM = "random"
RESULTS = CHECKOUT / "benchmarks" / "results" / "recipe"
FIGURES = ("mlm_accuracy", "encoder_mlm_accuracy", "rtd_auc", "rtd_masked_auc")
COLUMNS = ("name", "commit", "tokens", "flop", *FIGURES, "seeds", *SMALL_TASKS, "note")


class Model(NamedTuple):
    """What is fine-tuned, and the run that it comes from."""

    name: str
    run: Run
    encoder: Encoder

    def is_done(self, tasks: Iterable[str]) -> bool:
        """Return whether it is trained, and all ``tasks`` have their scores."""
        return has_finished(self.run) and all(map(self.encoder.scores, tasks))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code of ``exit_code_of``."""
    options = build_parser().parse_args(arguments)
    return exit_code_of("recipe", partial(search, options))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recipe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--corpus", nargs="+", default=[], metavar="FILE", help="default: the embedded corpus")
    add("--data", type=Path, metavar="DIR", help=DATA_HELP)
    add("--names", metavar="NAME,...", help="of files without .toml; default: all")
    add("--finetuning-seeds", type=int, default=1, metavar="N", help="default: %(default)s")
    add("--jobs", type=int, default=2, metavar="N", help="runs at a time; default: %(default)s")
    folder = Path("runs/recipe")
    add("--output-dir", type=Path, default=folder, metavar="DIR", help="default: %(default)s")
    add("--results", type=Path, default=RESULTS, metavar="DIR", help="default: %(default)s")
    return parser


def search(options: argparse.Namespace) -> list[str]:
    """Train and score what is missing, write the lines; return what failed. Raises UserError."""
    check_numbers(options, {"jobs": 1, "finetuning_seeds": 1})
    output, seeds = options.output_dir.resolve(), options.finetuning_seeds
    plans = plans_of(options.results, options.names)
    corpus = corpus_of(options.corpus)
    runs = [Run(plan, 0, output / plan.variant, corpus) for plan in plans]
    check_folders(runs)
    files = small_files(options.data and options.data.resolve(), output)
    models = [Model(run.plan.variant, run, encoder_of(run, output)) for run in runs]
    if options.names is None:
        usual = Encoder(runs[0].folder, output / "fine-tuned" / RANDOM, USUAL)
        models.append(Model(RANDOM, runs[0], usual))
    for model in models:
        check_scored(model.encoder, files, seeds, is_trained=has_finished(model.run))
    print_origin(origin(("numpy", "numba", "scikit-learn")))
    missing = [model.name for model in models if not model.is_done(files)]

    def do(model: Model) -> None:
        if not has_finished(model.run):
            train(model.run)
        fine_tune(model.encoder, files, seeds)

    jobs = [Job(model.name, partial(do, model)) for model in models]
    failures = run_jobs(jobs[: len(runs)], options.jobs)
    failures += run_jobs(jobs[len(runs) :], 1)  # random numbers take the vocabulary of the first
    lines = [line_of(model) for model in models if model.is_done(files)]
    update(options.results / "results.csv", lines, again=missing)
    return failures


def plans_of(folder: Path, names: str | None) -> list[Plan]:
    """Return the plans of the files in ``folder`` that have these names. Raises UserError."""
    there = {path.stem: path for path in sorted(folder.glob("*.toml"))}
    if not there:
        raise UserError(f"--results {folder}: no file NAME.toml is there")
    chosen = list(there) if names is None else names.split(",")
    for name in chosen:
        if name not in there:
            raise UserError(f"--names {name}: none of {', '.join(there)}")
    return [plan_with(name, PRESET, settings_in(there[name])) for name in chosen]


def settings_in(path: Path) -> list[str]:
    """Return the settings of a file as key=value. Raises UserError if it cannot be read."""
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None
    return [f"{key}={str(value).lower()}" for key, value in table.items()]


def encoder_of(run: Run, output: Path) -> Encoder:
    """Return what is fine-tuned of ``run``."""
    return Encoder(run.folder, output / "fine-tuned" / run.folder.name)


def line_of(model: Model) -> dict[str, Any]:
    """Return the line of ``model``."""
    if model.name == RANDOM:
        return {"name": RANDOM, **scores_of(model.encoder)}
    run, plan = model.run, model.run.plan
    config = plan.config(run.seed)
    record = last_record(run) or {}
    return {
        "name": model.name,
        "tokens": plan.steps * config.batch_size * config.max_length,
        "flop": f"{plan.steps * plan.flop_per_step:.3g}",
        **{key: f"{record[key]:.4f}" for key in FIGURES if record.get(key) is not None},
        **scores_of(model.encoder),
    }


def scores_of(encoder: Encoder) -> dict[str, Any]:
    """Return the mean score of each task that is done, and where they come from."""
    found = {task: scores for task in SMALL_TASKS if (scores := encoder.scores(task))}
    means = {task: f"{statistics.mean(scores.values()):.4f}" for task, scores in found.items()}
    seeds = {len(scores) for scores in found.values()}
    return {"commit": commit(), "seeds": max(seeds, default=0), **means}


def update(path: Path, lines: Iterable[Mapping[str, Any]], again: Collection[str]) -> None:
    """Write ``lines`` into the file, in place of those of the names ``again``. Raises UserError."""
    try:
        before = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except FileNotFoundError:
        before = []
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    notes = {line["name"]: line["note"] for line in before}
    table = {line["name"]: line for line in before}
    for line in lines:
        if line["name"] in again or line["name"] not in table:
            table[line["name"]] = {"note": notes.get(line["name"], ""), **line}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table.values())


if __name__ == "__main__":
    sys.exit(main())
