"""The tasks by the names that ``--task`` takes. A new one is a file in ``tasks`` and a line here.

A task is imported where it is used, so that ``--help`` need not wait.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from electra_ref.training.prediction.task import Task

TASKS: Mapping[str, str] = {
    "rtd": "which tokens were probably replaced",
    "mlm": "what fills each [MASK]",
}


def task_of(name: str) -> Task:
    """Return the module of the task, one of TASKS."""
    task: Any = importlib.import_module(f"electra_ref.training.prediction.tasks.{name}")
    return task  # type: ignore[no-any-return]
