"""Trains with several seeds: a run for each, mean and spread of their scores, the best one kept.

Every seed draws its own head, dropout and order of the data. When all are done, the checkpoints of
the others are deleted; their figures stay.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.config.settings import resolve, to_toml
from electra_ref.errors import UserError
from electra_ref.files import (
    TEMPORARY,
    disk_errors,
    remove_temporaries,
    sync_folder,
    write_text_atomically,
)
from electra_ref.processes import ALONE, Processes
from electra_ref.training.finetuning.learning import SHOWN
from electra_ref.training.finetuning.run import Files
from electra_ref.training.finetuning.seeds_file import (
    CONFIG,
    Seeds,
    have_begun,
    read_seeds,
    remove_seeds,
    run_of,
    write_seeds,
)
from electra_ref.training.finetuning.table import task_of
from electra_ref.training.loop import Trainer
from electra_ref.training.new_folder import require_empty
from electra_ref.training.run_directory import has_begun, is_run

Scores = Mapping[str, float]


def begin_seeds(folder: Path, settings: FinetuningConfig, files: Files, count: int) -> None:
    """Make ``folder`` that of ``count`` runs, the first with the seed of ``settings``.

    The marker is written first: what a process killed here leaves is known to be ours. Raises
    UserError if the folder holds something else.
    """
    seeds = [settings.seed + number for number in range(count)]
    dataclasses.replace(settings, seed=seeds[-1])  # raises UserError if it is too large
    with disk_errors(f"create {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        if all(TEMPORARY.fullmatch(name) for name in os.listdir(folder)):
            remove_temporaries(folder)  # of a process that was killed here
        require_empty(folder, "choose another --output-dir")
    write_seeds(folder, Seeds(seeds, {}, None, settings.task, files._asdict()))
    write_text_atomically(folder / CONFIG, to_toml(settings))


def discard_seeds(folder: Path, *, folder_too: bool) -> None:
    """Delete what ``begin_seeds`` wrote, unless a run of a seed is there."""
    seeds = read_seeds(folder)
    if seeds is None or any(is_run(run_of(folder, seed)) for seed in seeds.seeds):
        return
    with suppress(OSError):
        (folder / CONFIG).unlink(missing_ok=True)
        remove_seeds(folder)
        if folder_too:
            folder.rmdir()


def first_begun(folder: Path) -> Path | None:
    """Return the first run of ``folder`` that has begun, whose model and data all others have."""
    seeds = read_seeds(folder)
    runs = [run_of(folder, seed) for seed in seeds.seeds] if seeds else []
    return next((path for path in runs if has_begun(path)), None)


def what_is_trained(folder: Path) -> tuple[FinetuningConfig, Files]:
    """Return the settings of all seeds of ``folder``, and their files. Raises UserError."""
    seeds = read_seeds(folder)
    if seeds is None:
        raise UserError(f"{folder} has no runs of several seeds")
    if not have_begun(folder):
        raise UserError(
            f"the runs of several seeds in {folder} were stopped before they began; "
            "start them again without --resume"
        )
    table = task_of(seeds.task).TABLE
    return resolve(table, {}, path=folder / CONFIG), Files(**seeds.files)


def train_seeds(
    folder: Path,
    files: Files,
    begin: Callable[[Path, int], Trainer],
    resume: Callable[[Path], Trainer],
    train: Callable[[Trainer], Scores | None],
    say: Callable[[str], object],
    processes: Processes = ALONE,
) -> Mapping[str, Scores] | None:
    """Train the seeds of ``folder`` that are not done; return the scores of all by their seed.

    ``files`` are where all seeds find what they read; these are kept as soon as one has read them.
    None after a signal.
    """
    seeds = processes.of_first(lambda: read_seeds(folder))
    assert seeds is not None
    for seed in seeds.seeds:
        if str(seed) in seeds.scores:
            continue
        path = run_of(folder, seed)
        say(f"seed {seed}, {len(seeds.scores) + 1} of {len(seeds.seeds)}")
        trainer = resume(path) if _has_begun(path, processes) else begin(path, seed)
        with trainer.run:
            if seeds.files != files._asdict():
                seeds = seeds._replace(files=files._asdict())
                _write(folder, seeds, processes)
            scores = train(trainer)
        if scores is None:
            return None
        seeds = seeds._replace(scores={**seeds.scores, str(seed): scores})
        _write(folder, seeds, processes)
    done = seeds
    processes.of_first(lambda: _keep_best(folder, done))
    return seeds.scores


def _has_begun(path: Path, processes: Processes) -> bool:
    return processes.of_first(lambda: has_begun(path))


def _write(folder: Path, seeds: Seeds, processes: Processes) -> None:
    processes.of_first(lambda: write_seeds(folder, seeds))


def spread_lines(scores: Mapping[str, Scores]) -> Iterator[str]:
    """Yield the first scores: mean, median, standard deviation, and their values by seed.

    A score that only some seeds have, such as that of a type that only they predict, is left out.
    """
    first, *others = scores.values()
    names = [name for name in first if all(name in other for other in others)]
    for name in names[:SHOWN]:
        values = [each[name] for each in scores.values()]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        yield (
            f"{name}: mean {statistics.mean(values):.4g}, median {statistics.median(values):.4g}, "
            f"standard deviation {deviation:.3g} ({', '.join(f'{v:.4g}' for v in values)})"
        )


def _keep_best(folder: Path, seeds: Seeds) -> None:
    """Name the seed with the best first score; delete the checkpoints of the others."""
    first = [next(iter(seeds.scores[str(seed)].values())) for seed in seeds.seeds]
    best = seeds.seeds[first.index(max(first))]
    write_seeds(folder, seeds._replace(best=best))
    for seed in seeds.seeds:
        if seed != best:
            for name in ("checkpoints", "best"):
                shutil.rmtree(run_of(folder, seed) / name, ignore_errors=True)
