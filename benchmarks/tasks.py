"""What pre-training is good for: fine-tune a model for eleven tasks, and the same from scratch.

    python -m benchmarks.tasks --model DIR --data DIR [--tasks NAME,NAME,...] [--seeds N]
        [--output-dir DIR]

``--data`` is a folder with the files that TASKS names. They are public data sets, which do not come
with this project. Where a set has no part to be scored on (STS-B, Wikigold), that is its last
tenth.

Each task is trained ``--seeds`` times with the encoder of the model, and as often with the random
numbers that it began with itself, by the command ``finetune``, one after the other. All settings
are the same. A run that has finished is not repeated, and one that was stopped goes on, so this
command can be stopped and started again. What a run prints is in a file beside its folder.

The table has the mean of the first score over the seeds, and their standard deviation.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import CHECKOUT, exit_code_of, origin, print_origin, print_summary
from electra_ref.errors import UserError
from electra_ref.training.finetuning.seeds_file import have_begun, read_seeds

LAST_TENTH = 10
GZIP = ".gz"


class TaskFiles(NamedTuple):
    """One task: its files below the folder of the data, and how it is trained."""

    train: str
    dev: str | None  # None: the last tenth of ``train``
    arguments: tuple[str, ...]
    blocks: bool = False  # records are blocks of lines with blank lines between them
    header: bool = False  # the first line names the columns


TASKS = {
    "CoLA": TaskFiles("cola/train.tsv", "cola/dev.tsv", ("--glue", "cola")),
    "SNIPS intent": TaskFiles(
        "snips/train.tsv.gz", "snips/valid.tsv", ("--task", "classification"), header=True
    ),
    "SNIPS slots": TaskFiles(
        "snips/train.tsv.gz", "snips/valid.tsv", ("--task", "tagging"), header=True
    ),
    "COPA": TaskFiles("copa/train.jsonl", "copa/val.jsonl", ("--task", "multiple-choice")),
    "Wikigold entities": TaskFiles(
        "wikigold/wikigold.conll.txt", None, ("--task", "tagging"), blocks=True
    ),
    "UD part of speech": TaskFiles(
        "ud_ewt/en_ewt-train.pos.conllu.gz",
        "ud_ewt/en_ewt-ud-dev.conllu.gz",
        ("--task", "tagging"),
        blocks=True,
    ),
    "STS-B": TaskFiles("stsb/train.tsv", None, ("--glue", "stsb"), header=True),
    "AG News": TaskFiles(
        "ag_news/train.tsv.gz", "ag_news/test.tsv", ("--task", "classification"), header=True
    ),
    "PropBank roles": TaskFiles(
        "srl_propbank_ewt/train.props.gz",
        "srl_propbank_ewt/dev.props",
        ("--task", "tagging"),
        blocks=True,
    ),
    "SST-2": TaskFiles("sst2/train.tsv.gz", "sst2/dev.tsv", ("--glue", "sst2"), header=True),
    "SQuAD 1.1": TaskFiles(
        "squad/train-v1.1-sample.json.gz", "squad/dev-v1.1.json.gz", ("--task", "span-extraction")
    ),
}
STARTS = {"pre-trained": (), "from-scratch": ("--from-scratch",)}


class Run(NamedTuple):
    """One task with one start, with all seeds."""

    task: str
    start: str
    folder: Path

    @property
    def log(self) -> Path:
        """Return the file for what the command prints."""
        return self.folder.with_name(f"{self.folder.name}.log")

    def scores(self) -> dict[str, dict[str, float]] | None:
        """Return the scores by the seed, None if not all are done."""
        return scores_in(self.folder)


def scores_in(folder: Path) -> dict[str, dict[str, float]] | None:
    """Return the scores of a folder with a run for each seed, None if not all are done."""
    try:
        facts: dict[str, Any] = json.loads((folder / "seeds.json").read_bytes())
    except FileNotFoundError:
        return None
    return None if facts["best"] is None else facts["scores"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code of ``exit_code_of``."""
    options = build_parser().parse_args(arguments)
    return exit_code_of("tasks", partial(compare, options))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(prog="benchmarks.tasks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="what the encoder is taken from")
    add("--data", type=Path, required=True, metavar="DIR", help="folder of the data sets")
    add("--tasks", default=",".join(TASKS), help="names, with commas (default: all)")
    add("--seeds", type=int, default=3, help="how often each is trained (default: 3)")
    add("--output-dir", type=Path, default=Path("runs/tasks"), help="default: runs/tasks")
    return parser


def compare(options: argparse.Namespace) -> list[str]:
    """Train what is missing, print all scores; return the failures. Raises UserError."""
    output, names = options.output_dir.resolve(), names_of(options.tasks)
    where_from = origin(("numpy", "numba", "scikit-learn"))
    print_origin(where_from)
    runs = [
        Run(name, start, output / f"{name.lower().replace(' ', '-')}-{start}")
        for name in names
        for start in STARTS
    ]
    for run in runs:  # before hours of other tasks
        files = files_of(TASKS[run.task], options.data.resolve(), output)
        check_folder(run.folder, options.model.resolve(), files, options.seeds)
    failures = []
    for run in runs:
        if run.scores() is None and (code := train(run, options, output)):
            if code in (130, 143):
                raise KeyboardInterrupt
            failures.append(f"{run.task}, {run.start}: exit code {code}, see {run.log}")
    results = [result(name, [run for run in runs if run.task == name]) for name in names]
    print("\n".join(["", *table([one for one in results if one is not None]), ""]))
    print_summary({"benchmark": "tasks", "results": results, "machine": where_from})
    return failures


def check_folder(folder: Path, model: Path, files: tuple[Path, Path], seeds: int) -> None:
    """Raise UserError if ``folder`` has runs of another model, on other files or of other seeds."""
    wanted = list(map(str, (model, *files))), list(range(seeds))
    found = read_seeds(folder)
    if found is not None and (list(found.files.values()), found.seeds) != wanted:
        raise UserError(
            f"{folder} holds runs of {len(found.seeds)} seeds on {found.files['train']} with "
            f"{found.files['model']}: move it elsewhere, or choose another --output-dir"
        )


def names_of(text: str) -> list[str]:
    """Return the names of tasks. Raises UserError for an unknown one."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in TASKS:
            raise UserError(f"--tasks: {name!r} is none of {', '.join(TASKS)}")
    return names


def train(run: Run, options: argparse.Namespace, output: Path) -> int:
    """Train ``run``, or go on with it; return the exit code of the command."""
    output.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "electra_ref.finetune", "--output-dir", str(run.folder)]
    if have_begun(run.folder):
        command.append("--resume")
    else:
        train_file, dev_file = files_of(TASKS[run.task], options.data.resolve(), output)
        command += ["--model", str(options.model.resolve()), "--seeds", str(options.seeds)]
        command += ["--train", str(train_file), "--dev", str(dev_file)]
        command += [*TASKS[run.task].arguments, *STARTS[run.start]]
    print(f"{run.task}, {run.start}", flush=True)
    with run.log.open("ab") as log:
        return subprocess.run(command, cwd=CHECKOUT, stdout=log, stderr=log, check=False).returncode


def files_of(task: TaskFiles, data: Path, output: Path) -> tuple[Path, Path]:
    """Return the files to learn from and to be scored; divide one file where there is no other.

    Raises UserError if they are not there.
    """
    whole = data / task.train
    if task.dev is not None:
        for path in (whole, data / task.dev):
            if not path.is_file():
                raise UserError(f"{path}: no such file")
        return whole, data / task.dev
    header, records = records_of(task, whole)
    first = len(records) - len(records) // LAST_TENTH
    parts = [output / f"{whole.parent.name}-{part}{whole.suffix}" for part in ("train", "dev")]
    for path, chosen in zip(parts, (records[:first], records[first:]), strict=True):
        write_records(task, path, header, chosen)
    return parts[0], parts[1]


def some_records(task: TaskFiles, data: Path, output: Path, count: int) -> Path:
    """Write ``count`` records of the training file, at equal distances; return the new file."""
    whole = data / task.train
    header, records = records_of(task, whole)
    if count > len(records):
        raise UserError(f"{whole} has {len(records)} records, not {count}")
    chosen = [records[index * len(records) // count] for index in range(count)]
    name = whole.name.removesuffix(GZIP)
    path = output / f"{whole.parent.name}-{count}{Path(name).suffix}"
    write_records(task, path, header, chosen)
    return path


def records_of(task: TaskFiles, path: Path) -> tuple[list[str], list[str]]:
    """Return the header and the records of a file. Raises UserError if it cannot be read."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.name.endswith(GZIP) else data).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    records = text.strip("\n").split("\n\n" if task.blocks else "\n")
    return (records[:1], records[1:]) if task.header else ([], records)


def write_records(task: TaskFiles, path: Path, header: list[str], records: list[str]) -> None:
    """Write a file that ``records_of`` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = ("\n\n" if task.blocks else "\n").join([*header, *records])
    path.write_text(f"{text}\n", encoding="utf-8")


def result(name: str, runs: Sequence[Run]) -> dict[str, Any] | None:
    """Return the figures of one task, None if it is not done."""
    figures: dict[str, Any] = {"task": name}
    for run in runs:
        if (scores := run.scores()) is None:
            return None
        figures["score"] = next(iter(next(iter(scores.values()))))
        figures[run.start] = [one[figures["score"]] for one in scores.values()]
    return figures


def table(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    yield "| task | score | pre-trained | from scratch |"
    yield "|---|---|---|---|"
    for one in results:
        cells = (_cell(one[start]) for start in STARTS)
        yield f"| {one['task']} | {one['score']} | {' | '.join(cells)} |"


def _cell(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} +- {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    sys.exit(main())
