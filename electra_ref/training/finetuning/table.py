"""The tasks as modules, by their kind."""

from __future__ import annotations

import importlib

from electra_ref.errors import UserError
from electra_ref.training.finetuning.kinds import KINDS
from electra_ref.training.finetuning.task import Task


def task_of(kind: str) -> Task:
    """Return the task called ``kind``. Raises UserError if there is none."""
    if kind not in KINDS:
        raise UserError(f"task = {kind!r} is none of {', '.join(KINDS)}")
    name = f"electra_ref.training.finetuning.tasks.{kind.replace('-', '_')}"
    task: Task = importlib.import_module(name)
    return task
