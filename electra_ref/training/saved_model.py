"""Opens a model to read from: its parameters alone, without gradients and moments.

The parameters are read one tensor at a time into the vector that the networks read from, so a model
takes the memory of its parameters. Of a model with two networks one may be enough.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np

from electra_ref.backends import OpenedBackend, open_backend
from electra_ref.config.pretraining import PretrainingConfig, resolve_config
from electra_ref.errors import UserError
from electra_ref.model.embeddings import read_only_specs
from electra_ref.model.encoder import encoder_specs
from electra_ref.model.heads.detection import detection_head_specs
from electra_ref.model.heads.vocabulary import vocabulary_head_specs
from electra_ref.model.networks import Networks
from electra_ref.model.objectives import Model, Objective
from electra_ref.model.objectives.table import objective_of
from electra_ref.model.parameters import FlatParameters, ParameterSpec, parameter_table
from electra_ref.sealed_folder import DamageError
from electra_ref.tensor_file import unlike
from electra_ref.text.wordpiece import WordPiece, tokenizer_of
from electra_ref.training.checkpoint import (
    NonFiniteError,
    list_checkpoints,
    open_tensors,
    read_newest,
)
from electra_ref.training.huggingface.opening import is_huggingface, open_directory
from electra_ref.training.progress import Progress
from electra_ref.training.run_data import read_vocabulary
from electra_ref.training.run_directory import PRETRAINING, RunDirectory, is_run, kind_of

GROUP = "model"  # of a checkpoint's files; the other one is the optimizer's
Part = Literal["discriminator", "generator"]


class SavedModel(NamedTuple):
    """A model as it was saved, where it is to be used."""

    config: PretrainingConfig
    tokenizer: WordPiece
    model: Model  # of the objective that the configuration names
    networks: Networks  # those whose parameters were read
    parameters: FlatParameters
    opened: OpenedBackend
    step: int  # at which it was saved
    run: RunDirectory | None  # None: it comes from a Hugging Face directory


class StoredModel(NamedTuple):
    """What is known of a model before its parameters are read."""

    config: PretrainingConfig  # with the size of the vocabulary
    tokenizer: WordPiece
    model: Model
    read: Callable[[FlatParameters], int]  # fill these, on the host; return the step
    run: RunDirectory | None = None  # None: it comes from a Hugging Face directory
    notes: Sequence[str] = ()  # what the user should know

    @property
    def objective(self) -> Objective:
        """The objective that the configuration names."""
        return objective_of(self.config)

    @property
    def networks(self) -> Networks:
        """The networks by what they answer."""
        return self.objective.networks_of(self.model)

    def why_without(self, part: Part) -> str:
        """Return why there is no network of this ``part``."""
        if self.run is None:
            other = "generator" if part == "discriminator" else "discriminator"
            return f"the directory holds the {other} alone"
        if part == "generator" and self.config.detects:
            return "its run had uniform_generator, which trains no generator"
        return f"its run had objective {self.config.objective!r}, which trains no {part}"


def open_model(
    path: Path, device: str = "auto", precision: str = "auto", *, part: Part | None = None
) -> SavedModel:
    """Open the model at ``path``: a run, one checkpoint of it, or a Hugging Face directory.

    Of a run it is the newest checkpoint. With ``part`` only the network that detects
    (discriminator) or guesses words (generator) is read. Raises UserError if there is no such
    model, if it is damaged or its vocabulary was changed, if it has no such network, or if the
    device or the precision is not available.
    """
    stored = find_model(path)
    for note in stored.notes:
        Progress().say(note)
    networks, specs = stored.networks, stored.objective.parameter_specs(stored.model)
    if part is not None:
        networks = _only(part, stored, path)
        specs = parameter_table(_parts_of(networks))
    opened = open_backend(device, precision)
    parameters, step = read_parameters(stored, specs, opened.dtype, path)
    parameters = FlatParameters(specs, opened.backend.to_device(parameters.vector))
    return SavedModel(
        stored.config, stored.tokenizer, stored.model, networks, parameters, opened, step,
        stored.run,
    )  # fmt: skip


def find_model(path: Path) -> StoredModel:
    """Return what is known of the model at ``path``; its parameters are not read yet.

    Raises UserError if there is none, or if its vocabulary was changed.
    """
    path = Path(os.path.abspath(path))  # a checkpoint may be the working folder
    if not is_run(path) and is_huggingface(path):
        return _find_huggingface(path)
    if not is_run(path) and not is_checkpoint(path):
        raise UserError(_what_is_wrong(path))
    run = RunDirectory.open(path.parent.parent if is_checkpoint(path) else path)
    if kind_of(run.path) != PRETRAINING:
        raise UserError(
            f"{path} holds a fine-tuned model, which neither detects nor guesses words; to use it: "
            f"python -m electra_ref.predict --model {shlex.quote(str(path))} --input FILE"
        )
    if not run.vocabulary.exists() and not list_checkpoints(run.checkpoints):
        raise UserError(f"the run in {run.path} has saved no model yet: it has no vocabulary")
    config = resolve_config(path=run.config)
    tokenizer = tokenizer_of(read_vocabulary(run), config)
    config = dataclasses.replace(config, vocab_size=len(tokenizer.vocab))
    objective = objective_of(config)
    model = objective.model_of(config, config, tokenizer.special_tokens)
    specs = objective.parameter_specs(model)

    def read(parameters: FlatParameters) -> int:
        if is_checkpoint(path):
            return read_checkpoint(path, specs, parameters)
        return read_newest(
            run.checkpoints,
            lambda checkpoint: read_checkpoint(checkpoint, specs, parameters),
            Progress().say,
        )

    return StoredModel(config, tokenizer, model, read, run)


def _find_huggingface(path: Path) -> StoredModel:
    found = open_directory(path)
    objective = objective_of(found.config)
    model = objective.model_of(found.config, found.config, found.tokenizer.special_tokens)
    return StoredModel(found.config, found.tokenizer, model, found.read, notes=found.notes)


def _what_is_wrong(path: Path) -> str:
    """Return why there is no model at ``path``."""
    if not os.path.lexists(path):
        return f"there is no folder {path}"
    if not path.is_dir():
        return f"{path} is a file: name the folder of the model"
    return (
        f"{path} holds no model: no run of electra_ref or a checkpoint of one, and none in the "
        "Hugging Face format (config.json)"
    )


def is_checkpoint(path: Path) -> bool:
    """Return whether ``path`` can be a checkpoint of a run, by where it is."""
    return is_run(path.parent.parent) and not is_run(path)


class Readable(Protocol):
    """A model whose parameters can be read: fill those given, on the host; return the step."""

    @property
    def read(self) -> Callable[[FlatParameters], int]: ...


def read_parameters(
    stored: Readable, specs: list[ParameterSpec], dtype: str, path: Path
) -> tuple[FlatParameters, int]:
    """Return the parameters of ``specs``, on the host in floats of type ``dtype``, and the step.

    Raises UserError if they cannot be read, and if one is NaN or infinite in that type.
    """
    size = sum(int(np.prod(spec.shape)) for spec in specs)
    parameters = FlatParameters(specs, np.empty(size, dtype))
    step = stored.read(parameters)
    require_finite(parameters, path)
    return parameters, step


def require_finite(parameters: FlatParameters, path: Path) -> None:
    """Raise NonFiniteError if a number of the model at ``path`` is NaN or infinite."""
    for name, tensor in parameters.views.items():
        with np.errstate(all="ignore"):
            is_finite = np.isfinite(tensor.sum()) or np.isfinite(tensor).all()
        if not is_finite:
            raise NonFiniteError(
                f"the model in {path} is not used: its parameter {name} has NaN or infinity; train "
                "or export it again"
            )


def read_checkpoint(path: Path, specs: list[ParameterSpec], parameters: FlatParameters) -> int:
    """Fill ``parameters``, some of all ``specs``, from a checkpoint. Raises CheckpointError."""
    with open_tensors(path, GROUP) as (step, file):
        shapes = {name: entry.shape for name, entry in file.entries.items()}
        if problem := unlike(shapes, {spec.name: spec.shape for spec in specs}):
            raise DamageError(f"its model is not the one of the configuration: {problem}")
        for name in file.entries:
            if name in parameters.views:
                file.read_into(name, parameters[name])
    return step


def _only(part: Part, stored: StoredModel, path: Path) -> Networks:
    """Return one of the networks. Raises UserError if there is no such network."""
    network = getattr(stored.networks, part)
    if network is None:
        raise UserError(f"the model in {path} has no {part}: {stored.why_without(part)}")
    return Networks(None, None)._replace(**{part: network})


def _parts_of(networks: Networks) -> Iterator[Iterator[ParameterSpec]]:
    """Yield the specs of all that ``networks`` read."""
    if networks.discriminator is not None:
        yield encoder_specs(networks.discriminator)
        yield read_only_specs(networks.discriminator)
        yield detection_head_specs(networks.discriminator)
    if networks.generator is not None:
        yield encoder_specs(networks.generator)
        yield vocabulary_head_specs(networks.generator)
