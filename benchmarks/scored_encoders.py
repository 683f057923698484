"""Fine-tune encoders for four tasks with little labelled data, and collect the scores.

All encoders are fine-tuned alike, with the same files and settings, on one thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.side_by_side import run_module
from benchmarks.tasks import TASKS, files_of, scores_in, some_records

SETTINGS = ("learning_rate=0.001", "layerwise_decay=1")


class SmallTask(NamedTuple):
    """A task of TASKS with a part of its training file."""

    records: int | None  # None: all
    score: str


SMALL_TASKS = {
    "UD part of speech": SmallTask(4000, "accuracy"),
    "SNIPS slots": SmallTask(4000, "f1"),
    "SST-2": SmallTask(6000, "accuracy"),
    "CoLA": SmallTask(None, "matthews_correlation"),
}


class Encoder(NamedTuple):
    """What fine-tuning begins with."""

    model: Path  # a run, or a checkpoint of it
    folder: Path  # of its fine-tuned runs
    from_scratch: bool = False  # random numbers in place of the model's

    def folder_of(self, task: str) -> Path:
        """Return the folder of the runs for ``task``, one for each seed."""
        return self.folder / task.lower().replace(" ", "-")

    def scores(self, task: str) -> dict[int, float] | None:
        """Return the score of each seed, None if not all are done."""
        if (found := scores_in(self.folder_of(task))) is None:
            return None
        score = SMALL_TASKS[task].score
        return {int(seed): figures[score] for seed, figures in found.items()}


def small_files(data: Path, output: Path) -> dict[str, tuple[Path, Path]]:
    """Return for each task the files to learn from and to be scored. Raises UserError."""
    files = {}
    for name, task in SMALL_TASKS.items():
        train, dev = files_of(TASKS[name], data, output)
        if task.records is not None:
            train = some_records(TASKS[name], data, output, task.records)
        files[name] = train, dev
    return files


def fine_tune(encoder: Encoder, files: dict[str, tuple[Path, Path]], seeds: int) -> None:
    """Fine-tune for the tasks of ``files`` that are not done. Raises UserError if one fails."""
    for name, pair in files.items():
        if encoder.scores(name) is None:
            folder = encoder.folder_of(name)
            log = folder.with_name(f"{folder.name}.log")
            run_module(list(_arguments(encoder, name, pair, seeds)), log)


def _arguments(encoder: Encoder, task: str, files: Sequence[Path], seeds: int) -> Iterator[str]:
    folder = encoder.folder_of(task)
    yield from ("electra_ref.finetune", "--output-dir", str(folder))
    if (folder / "seeds.json").exists():
        yield "--resume"
        return
    train, dev = files
    yield from ("--model", str(encoder.model), "--seeds", str(seeds))
    yield from ("--train", str(train), "--dev", str(dev), *TASKS[task].arguments)
    for setting in SETTINGS:
        yield from ("--set", setting)
    if encoder.from_scratch:
        yield "--from-scratch"
