"""Opens a model to read from: its parameters alone, without gradients and moments."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from electra_ref.backends import OpenedBackend, open_backend
from electra_ref.config.pretraining import PretrainingConfig, resolve_config
from electra_ref.errors import UserError
from electra_ref.model.objectives import Model
from electra_ref.model.objectives.table import objective_of
from electra_ref.model.parameters import FlatParameters
from electra_ref.text.wordpiece import WordPiece, tokenizer_of
from electra_ref.training.checkpoint import load_checkpoint, load_newest_checkpoint
from electra_ref.training.progress import Progress
from electra_ref.training.run_data import read_vocabulary
from electra_ref.training.run_directory import RunDirectory, is_run

GROUP = "model"  # of a checkpoint's files; the other one is the optimizer's


class SavedModel(NamedTuple):
    """A model as it was saved, where it is to be used."""

    config: PretrainingConfig
    tokenizer: WordPiece
    model: Model  # of the objective that the configuration names
    parameters: FlatParameters
    opened: OpenedBackend
    step: int  # at which it was saved


def open_model(path: Path, device: str = "auto", precision: str = "auto") -> SavedModel:
    """Open the newest model of the run at ``path``, or the one of the checkpoint at ``path``.

    The optimizer's file is not read. Raises UserError if there is no such run or checkpoint, if it
    is damaged or its vocabulary was changed, or if the device or the precision is not available.
    """
    is_checkpoint = is_run(path.parent.parent) and not is_run(path)
    run = RunDirectory.open(path.parent.parent if is_checkpoint else path)
    if not run.vocabulary.exists():
        raise UserError(f"the run in {run.path} has saved no model yet: it has no vocabulary")
    config = resolve_config(path=run.config)
    tokenizer = tokenizer_of(read_vocabulary(run), config)
    config = dataclasses.replace(config, vocab_size=len(tokenizer.vocab))
    objective = objective_of(config)
    model = objective.model_of(config, config, tokenizer.special_tokens)
    specs = objective.parameter_specs(model)
    opened = open_backend(device, precision)
    like = {GROUP: {spec.name: np.broadcast_to(_saved_type(run), spec.shape) for spec in specs}}
    if is_checkpoint:
        checkpoint = load_checkpoint(path, like=like, groups=[GROUP])
    else:
        checkpoint = load_newest_checkpoint(
            run.checkpoints, warn=Progress().say, like=like, groups=[GROUP]
        )
    tensors = checkpoint.groups[GROUP]
    flat = np.concatenate([tensors[spec.name].reshape(-1) for spec in specs], dtype=opened.dtype)
    parameters = FlatParameters(specs, opened.backend.to_device(flat))
    return SavedModel(config, tokenizer, model, parameters, opened, checkpoint.step)


def _saved_type(run: RunDirectory) -> np.floating[Any]:
    """Return a number of the float type that the run computed in. Raises UserError."""
    try:
        dtype: np.dtype[np.floating[Any]] = np.dtype(run.environment()["fingerprint"]["precision"])
    except (KeyError, TypeError) as error:
        raise UserError(f"environment.json of {run.path} does not name the float type") from error
    return dtype.type(0)
