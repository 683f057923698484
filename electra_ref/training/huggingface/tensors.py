"""The weights of a directory: ``model.safetensors``, in one file or in several.

Names, shapes and types are checked completely before a number is read. Then each tensor is read
into its place, so a model takes the memory of its parameters and of one matrix more.

A tied output matrix need not be in the file. If it is, it must be equal to the table of words:
where it is not, versions of transformers read different models (4.57 takes the table, 5.x the
matrix).
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from electra_ref.config.model import ModelConfig
from electra_ref.config.settings import Value
from electra_ref.errors import UserError
from electra_ref.model.parameters import FlatParameters
from electra_ref.tensor_file import Entry, TensorFile, TensorFileError, listed, unlike
from electra_ref.training.huggingface.head_configuration import architecture
from electra_ref.training.huggingface.names import (
    BUFFERS,
    OUTPUT_BIAS,
    OUTPUT_EMBEDDINGS,
    TASK_CLASSES,
    WORD_EMBEDDINGS,
    Tensor,
)

WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_FLOATS = ("F64", "F32", "F16", "BF16")


class Weights(NamedTuple):
    """The opened files of a directory, and which one has which tensor."""

    path: Path
    files: Mapping[str, TensorFile]  # by the name of a tensor

    @property
    def entries(self) -> dict[str, Entry]:
        """What the headers say, by the name of a tensor."""
        return {name: file.entries[name] for name, file in self.files.items()}

    @property
    def dtype(self) -> str:
        """The smallest float type that holds all numbers: "float64" or "float32"."""
        kinds = {entry.dtype for entry in self.entries.values()}
        return "float64" if "F64" in kinds else "float32"


@contextmanager
def open_weights(path: Path) -> Iterator[Weights]:
    """Open the weights of the directory ``path``.

    Raises UserError, also where reading inside the block fails: no file, a pickle only, a damaged
    file.
    """
    with ExitStack() as stack:
        files: dict[str, TensorFile] = {}
        for name, wanted in _shards(path).items():
            try:
                file = stack.enter_context(TensorFile(path / name))
            except (OSError, TensorFileError) as error:
                raise _unreadable(path / name, error) from error
            if missing := [tensor for tensor in wanted if tensor not in file.entries]:
                raise UserError(f"{path / name} lacks {listed(missing)}, which {_INDEX} looks for")
            files.update(dict.fromkeys(wanted or file.entries, file))
        try:
            yield Weights(path, files)
        except (OSError, TensorFileError) as error:
            raise _unreadable(path, error) from error


def check_size(weights: Weights, settings: Mapping[str, Value]) -> None:
    """Raise UserError unless the table of words and the number of layers can be the model's.

    Names are made for each row without a token and for each layer, so both come before all else.
    """
    rows, width, layers = (
        settings.get(key, getattr(ModelConfig, key))
        for key in ("vocab_size", "embedding_size", "num_hidden_layers")
    )
    found = {name: weights.entries[name].shape for name in weights.files if name == WORD_EMBEDDINGS}
    if problem := unlike(found, {WORD_EMBEDDINGS: (int(rows), int(width))}):
        raise UserError(f"the weights in {weights.path} do not fit its config.json: {problem}")
    if int(layers) > len(weights.files):
        raise UserError(
            f"the weights in {weights.path} do not fit its config.json: num_hidden_layers = "
            f"{layers}, and there are {len(weights.files)} tensors"
        )


def check_tensors(weights: Weights, tensors: Sequence[Tensor]) -> None:
    """Raise UserError unless the weights are ``tensors``: names, shapes, floats; nothing else."""
    expected = {tensor.name: tensor.shape for tensor in tensors}
    found = {name: entry.shape for name, entry in weights.entries.items() if name not in BUFFERS}
    if OUTPUT_EMBEDDINGS in found and OUTPUT_BIAS in expected:  # if it is tied, it is not expected
        expected.setdefault(OUTPUT_EMBEDDINGS, expected[WORD_EMBEDDINGS])
    if problem := unlike(found, expected):
        raise UserError(f"the weights in {weights.path} do not fit its config.json: {problem}")
    other = [name for name in found if weights.entries[name].dtype not in _FLOATS]
    if other:
        kinds = sorted({weights.entries[name].dtype for name in other})
        raise UserError(
            f"{weights.path} has numbers of type {', '.join(kinds)} in {listed(other)}; only "
            f"{', '.join(_FLOATS)} are read"
        )
    if len(expected) > len(tensors) and not are_equal(weights, WORD_EMBEDDINGS, OUTPUT_EMBEDDINGS):
        raise UserError(
            f"{weights.path} has a {OUTPUT_EMBEDDINGS} that differs from {WORD_EMBEDDINGS}, to "
            'which its config.json ties it: set "tie_word_embeddings": false there if the network '
            "was trained with both, or delete the tensor"
        )


def are_equal(weights: Weights, name: str, other: str, elsewhere: Weights | None = None) -> bool:
    """Return whether two tensors have the same numbers; the second may be ``elsewhere``.

    Memory: a piece of each. Raises OSError, TensorFileError.
    """
    there = weights if elsewhere is None else elsewhere
    if weights.entries[name].shape != there.entries[other].shape:
        return False
    pieces = weights.files[name].pieces(name), there.files[other].pieces(other)
    return all(
        left is not None and right is not None and np.array_equal(left, right, equal_nan=True)
        for left, right in zip_longest(*pieces)
    )


def read_tensors(weights: Weights, tensors: Sequence[Tensor], parameters: FlatParameters) -> None:
    """Read those of ``tensors`` that ``parameters`` have a place for.

    Raises OSError, TensorFileError.
    """
    for tensor in tensors:
        if tensor.parameter in parameters.views:
            weights.files[tensor.name].read_into(tensor.name, tensor.view(parameters))


def _shards(path: Path) -> dict[str, list[str]]:
    """Return the files, and the tensors to take from each; [] for all. Raises UserError."""
    if os.path.exists(path / WEIGHTS):
        return {WEIGHTS: []}
    if os.path.exists(path / _INDEX):
        return _indexed_shards(path / _INDEX)
    pickles = [name for name in _PICKLES if os.path.exists(path / name)]
    if pickles:
        raise UserError(
            f"{path} has its weights in {pickles[0]} only, a pickle, and a pickle can run any "
            f"program; it is not read. To write it as {WEIGHTS}: {_rewriting_command(path)}"
        )
    raise UserError(f"{path} has a config.json and no {WEIGHTS}: are all files there?")


def _indexed_shards(index: Path) -> dict[str, list[str]]:
    try:
        names: dict[str, Any] = json.loads(index.read_bytes())["weight_map"]
        shards: dict[str, list[str]] = {}
        for tensor, file in names.items():
            if Path(file).name != file or not file.isprintable():
                raise ValueError(f"{file!r} is not the name of a file beside it")
            shards.setdefault(file, []).append(tensor)
    except OSError as error:
        raise UserError(f"cannot read {index}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} does not say which file has which tensor: {error}") from error
    return shards


def _rewriting_command(path: Path) -> str:
    """Return a shell command that has transformers write the directory anew, beside it."""
    try:
        named = architecture(json.loads((path / "config.json").read_bytes()))
    except (OSError, ValueError, AttributeError, RecursionError):
        named = None
    known = ("ElectraForMaskedLM", *(each.name for each in TASK_CLASSES.values()))
    model = named if named in known else "ElectraForPreTraining"
    code = (
        "import sys; from transformers import AutoTokenizer, "
        f"{model} as Model; [kind.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2]) "
        "for kind in (Model, AutoTokenizer)]"
    )
    here = str(path.absolute())
    return shlex.join(["python", "-c", code, here, f"{here}-safetensors"])


def _unreadable(path: Path, error: OSError | TensorFileError) -> UserError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return UserError(f"cannot read {path}: {reason}")
