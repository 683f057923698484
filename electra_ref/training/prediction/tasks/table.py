"""The tasks by the names that ``--task`` takes. A new one is a file and a line here."""

from __future__ import annotations

from collections.abc import Mapping

from electra_ref.training.prediction.tasks import Task, mlm, rtd

TASKS: Mapping[str, Task] = {
    "rtd": rtd,
    "mlm": mlm,
}
