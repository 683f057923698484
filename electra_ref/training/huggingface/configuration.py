"""``config.json`` and our settings.

Their file describes one network, our settings describe a run of one network or two:

    a discriminator alone     objective = "electra", uniform_generator = true
    a generator alone         objective = "mlm": it is the full-size encoder that guesses words
    both                      objective = "electra"; sharing = "embeddings" if their embeddings are
                              the same, else "none"; the generator's size as a share

Sizes and rates have names on both sides. What only they can describe is refused by name. Learning
rate, steps and all else that a config.json does not say have their defaults.
Source of names and defaults: transformers models/electra/configuration_electra.py, versions 4.57
and 5.24.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from electra_ref.config.model import EncoderConfig, EncoderSize, ModelConfig
from electra_ref.config.objective import INPUTS
from electra_ref.config.pretraining import CUSTOM, PretrainingConfig
from electra_ref.config.settings import Value
from electra_ref.errors import UserError

CONFIG = "config.json"
CLASSES = {"discriminator": "ElectraForPreTraining", "generator": "ElectraForMaskedLM"}

OWN = "electra_ref"  # the key of config.json that holds what only we can describe
INPUT = "discriminator_input"
_KEYS = {  # ours: theirs; both have the same defaults
    "vocab_size": "vocab_size",
    "embedding_size": "embedding_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "layer_norm_eps": "layer_norm_eps",
    "initializer_range": "initializer_range",
    "tie_word_embeddings": "tie_word_embeddings",
}
_VOCABULARY_SIZE = 30522  # theirs, where config.json does not say
_ALIKE = (  # what two networks of one run have in common
    "vocab_size", "embedding_size", "max_position_embeddings", "type_vocab_size", "layer_norm_eps",
)  # fmt: skip
_ONLY = {  # keys that change what the network computes, and the one value that is computed here
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
    "quantization_config": None,
}


def read_configuration(path: Path) -> dict[str, Value]:
    """Return the ModelConfig fields that the ``config.json`` in the folder ``path`` describes.

    They are those of a full-size network, whichever it is. Raises UserError for a file that cannot
    be read, another kind of model, and for what is not computed here, by name.
    """
    file, found = path / CONFIG, load_configuration(path)
    for key, only in _ONLY.items():
        require_only(file, found, key, only)
    settings: dict[str, Value] = {"vocab_size": _VOCABULARY_SIZE}
    for field in dataclasses.fields(ModelConfig):
        theirs = _KEYS.get(field.name)
        if theirs in found:
            settings[field.name] = typed(file, str(theirs), found[theirs], type(field.default))
    _check(file, settings)
    return settings


def load_configuration(path: Path) -> dict[str, Any]:
    """Return what the ``config.json`` in the folder ``path`` holds.

    Raises UserError for a file that cannot be read, and for another kind of model.
    """
    file = path / CONFIG
    try:
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} holds no object of JSON")
    if (kind := found.get("model_type")) != "electra":
        raise UserError(f"{file} describes a model of type {kind!r}; only 'electra' is read")
    return found


def read_input(path: Path) -> dict[str, Value]:
    """Return what the network in the folder ``path`` reads, if it is said. Raises UserError."""
    own = load_configuration(path).get(OWN)
    if not isinstance(own, dict) or INPUT not in own:
        return {}
    if (value := own[INPUT]) not in INPUTS:
        raise UserError(f"{path / CONFIG} has {INPUT} = {value!r}, not one of {', '.join(INPUTS)}")
    return {INPUT: str(value)}


def require_only(file: Path, found: Mapping[str, Any], key: str, only: Any) -> None:
    """Raise UserError if ``found``, the contents of ``file``, has another value than ``only``."""
    if (value := found.get(key, only)) != only:
        raise UserError(f"{file} has {key} = {value!r}, and only {only!r} is computed here")


def settings_of_one(
    path: Path, part: str, read: Mapping[str, Value], data: Mapping[str, Value]
) -> PretrainingConfig:
    """Return the settings of a run with the one network that ``read`` describes.

    ``data`` are those of the tokenizer. Raises UserError if they do not fit.
    """
    values = {**read, **data}
    if part == "discriminator":
        values |= {"objective": "electra", "uniform_generator": True, "tie_word_embeddings": True}
    else:
        values |= {"objective": "mlm"}
    return _settings(path, values)


def settings_of_both(
    path: Path,
    discriminator: Mapping[str, Value],
    generator: Mapping[str, Value],
    sharing: str,
    data: Mapping[str, Value],
) -> PretrainingConfig:
    """Return the settings of a run with both networks.

    Dropout and initial values are those of the discriminator. Raises UserError for what two
    networks of one run have in common, where these two do not.
    """
    defaults = _defaults()
    sizes = [{**defaults, **network} for network in (discriminator, generator)]
    for key in _ALIKE:
        values = [size[key] for size in sizes]
        if values[0] != values[1]:
            raise UserError(
                f"the two networks in {path} have {_KEYS[key]} = {values[0]} (discriminator) and "
                f"{values[1]} (generator), and those of one run have the same: name one of the two "
                "folders"
            )
    large, small = map(_encoder_size, sizes)
    derived = max(1, small.hidden_size // 64), 4 * small.hidden_size
    own = small.num_attention_heads, small.intermediate_size
    return _settings(
        path,
        {
            **discriminator,
            **data,
            "objective": "electra",
            "sharing": sharing,
            "tie_word_embeddings": sizes[1]["tie_word_embeddings"],
            "generator_hidden_size": small.hidden_size / large.hidden_size,
            "generator_layers": small.num_hidden_layers / large.num_hidden_layers,
            "generator_num_attention_heads": 0 if own[0] == derived[0] else own[0],
            "generator_intermediate_size": 0 if own[1] == derived[1] else own[1],
        },
    )


def configuration_of(
    config: EncoderConfig, size: EncoderSize, part: str, pad: int
) -> dict[str, Any]:
    """Return what ``config.json`` says of a network of ``size``; ``pad`` is the id of [PAD]."""
    tied = {"tie_word_embeddings": True}  # where no network guesses words
    values = {**tied, **dataclasses.asdict(config), **dataclasses.asdict(size)}
    return {
        "architectures": [CLASSES[part]],
        "model_type": "electra",
        **{theirs: values[ours] for ours, theirs in _KEYS.items()},
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "pad_token_id": pad,
        "dtype": "float32",
        "summary_type": "first",
        "summary_use_proj": True,
        "summary_activation": "gelu",
        "summary_last_dropout": 0.1,
        "classifier_dropout": None,
        "use_cache": True,
    }


def _settings(path: Path, values: dict[str, Any]) -> PretrainingConfig:
    positions = values.get("max_position_embeddings", ModelConfig.max_position_embeddings)
    length = min(values.get("max_length", positions), positions)
    try:
        return PretrainingConfig(**{"preset": CUSTOM, **values, "max_length": length})
    except UserError as error:
        raise UserError(f"the model in {path} cannot be a run of electra_ref: {error}") from error


def _check(file: Path, settings: Mapping[str, Value]) -> None:
    """Raise UserError if the sizes are out of range, or do not fit together."""
    try:
        ModelConfig(**settings)  # type: ignore[arg-type]
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def typed(file: Path, key: str, value: Any, wanted: Any) -> Value:
    """Return ``value``, which ``file`` has under ``key``; 0 and 1 may be floats without a point.

    Raises UserError if its type is not ``wanted``.
    """
    if wanted is float and type(value) is int and value in (0, 1):
        return float(value)
    if type(value) is not wanted:
        raise UserError(f"{file} has {key} = {value!r}, which should be of type {wanted.__name__}")
    checked: Value = value
    return checked


def _defaults() -> dict[str, Any]:
    defaults = dataclasses.asdict(ModelConfig())
    return {**{key: defaults[key] for key in _KEYS}, "vocab_size": _VOCABULARY_SIZE}


def _encoder_size(values: Mapping[str, Any]) -> EncoderSize:
    return EncoderSize(*(values[field.name] for field in dataclasses.fields(EncoderSize)))
