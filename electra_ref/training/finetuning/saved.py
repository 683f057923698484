"""Fine-tuned models on disk: a run, one checkpoint of it, or the best of several seeds.

A run that keeps its best model is read from there; otherwise its newest checkpoint counts.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.config.settings import chosen_values, resolve
from electra_ref.errors import UserError
from electra_ref.model.objectives import fine_tuning
from electra_ref.model.parameters import FlatParameters
from electra_ref.text.wordpiece import tokenizer_of
from electra_ref.training.checkpoint import list_checkpoints, read_newest
from electra_ref.training.finetuning.learning import model_of
from electra_ref.training.finetuning.seeds_file import best_of, is_of_seeds
from electra_ref.training.finetuning.stored import StoredTask
from electra_ref.training.finetuning.table import task_of
from electra_ref.training.finetuning.task import Labels
from electra_ref.training.huggingface.fine_tuned import is_fine_tuned, open_fine_tuned
from electra_ref.training.progress import Progress
from electra_ref.training.run_data import read_vocabulary
from electra_ref.training.run_directory import FINETUNING, RunDirectory, is_run, kind_of
from electra_ref.training.saved_model import is_checkpoint, read_checkpoint

LABELS = "labels"  # a key of data.json


def holds_fine_tuned(path: Path) -> bool:
    """Return whether a fine-tuned model is at ``path``, wherever it comes from."""
    path = Path(os.path.abspath(path))
    run = path.parent.parent if is_checkpoint(path) else path
    if is_run(run):
        return kind_of(run) == FINETUNING
    return is_of_seeds(path) or is_fine_tuned(path)


def find_fine_tuned(path: Path) -> StoredTask:
    """Return what is known of the fine-tuned model at ``path``; its parameters are not read yet.

    Raises UserError if there is none.
    """
    path = Path(os.path.abspath(path))
    if is_of_seeds(path):
        path = best_of(path)
    if not is_run(path) and not is_checkpoint(path):
        return open_fine_tuned(path)
    run = RunDirectory.open(path.parent.parent if is_checkpoint(path) else path)
    settings, labels = settings_of(run), labels_of(run)
    tokenizer = tokenizer_of(read_vocabulary(run), settings)
    model = model_of(task_of(settings.task), settings, labels)
    specs = fine_tuning.parameter_specs(model)

    def read(parameters: FlatParameters) -> int:
        if is_checkpoint(path):
            return read_checkpoint(path, specs, parameters)
        folder = run.best if list_checkpoints(run.best) else run.checkpoints
        return read_newest(
            folder, lambda one: read_checkpoint(one, specs, parameters), Progress().say
        )

    return StoredTask(settings, labels, tokenizer, model, read, run)


def settings_of(run: RunDirectory, given: Sequence[str] = ()) -> FinetuningConfig:
    """Return the settings of a fine-tuning run, with ``key=value`` settings on top."""
    kind = run.environment().get("task")
    if kind_of(run.path) != FINETUNING or not isinstance(kind, str):
        raise UserError(
            f"the run in {run.path} is no fine-tuning run; to begin with its model: --model "
            f"{shlex.quote(str(run.path))}"
        )
    table = task_of(kind).TABLE
    chosen_values(table, run.config, ())  # names an unknown key by its file
    return resolve(table, {}, path=run.config, settings=given)


def labels_of(run: RunDirectory) -> Labels:
    """Return the labels of the run's outputs. Raises UserError if they cannot be read."""
    try:
        facts: dict[str, Any] = json.loads(run.data.read_bytes())
        labels = facts[LABELS]
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ValueError(f"{labels!r} are no labels")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{run.data} is damaged: it does not name the labels of the run") from error
    return tuple(labels)
