"""Opens a backend for a run, in all its processes, and describes what the run computes on."""

from __future__ import annotations

import dataclasses
from typing import Any

from electra_ref.backends import OpenedBackend, open_backend
from electra_ref.config.training import TrainingConfig
from electra_ref.nccl_processes import NcclProcesses, choose_gpu
from electra_ref.processes import Processes, require_same
from electra_ref.training.environment import describe_environment, facts_of


def open_together(
    config: TrainingConfig, processes: Processes
) -> tuple[OpenedBackend, dict[str, Any], Processes]:
    """Return the backend that ``config`` asks for, what ``environment.json`` says of it, and the
    ``processes`` in the form that exchanges its arrays.

    Of the processes on a machine, each takes a GPU of its own, if there are as many. Raises
    UserError if the backend is not available, or if the ``processes`` differ in anything that
    decides the bits of a step.
    """
    if processes.size > 1 and config.device in ("auto", "gpu"):
        choose_gpu(processes.local_rank)
    opened = open_backend(config.device, config.precision)
    environment = describe_environment(
        device=opened.device, precision=opened.dtype, backend=opened.name
    )
    require_same(processes, facts_of(environment, dataclasses.asdict(config)))
    if opened.device == "gpu" and processes.size > 1:
        processes = NcclProcesses(processes)
    return opened, environment, processes
