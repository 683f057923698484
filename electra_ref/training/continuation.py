"""Whether a checkpoint continues a run, and what has changed since it was saved.

Most settings decide about the data, the model or the bits of a step; they stay what they were.
Steps, schedule, intervals and device are free: they may change from a step on. metrics.jsonl then
has a line at that step:

    {"step": 300, "split": "settings", "changed": {"steps": [1000, 2000]}}      before and after
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from electra_ref.config.settings import Change, changes_between, keys_of
from electra_ref.config.training import TrainingConfig
from electra_ref.errors import UserError
from electra_ref.training.checkpoint import Checkpoint, CheckpointError
from electra_ref.training.records import read_records, replace_records
from electra_ref.training.run_directory import RunDirectory

C = TypeVar("C", bound=TrainingConfig)

_SPLIT = "settings"
_CONFIG = "config"  # of a checkpoint's state; the rest is the task's


def changed_configuration(
    run: RunDirectory, before: C, resolve: Callable[[Sequence[str]], C], settings: Sequence[str]
) -> C:
    """Return the run's configuration with ``settings``, which ``resolve`` fills in.

    Raises UserError if one of them is not free.
    """
    table = type(before)
    free = f"these can change in a run that has begun: {', '.join(keys_of(table, 'free'))}"
    try:
        config = resolve(settings)
    except UserError as error:
        for key in (setting.partition("=")[0].strip() for setting in settings):
            if key in keys_of(table, "fixed"):
                raise UserError(f"{key} cannot change in {run.path}; {free}") from error
        raise
    for key, old, new in changes_between(dataclasses.asdict(before), config, "fixed"):
        raise UserError(f"{key} is {old!r} in {run.path} and cannot become {new!r}; {free}")
    for setting in settings:
        key = setting.partition("=")[0].strip()
        if key in keys_of(table, "unread"):
            raise UserError(f"{key} has done its work in {run.path} and cannot change; {free}")
    return config


def state_of(identity: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint keeps besides its tensors: the task's identity, the settings."""
    return {**identity, _CONFIG: config}


def configuration_of(
    checkpoint: Checkpoint, identity: dict[str, Any], config: TrainingConfig, run: RunDirectory
) -> dict[str, Any]:
    """Return the settings that ``checkpoint`` was saved with.

    Raises CheckpointError if it belongs to other data or to other settings that are fixed, and
    UserError if it is beyond the last step of ``config``.
    """
    state = dict(checkpoint.state)
    then = state.pop(_CONFIG, None)
    if not isinstance(then, dict):
        raise CheckpointError(f"{checkpoint.path} does not name its settings")
    if state != identity:
        other = [key for key in identity if state.get(key) != identity[key]]
        which = f" ({' and '.join(other)})" if other and len(identity) > 1 else ""
        raise CheckpointError(
            f"{checkpoint.path} belongs to a run on other data{which}: put back those that it "
            "began with, or start a new run in another --output-dir"
        )
    for key, there, here in changes_between(then, config, "fixed"):
        raise CheckpointError(
            f"{checkpoint.path} was computed with {key} = {json.dumps(there)}, and {run.config} "
            f"says {json.dumps(here)}; set that back, or start a new run in another --output-dir"
        )
    if config.steps < checkpoint.step:
        raise UserError(
            f"steps = {config.steps}, but {run.path} is at step {checkpoint.step} already; give a "
            "larger number"
        )
    return then


def last_step_without_checkpoint(run: RunDirectory, before: TrainingConfig) -> int:
    """Return the last step on record of a run without a checkpoint; 0 if there is none.

    ``before`` is the configuration in which these steps were computed. Raises CheckpointError if a
    checkpoint was due before that step, or if the run was closed by an evaluation: then there was
    one.
    """
    records = read_records(run.metrics)
    last: int = max((record["step"] for record in records), default=0)
    undue = [
        r["step"] for r in records if r.get("split") == "held_out" and r["step"] != before.steps
    ]
    was_closed = any(step % before.evaluate_every for step in undue)
    if was_closed or last > min(before.checkpoint_every, before.steps):
        raise CheckpointError(
            f"{run.metrics} goes to step {last}, but there is no checkpoint in {run.checkpoints}: "
            "put it back, or start a new run in another --output-dir"
        )
    return last


def record_changes(
    run: RunDirectory, step: int, then: dict[str, Any], config: TrainingConfig
) -> list[Change]:
    """Return the free settings that are others than ``then``; record them at ``step``.

    What an earlier attempt recorded there is replaced: no step was computed with it.
    """
    changes = changes_between(then, config, "free")
    changed = {key: [before, after] for key, before, after in changes}
    record = {"step": step, "split": _SPLIT, "changed": changed}
    replace_records(run.metrics, step, _SPLIT, record if changes else None)
    return changes
