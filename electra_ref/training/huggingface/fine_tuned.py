"""Opens a directory with a model for a task: one of the classes of ``names.TASK_CLASSES``.

All is checked before a number is read: configuration, tokenizer, names and shapes of the tensors.
What the directory does not say of the task has its default.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.config.settings import Value
from electra_ref.errors import UserError
from electra_ref.model.parameters import FlatParameters
from electra_ref.training.finetuning.learning import model_of
from electra_ref.training.finetuning.stored import StoredTask
from electra_ref.training.finetuning.table import task_of
from electra_ref.training.huggingface.configuration import (
    CONFIG,
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
    with open_weights(path) as weights:
        head = read_head(path / CONFIG, load_configuration(path), weights.files)
        check_size(weights, read)
        tokenizer = read_tokenizer(path, int(read["vocab_size"]))
        settings = _settings(path, head, {**read, **tokenizer.settings})
        model = model_of(task_of(head.kind), settings, head.labels)
        tensors = fine_tuned_tensors(model)
        check_tensors(weights, tensors)
    notes = [*tokenizer.notes, *head.notes]
    reader = _reader(path, tensors)
    return StoredTask(settings, head.labels, tokenizer.wordpiece, model, reader, None, notes)


def _settings(path: Path, head: TaskHead, values: Mapping[str, Value]) -> FinetuningConfig:
    """Return the settings of the task, as far as the directory tells them. Raises UserError."""
    table = task_of(head.kind).TABLE
    known = {field.name for field in dataclasses.fields(table)}
    positions = int(values.get("max_position_embeddings", table.max_position_embeddings))
    chosen: dict[str, Any] = {
        **{key: value for key, value in values.items() if key in known},
        "task": head.kind,
        "head": "huggingface",
        "head_dropout": head.dropout,
        **({"multi_label": True} if head.has_label_sets else {}),
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
