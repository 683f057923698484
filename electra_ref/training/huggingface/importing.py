"""Writes a directory in the Hugging Face format as a run of ours that has not been trained.

The run has settings, vocabulary and a checkpoint at step 0 with the weights and without moments. It
can be opened, and training can begin with its weights; there is nothing in it to resume. It appears
complete or not at all.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from electra_ref.config.settings import to_toml
from electra_ref.errors import UserError
from electra_ref.model.objectives.table import objective_of
from electra_ref.model.parameters import FlatParameters
from electra_ref.text.token_ids import names_ids
from electra_ref.training.checkpoint import save_checkpoint
from electra_ref.training.continuation import state_of
from electra_ref.training.environment import describe_environment
from electra_ref.training.huggingface.opening import (
    HuggingFaceModel,
    is_huggingface,
    open_directory,
)
from electra_ref.training.new_folder import new_folder
from electra_ref.training.run_data import record_data
from electra_ref.training.run_directory import IMPORTED, RunDirectory
from electra_ref.training.saved_model import GROUP, Part, require_finite


class Imported(NamedTuple):
    """What was written."""

    path: Path
    parts: tuple[str, ...]  # the networks that there were
    parameters: int  # those of both, shared ones once
    notes: list[str]
    reads_ids: bool  # token ids, no text


def import_model(
    source: Path, target: Path, part: Part | None, check: Callable[[], None] = lambda: None
) -> Imported:
    """Write the networks in the directory ``source`` to the new or empty folder ``target``.

    With ``part`` only that one. ``check`` is called before and after reading and may raise to stop.
    Raises UserError if ``source`` cannot be read as ours, has no such network, or holds NaN or
    infinity, or if ``target`` cannot be written; then nothing is left there.
    """
    check()
    opened = open_directory(_folder_of(source, part))
    if part is not None and part not in opened.folders:
        raise UserError(f"{source} holds no {part}: its network is a {', '.join(opened.folders)}")
    parameters = _read(opened, source)
    check()
    with new_folder(target) as folder:
        _write(folder, opened, parameters)
    reads_ids = names_ids(opened.tokenizer.vocab)
    parts = tuple(opened.folders)
    return Imported(target, parts, parameters.vector.size, opened.notes, reads_ids)


def _folder_of(source: Path, part: Part | None) -> Path:
    """Return the folder of ``part`` if ``source`` holds several, else ``source``."""
    if part is not None and is_huggingface(source / part):
        return source / part
    return source


def _read(opened: HuggingFaceModel, source: Path) -> FlatParameters:
    objective = objective_of(opened.config)
    special_tokens = opened.tokenizer.special_tokens
    model = objective.model_of(opened.config, opened.config, special_tokens)
    specs = objective.parameter_specs(model)
    size = sum(math.prod(spec.shape) for spec in specs)
    parameters = FlatParameters(specs, np.empty(size, opened.dtype))
    opened.read(parameters)
    require_finite(parameters, source)
    return parameters


def _write(folder: Path, opened: HuggingFaceModel, parameters: FlatParameters) -> None:
    environment = describe_environment(device="cpu", precision=opened.dtype, backend="reference")
    facts = {**environment, IMPORTED: "huggingface"}
    with RunDirectory.create(folder, to_toml(opened.config), facts) as run:
        record_data(run, opened.tokenizer.vocab, {"notes": opened.notes})
        groups = {GROUP: dict(parameters.views)}
        state = state_of({}, dataclasses.asdict(opened.config))
        save_checkpoint(run.checkpoints, 0, groups, state)
