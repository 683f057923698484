"""Opens a directory in the Hugging Face format: settings, tokenizer, and a reader of the weights.

    DIR/config.json, model.safetensors, ...       one network
    DIR/discriminator/  DIR/generator/            one or both, as ``python -m electra_ref.convert``
                                                  writes them

All is checked before a number is read: configuration, tokenizer, names and shapes of the tensors.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.config.settings import Value
from electra_ref.errors import UserError
from electra_ref.model.networks import Networks
from electra_ref.model.objectives.table import objective_of
from electra_ref.model.parameters import FlatParameters
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.huggingface.configuration import (
    CLASSES,
    CONFIG,
    read_configuration,
    read_input,
    settings_of_both,
    settings_of_one,
)
from electra_ref.training.huggingface.head_configuration import class_of
from electra_ref.training.huggingface.names import BUFFERS, Tensor, tensors_of
from electra_ref.training.huggingface.tensors import (
    Weights,
    are_equal,
    check_size,
    check_tensors,
    open_weights,
    read_tensors,
)
from electra_ref.training.huggingface.tokenizer_files import Tokenizer, read_tokenizer

_PREFIXES = {"discriminator": "discriminator_predictions.", "generator": "generator_predictions."}
_HEADS = {"discriminator": "tells which tokens were replaced", "generator": "guesses words"}
_EMBEDDINGS = "electra.embeddings."


class HuggingFaceModel(NamedTuple):
    """What is known of a directory before its weights are read."""

    folders: Mapping[str, Path]  # of the networks, by ``discriminator`` and ``generator``
    config: PretrainingConfig
    tokenizer: WordPiece
    notes: list[str]  # what the user should know
    dtype: str  # "float32", or "float64" if the numbers need it
    read: Callable[[FlatParameters], int]  # fill these, on the host; return the step, which is 0


def is_huggingface(path: Path) -> bool:
    """Return whether ``path`` is a directory in the format, or holds one for each network."""
    return bool(_folders(path))


def open_directory(path: Path) -> HuggingFaceModel:
    """Return what ``path`` holds, all checked but the numbers.

    Raises UserError: not ELECTRA, not computed here, files missing or damaged, other tensors than
    ``config.json`` describes, two networks that cannot be one run's.
    """
    folders = _folders(path)
    read = {name: read_configuration(each) for name, each in folders.items()}
    with ExitStack() as stack:
        weights = {name: stack.enter_context(open_weights(each)) for name, each in folders.items()}
        parts = {name: _part_of(name, each) for name, each in weights.items()}
        for name, each in weights.items():
            check_size(each, read[name])
        tokenizer = _common_tokenizer(path, folders, read)
        if len(folders) == 1:
            ((name, part),) = parts.items()
            own = read_input(folders[name]) if part == "discriminator" else {}
            config = settings_of_one(path, part, read[name], {**tokenizer.settings, **own})
        else:
            sharing = _sharing(weights["discriminator"], weights["generator"])
            own = read_input(folders["discriminator"])
            data = {**tokenizer.settings, **own}
            config = settings_of_both(path, read["discriminator"], read["generator"], sharing, data)
        tensors = tensors_of(_networks(config, tokenizer))
        for name, each in weights.items():
            check_tensors(each, tensors[parts[name]])
        dtype = max(each.dtype for each in weights.values())  # "float64" is after "float32"
    by_part = {part: folders[name] for name, part in parts.items()}
    reader = _reader(by_part, tensors)
    return HuggingFaceModel(by_part, config, tokenizer.wordpiece, tokenizer.notes, dtype, reader)


def _folders(path: Path) -> dict[str, Path]:
    """Return the folders of the networks: ``path`` itself, or those in it. Empty if none."""
    if os.path.exists(path / CONFIG):  # False where the folder cannot be read
        return {"": path}
    return {name: path / name for name in CLASSES if os.path.exists(path / name / CONFIG)}


def _reader(
    folders: Mapping[str, Path], tensors: Mapping[str, list[Tensor]]
) -> Callable[[FlatParameters], int]:
    def read(parameters: FlatParameters) -> int:
        for part, path in folders.items():
            with open_weights(path) as weights:
                check_tensors(weights, tensors[part])  # the file may be another one by now
                read_tensors(weights, tensors[part], parameters)
        return 0

    return read


def _part_of(folder: str, weights: Weights) -> str:
    """Return which network the weights are, by their head.

    Raises UserError if there is no head, or that of the other network than the folder's name says.
    """
    found = [
        part
        for part, prefix in _PREFIXES.items()
        if any(name.startswith(prefix) for name in weights.files)
    ]
    task = class_of({}, weights.files)
    if not found and task is not None:
        raise UserError(
            f"the model in {weights.path} is fine-tuned, for {task.name}: it neither detects nor "
            "guesses words; to use it: python -m electra_ref.predict --model "
            f"{shlex.quote(str(weights.path))} --input FILE"
        )
    if not found:
        needed = " or ".join(f"{prefix}* ({_HEADS[part]})" for part, prefix in _PREFIXES.items())
        raise UserError(
            f"the model in {weights.path} has no head of pre-training: it lacks {needed}"
        )
    if folder and folder not in found:
        raise UserError(f"the folder {weights.path} holds a {found[0]}: give it that name")
    return folder or found[0]


def _common_tokenizer(
    path: Path, folders: Mapping[str, Path], read: Mapping[str, Mapping[str, Value]]
) -> Tokenizer:
    """Return the one tokenizer of all networks. Raises UserError if they have several."""
    first, *others = (
        read_tokenizer(each, int(read[name]["vocab_size"])) for name, each in folders.items()
    )
    for other in others:
        if (other.wordpiece.vocab, other.settings) != (first.wordpiece.vocab, first.settings):
            raise UserError(
                f"the two networks in {path} have different vocabularies or tokenizers: name one "
                "of the two folders"
            )
    return first


def _sharing(discriminator: Weights, generator: Weights) -> str:
    """Return what the two share: their tables and the layer norm behind them, or nothing."""
    names = {name for name in discriminator.files if name.startswith(_EMBEDDINGS)} - {*BUFFERS}
    alike = all(
        name in generator.files and are_equal(discriminator, name, name, generator)
        for name in names
    )
    return "embeddings" if alike else "none"


def _networks(config: PretrainingConfig, tokenizer: Tokenizer) -> Networks:
    objective = objective_of(config)
    model = objective.model_of(config, config, tokenizer.wordpiece.special_tokens)
    return objective.networks_of(model)
