"""Fine-tune encoders for tasks with little labelled data, and collect the scores.

All encoders are fine-tuned alike, with the same files and settings, on one thread. Epochs and rates
of each task were chosen for random numbers of the usual kind: 3 to 10 epochs at 1e-3 and 3e-4 were
tried, one seed each. (Later 5e-4 was tried for whole texts: benchmarks/README.md, "The search for a
recipe".)

``FEW_LABELS`` are tasks with fewer sentences to learn from, all for the same number of steps.

Two encoders are not pre-trained. ``START`` begins with random numbers of the kind that the
pre-training of the model begins with, so the difference to it is what pre-training taught.
``USUAL`` begins with those of the original.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.side_by_side import run_module
from benchmarks.tasks import (
    TASKS,
    TaskFiles,
    check_folder,
    files_of,
    scores_in,
    some_records,
)
from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.errors import UserError
from electra_ref.training.finetuning.embedded import FILES, embedded_task, write_texts
from electra_ref.training.finetuning.encoder_source import START as START_KEYS
from electra_ref.training.finetuning.seeds_file import have_begun

DATA_HELP = "folder of the tasks' files, see benchmarks.tasks; default: the task without files"
START = ("--from-scratch",)
_USUAL = {key: getattr(FinetuningConfig, key) for key in START_KEYS}
USUAL = (*START, *(part for key, value in _USUAL.items() for part in ("--set", f"{key}={value}")))
EMBEDDED = "which package"  # the task that needs no data: training.finetuning.embedded


class SmallTask(NamedTuple):
    """How a task is learned and scored."""

    source: TaskFiles | None  # None: the embedded texts
    score: str
    epochs: int
    learning_rate: float
    records: int | None = None  # of the training file; None: all
    steps: int = 0  # 0: as many as ``epochs`` make; otherwise scores are taken at the end alone

    @property
    def arguments(self) -> Iterator[str]:
        """Yield the arguments of ``finetune`` that say what is learned, and for how long."""
        yield from self.source.arguments if self.source else ("--task", "classification")
        long = ("steps", "evaluate_every", "checkpoint_every") if self.steps else ("epochs",)
        for key in long:
            yield from ("--set", f"{key}={self.steps or self.epochs}")
        yield from ("--set", f"learning_rate={self.learning_rate}")


_UD, _SLOTS = TASKS["UD part of speech"], TASKS["SNIPS slots"]
SMALL_TASKS = {
    "UD part of speech": SmallTask(_UD, "accuracy", 5, 1e-3, 4000),
    "SNIPS slots": SmallTask(_SLOTS, "f1", 10, 1e-3, 4000),
    "SST-2": SmallTask(TASKS["SST-2"], "accuracy", 3, 3e-4, 6000),
    "CoLA": SmallTask(TASKS["CoLA"], "matthews_correlation", 5, 3e-4),
    EMBEDDED: SmallTask(None, "accuracy", 3, 1e-3),
}
FEW_LABELS = {
    f"{name}, {count:,}": SMALL_TASKS[name]._replace(records=count, steps=400)
    for name in ("UD part of speech", "SNIPS slots")
    for count in (100, 400, 1600)
}
ALL_TASKS = {**SMALL_TASKS, **FEW_LABELS}


class Encoder(NamedTuple):
    """What fine-tuning begins with."""

    model: Path  # a run, or a checkpoint of it
    folder: Path  # of its fine-tuned runs
    start: tuple[str, ...] = ()  # arguments; none: with the parameters of the model

    def folder_of(self, task: str) -> Path:
        """Return the folder of the runs for ``task``, one for each seed."""
        return self.folder / task.lower().replace(", ", "-").replace(" ", "-").replace(",", "")

    def scores(self, task: str) -> dict[int, float] | None:
        """Return the score of each seed, None if not all are done."""
        if (found := scores_in(self.folder_of(task))) is None:
            return None
        score = ALL_TASKS[task].score
        return {int(seed): figures[score] for seed, figures in found.items()}


def small_files(
    data: Path | None, output: Path, tasks: Iterable[str] = SMALL_TASKS
) -> dict[str, tuple[Path, Path]]:
    """Return for each of ``tasks`` the files to learn from and to be scored. Raises UserError.

    Without ``data`` there is one task, whose files are written from the installed packages.
    """
    if data is None:
        output.mkdir(parents=True, exist_ok=True)
        there = output / FILES[0], output / FILES[1]
        # They stay as they are: a package that was upgraded would make another task of it.
        done = all(path.exists() for path in there)
        return {EMBEDDED: there if done else write_texts(output, *embedded_task())}
    files = {}
    for name in tasks:
        task = ALL_TASKS[name]
        if task.source is not None:
            train, dev = files_of(task.source, data, output)
            if task.records is not None:
                train = some_records(task.source, data, output, task.records)
            files[name] = train, dev
    return files


def check_folders(
    encoder: Encoder, files: dict[str, tuple[Path, Path]], seeds: int, *, is_trained: bool
) -> None:
    """Raise UserError if the folder of ``encoder`` has runs on other files, or other seeds.

    Before its model ``is_trained`` nothing may be there: it would be of another model.
    """
    if not is_trained and encoder.folder.exists():
        raise UserError(
            f"{encoder.folder} holds fine-tuned models, and the model they come from is not in "
            f"{encoder.model}: move them elsewhere, or choose another --output-dir"
        )
    for name, pair in files.items():
        check_folder(encoder.folder_of(name), encoder.model, pair, seeds)


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
    if have_begun(folder):
        yield "--resume"
        return
    train, dev = files
    yield from ("--model", str(encoder.model), "--seeds", str(seeds))
    yield from ("--train", str(train), "--dev", str(dev), *ALL_TASKS[task].arguments)
    yield from encoder.start
