"""Writes a directory with a model for a task as a fine-tuning run at step 0: see ``importing``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from electra_ref.config.settings import to_toml
from electra_ref.model.objectives import fine_tuning
from electra_ref.model.parameters import FlatParameters
from electra_ref.training.checkpoint import save_checkpoint
from electra_ref.training.continuation import state_of
from electra_ref.training.environment import describe_environment
from electra_ref.training.finetuning.saved import LABELS
from electra_ref.training.finetuning.stored import StoredTask
from electra_ref.training.huggingface.fine_tuned import open_fine_tuned
from electra_ref.training.huggingface.tensors import open_weights
from electra_ref.training.new_folder import new_folder
from electra_ref.training.run_data import record_data
from electra_ref.training.run_directory import FINETUNING, IMPORTED, KIND, RunDirectory
from electra_ref.training.saved_model import GROUP, read_parameters


class ImportedTask(NamedTuple):
    """What was written."""

    path: Path
    kind: str  # of the task
    parameters: int
    notes: Sequence[str]


def import_fine_tuned(
    source: Path, target: Path, check: Callable[[], None] = lambda: None
) -> ImportedTask:
    """Write the model in the directory ``source`` to the new or empty folder ``target``.

    ``check`` is called before and after reading and may raise to stop. Raises UserError if
    ``source`` cannot be read as ours, or holds NaN or infinity, or if ``target`` cannot be written;
    then nothing is left there.
    """
    check()
    stored = open_fine_tuned(source)
    with open_weights(source) as weights:
        dtype = weights.dtype
    specs = fine_tuning.parameter_specs(stored.model)
    parameters, _ = read_parameters(stored, specs, dtype, source)
    check()
    with new_folder(target) as folder:
        _write(folder, stored, parameters, dtype)
    return ImportedTask(target, stored.settings.task, parameters.vector.size, stored.notes)


def _write(folder: Path, stored: StoredTask, parameters: FlatParameters, dtype: str) -> None:
    environment = describe_environment(device="cpu", precision=dtype, backend="reference")
    task = stored.settings.task
    facts = {**environment, KIND: FINETUNING, "task": task, IMPORTED: "huggingface"}
    with RunDirectory.create(folder, to_toml(stored.settings), facts) as run:
        known = {"notes": list(stored.notes), LABELS: list(stored.labels)}
        record_data(run, stored.tokenizer.vocab, known)
        state = state_of({}, dataclasses.asdict(stored.settings))
        save_checkpoint(run.checkpoints, 0, {GROUP: dict(parameters.views)}, state)
