"""Writes the networks of a model as directories that transformers loads.

    TO/discriminator/    config.json, model.safetensors, README.md and the four tokenizer files
    TO/generator/        the same; where one network alone is asked for, TO itself is its folder

All numbers are float32, whatever the model computed in. TO appears complete or not at all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from electra_ref.arrays import Array
from electra_ref.files import disk_errors, write_new_file
from electra_ref.model.networks import Network
from electra_ref.model.parameters import FlatParameters
from electra_ref.tensor_file import write_tensor_file
from electra_ref.training.huggingface.configuration import CONFIG, INPUT, OWN, configuration_of
from electra_ref.training.huggingface.model_card import (
    CARD,
    Figures,
    figures_of,
    model_card,
)
from electra_ref.training.huggingface.names import Tensor, tensors_of
from electra_ref.training.huggingface.tensors import WEIGHTS
from electra_ref.training.huggingface.tokenizer_files import tokenizer_files
from electra_ref.training.new_folder import new_folder
from electra_ref.training.saved_model import Part, SavedModel, open_model

METADATA = {"format": "pt"}  # without it, or with another one, some versions refuse the file


class Written(NamedTuple):
    """One network that was written."""

    path: Path
    part: str  # "discriminator" or "generator"
    parameters: int
    step: int
    was_rounded: bool  # from float64


def export_model(
    source: Path, target: Path, part: Part | None, check: Callable[[], None] = lambda: None
) -> list[Written]:
    """Write the networks of the model at ``source`` to the new or empty folder ``target``.

    With ``part`` only that network, to ``target`` itself. ``check`` is called before each tensor
    and may raise to stop. Raises UserError if there is no such model or network, or if ``target``
    cannot be written; then nothing is left there.
    """
    model = open_model(source, "reference", "float32", part=part)
    figures = None if model.run is None else figures_of(model.run, model.step)
    written = []
    with new_folder(target) as folder:
        for name, tensors in tensors_of(model.networks).items():
            inner = folder if part is not None else folder / name
            with disk_errors(f"write {target}"):
                inner.mkdir(exist_ok=True)
                _write(inner, name, tensors, model, figures, check)
            path = target if part is not None else target / name
            rounded = model.config.precision == "float64"
            written.append(Written(path, name, numbers_in(tensors), model.step, rounded))
    return written


def _write(
    folder: Path,
    part: str,
    tensors: list[Tensor],
    model: SavedModel,
    figures: Figures | None,
    check: Callable[[], None],
) -> None:
    """Write the files of one network. Raises OSError."""
    config, network = model.config, _network(model, part)
    pad = model.tokenizer.special_tokens.pad
    card = model_card(part, config, network.size, numbers_in(tensors), model.step, figures)
    keys = configuration_of(config, network.size, part, pad)
    if part == "discriminator" and config.reads_pairs:
        keys[OWN] = {INPUT: config.discriminator_input}
    words = tokenizer_files(
        model.tokenizer.vocab,
        lowercase=config.lowercase,
        strip_accents=config.strips_accents,
        longest_row=config.max_length,
    )
    write_files(folder, keys, {CARD: card, **words}, tensors, model.parameters, check)


def numbers_in(tensors: Iterable[Tensor]) -> int:
    """Return how many parameters ``tensors`` have."""
    return sum(math.prod(tensor.shape) for tensor in tensors)


def write_files(
    folder: Path,
    configuration: Mapping[str, Any],
    texts: Mapping[str, str],
    tensors: list[Tensor],
    parameters: FlatParameters,
    check: Callable[[], None],
) -> None:
    """Write ``config.json``, the ``texts`` by their names, and the weights. Raises OSError."""
    for name, text in {CONFIG: json.dumps(configuration, indent=2) + "\n", **texts}.items():
        write_new_file(folder / name, text.encode())
    by_name = {tensor.name: tensor for tensor in sorted(tensors, key=lambda tensor: tensor.name)}

    def tensor_of(name: str) -> Array:
        check()
        return by_name[name].value(parameters)

    shapes = {name: tensor.shape for name, tensor in by_name.items()}
    write_tensor_file(folder / WEIGHTS, shapes, tensor_of, METADATA)


def _network(model: SavedModel, part: str) -> Network:
    network: Network = getattr(model.networks, part)
    return network
