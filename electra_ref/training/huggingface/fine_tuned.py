"""Opens a directory with a model for a task: one of the classes of ``names.TASK_CLASSES``.

All is checked before a number is read: configuration, tokenizer, names and shapes of the tensors.
What the format has no key for, such as the scheme of tags or the range of a score, is in one of our
own, which transformers keeps and does not read. Where that is missing, it is what the recipe has
for this form of the head, or its default.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.config.model import EncoderConfig
from electra_ref.config.settings import Value, checked_values
from electra_ref.errors import UserError
from electra_ref.model.parameters import FlatParameters
from electra_ref.training.finetuning.learning import model_of
from electra_ref.training.finetuning.stored import StoredTask
from electra_ref.training.finetuning.table import task_of
from electra_ref.training.huggingface.configuration import (
    CONFIG,
    OWN,
    load_configuration,
    read_configuration,
)
from electra_ref.training.huggingface.head_configuration import TaskHead, class_of, read_head
from electra_ref.training.huggingface.names import Tensor, fine_tuned_tensors
from electra_ref.training.huggingface.tensors import (
    check_size,
    check_tensors,
    open_weights,
    read_tensors,
)
from electra_ref.training.huggingface.tokenizer_files import read_tokenizer

FORM = "huggingface"  # of the heads of all classes


def is_fine_tuned(path: Path) -> bool:
    """Return whether ``path`` is a directory in the format with a model for a task."""
    if not os.path.exists(path / CONFIG):
        return False
    try:
        found = load_configuration(path)
    except UserError:
        return False  # who opens it as a pre-trained model is told why
    names: Collection[str] = ()
    try:
        with open_weights(path) as weights:
            names = weights.files.keys()
    except UserError:
        pass  # the class that config.json names decides
    return class_of(found, names) is not None


def open_fine_tuned(path: Path) -> StoredTask:
    """Return the model in the directory ``path``, all checked but the numbers.

    Raises UserError: not ELECTRA, no head for a task, not computed here, files missing or damaged,
    other tensors than ``config.json`` describes.
    """
    read = read_configuration(path)
    found = load_configuration(path)
    with open_weights(path) as weights:
        shapes = {name: entry.shape for name, entry in weights.entries.items()}
        head = read_head(path / CONFIG, found, shapes)
        check_size(weights, read)
        tokenizer = read_tokenizer(path, int(read["vocab_size"]))
        own = _read_own_settings(path, found, head.kind)
        settings = _settings(path, head, {**own, **read, **tokenizer.settings})
        model = model_of(task_of(head.kind), settings, head.labels)
        tensors = fine_tuned_tensors(model)
        check_tensors(weights, tensors)
    notes = [*tokenizer.notes, *head.notes]
    reader = _reader(path, tensors)
    return StoredTask(settings, head.labels, tokenizer.wordpiece, model, reader, None, notes)


def own_settings(settings: FinetuningConfig) -> dict[str, Value]:
    """Return the settings that the kind of task adds to those of all kinds."""
    return {key: getattr(settings, key) for key in _own_keys(type(settings))}


def _own_keys(table: type[FinetuningConfig]) -> list[str]:
    common = {field.name for field in dataclasses.fields(FinetuningConfig)}
    return [field.name for field in dataclasses.fields(table) if field.name not in common]


def _read_own_settings(path: Path, found: Mapping[str, Any], kind: str) -> dict[str, Value]:
    """Return what ``own_settings`` were when the directory was written. Raises UserError.

    What is missing is as in the recipe, if it says something.
    """
    file, table = path / CONFIG, task_of(kind).TABLE
    own = found.get(OWN, {})
    if not isinstance(own, dict):
        raise UserError(f"{file} has {OWN} = {own!r}, which should be an object of settings")
    keys = _own_keys(table)
    if strange := [key for key in own if key not in keys]:
        raise UserError(f"{file} has the unknown {strange[0]!r} in {OWN}: remove it")
    recipe = task_of(kind).recipe({"head": FORM}, EncoderConfig())
    published = {key: value for key, value in recipe.items() if key in keys}
    return {**published, **checked_values(table, own, where=f"{file}, {OWN}")}


def _settings(path: Path, head: TaskHead, values: Mapping[str, Value]) -> FinetuningConfig:
    """Return the settings of the task, as far as the directory tells them. Raises UserError."""
    table = task_of(head.kind).TABLE
    known = {field.name for field in dataclasses.fields(table)}
    positions = int(values.get("max_position_embeddings", table.max_position_embeddings))
    chosen: dict[str, Any] = {
        **{key: value for key, value in values.items() if key in known},
        "task": head.kind,
        "head": FORM,
        "head_dropout": head.dropout,
        **({"multi_label": head.has_label_sets} if head.kind == "classification" else {}),
        "max_length": min(int(values.get("max_length", positions)), positions),
    }
    try:
        return table(**chosen)
    except UserError as error:
        raise UserError(f"the model in {path} cannot be used here: {error}") from error


def _reader(path: Path, tensors: list[Tensor]) -> Callable[[FlatParameters], int]:
    def read(parameters: FlatParameters) -> int:
        with open_weights(path) as weights:
            check_tensors(weights, tensors)  # the file may be another one by now
            read_tensors(weights, tensors, parameters)
        return 0

    return read
