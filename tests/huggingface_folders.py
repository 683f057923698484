"""Models with random numbers, as runs of ours and as directories in the Hugging Face format."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Array
from electra_ref.backends import reference
from electra_ref.batch import SPECIAL_TOKENS, Batch
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.config.settings import to_toml
from electra_ref.model.encoder import encode
from electra_ref.model.heads.detection import detection_head
from electra_ref.model.heads.vocabulary import vocabulary_head
from electra_ref.model.objectives.table import objective_of
from electra_ref.model.parameters import FlatParameters
from electra_ref.model.passes import ForwardPass
from electra_ref.tensor_file import TensorFile
from electra_ref.text.wordpiece import find_special_tokens
from electra_ref.training.checkpoint import save_checkpoint
from electra_ref.training.run_data import record_data
from electra_ref.training.run_directory import RunDirectory
from electra_ref.training.saved_model import SavedModel
from tests.tiny_electra import tiny_config

STEP = 7
BITS = 2**14  # of the numbers, which are so few that sums of two are exact in float32
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZé"


def vocabulary_of(size: int) -> list[str]:
    """Return the special tokens, letters, pieces that follow letters, and pairs of letters."""
    pieces = [*LETTERS, *(f"##{letter}" for letter in LETTERS)]
    pieces += [a + b for a in LETTERS for b in LETTERS]
    return [*SPECIAL_TOKENS, *pieces][:size]


def draw_parameters(config: PretrainingConfig, seed: int, dtype: str = "float32") -> FlatParameters:
    """Return the parameters of ``config``, none of them at its initial value."""
    objective = objective_of(config)
    special_tokens = find_special_tokens(vocabulary_of(config.vocab_size))
    specs = objective.parameter_specs(objective.model_of(config, config, special_tokens))
    size = sum(int(np.prod(spec.shape)) for spec in specs)
    numbers = np.random.default_rng(seed).normal(0.0, 0.3, size)
    parameters = FlatParameters(specs, (np.round(numbers * BITS) / BITS).astype(dtype))
    for spec in specs:
        if spec.initializer == "ones":
            parameters[spec.name][...] += 1.0
    return parameters


def write_run(
    folder: Path, config: PretrainingConfig, seed: int = 0, dtype: str = "float32", **facts: Any
) -> Path:
    """Write a run at ``STEP`` with random parameters and ``facts`` of its data; return its path."""
    config = dataclasses.replace(config, preset="custom")
    groups = {"model": dict(draw_parameters(config, seed, dtype).views)}
    with RunDirectory.create(folder, to_toml(config), {}) as run:
        record_data(run, vocabulary_of(config.vocab_size), {"key": "tokens-1", **facts})
        save_checkpoint(run.checkpoints, STEP, groups, {})
    return folder


def small_run(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write a run of the tiny model with ``changes``; return its path."""
    return write_run(folder, tiny_config(**changes), seed)


def read_weights(folder: Path) -> dict[str, Array]:
    """Return the tensors of a directory, as they are."""
    with TensorFile(folder / "model.safetensors") as file:
        tensors = {n: np.empty(e.shape, file.dtype_of(n)) for n, e in file.entries.items()}
        for name, tensor in tensors.items():
            file.read_into(name, tensor)
    return tensors


def write_weights(folder: Path, tensors: dict[str, npt.NDArray[Any]], **dtypes: str) -> None:
    """Replace the weights of a directory; ``dtypes`` names types that NumPy does not have."""
    header: dict[str, Any] = {}
    names = {"float64": "F64", "float32": "F32", "float16": "F16", "uint16": "BF16", "int64": "I64",
             "int8": "I8"}  # fmt: skip
    data = b""
    for name, tensor in tensors.items():
        kind = dtypes.get(name.replace(".", "_"), names[tensor.dtype.name])
        offsets = [len(data), len(data) + tensor.nbytes]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": offsets}
        data += np.ascontiguousarray(tensor).tobytes()
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + data
    (folder / "model.safetensors").write_bytes(content)


def change_config(folder: Path, **changes: Any) -> None:
    """Change keys of a directory's config.json; None removes one."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def draw_batch(config: PretrainingConfig, seed: int) -> Batch:
    """Return three rows of different lengths, with all the segments that the model knows."""
    random = np.random.default_rng(seed)
    length = min(config.max_position_embeddings, 12)
    is_token = np.arange(length) < np.array([[length], [max(1, length - 3)], [1]])
    ids = random.integers(0, config.vocab_size, is_token.shape)
    types = random.integers(0, config.type_vocab_size, is_token.shape)
    return Batch(ids.astype(np.int32), types.astype(np.int32), is_token)


def our_logits(saved: SavedModel, batch: Batch) -> dict[str, Array]:
    """Return what the networks answer: (B T,) of the discriminator, (B T, V) of the generator."""
    run = ForwardPass(reference, saved.parameters, None)
    positions = np.tile(np.arange(batch.input_ids.shape[1]), (len(batch.input_ids), 1))
    logits = {}
    if saved.networks.discriminator is not None:
        hidden, _ = encode(run, saved.networks.discriminator, batch)
        logits["discriminator"] = detection_head(run, saved.networks.discriminator, hidden)[0]
    if saved.networks.generator is not None:
        hidden, _ = encode(run, saved.networks.generator, batch)
        logits["generator"] = vocabulary_head(run, saved.networks.generator, hidden, positions)[0]
    return logits
