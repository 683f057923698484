"""Opens a backend for a run, in all its processes, and describes what the run computes on."""

from __future__ import annotations

import dataclasses
from typing import Any

from electra_ref.backends import OpenedBackend, open_backend
from electra_ref.config.training import TrainingConfig
from electra_ref.errors import UserError
from electra_ref.processes import Processes, require_same
from electra_ref.training.environment import describe_environment, facts_of


def open_together(
    config: TrainingConfig, processes: Processes
) -> tuple[OpenedBackend, dict[str, Any]]:
    """Return the backend that ``config`` asks for, and what ``environment.json`` says of it.

    Raises UserError if it is not available, or if the ``processes`` differ in anything that decides
    the bits of a step.
    """
    opened = open_backend(config.device, config.precision)
    if opened.device == "gpu" and processes.size > 1:
        raise UserError(
            f"{processes.size} processes cannot train on GPUs yet: start one without mpiexec, or "
            "set --device cpu"
        )
    environment = describe_environment(
        device=opened.device, precision=opened.dtype, backend=opened.name
    )
    require_same(processes, facts_of(environment, dataclasses.asdict(config)))
    return opened, environment
