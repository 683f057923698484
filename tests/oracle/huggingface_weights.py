"""Names and layouts: our flat parameters as the state dicts of Hugging Face's two classes.

    ours                                    theirs, in the class of the network
    embeddings.*                            electra.embeddings.*   (in both classes)
    N.embeddings_project                    electra.embeddings_project
    N.layer.0.*                             electra.encoder.layer.0.*
    N.layer.0.attention.query_key_value     ...attention.self.query, .key, .value
    generator.head.*                        generator_predictions.*, generator_lm_head.bias
    discriminator.head.*                    discriminator_predictions.*

N is ``generator`` (ElectraForMaskedLM) or ``discriminator`` (ElectraForPreTraining). Matrices of
linear layers are (inputs, outputs) here and (outputs, inputs) there; tables are the same. The map
is linear, so gradients go through it as parameters do. NumPy only, so that it also reads the
fixture files where PyTorch is not installed.
Source: transformers models/electra/modeling_electra.py, versions 4.57 and 5.23.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from electra_ref.arrays import Array
from electra_ref.model.parameters import FlatParameters, ParameterSpec

NETWORKS = ("generator", "discriminator")
StateDicts = Mapping[str, Mapping[str, Array]]  # network -> their name -> tensor

_RENAMED = (  # applied in this order to our names
    (r"^embeddings\.", "electra.embeddings."),
    (r"^\w+\.embeddings_project\.", "electra.embeddings_project."),
    (r"^generator\.head\.output\.", "generator_lm_head."),
    (r"^discriminator\.head\.output\.", "discriminator_predictions.dense_prediction."),
    (r"^(\w+)\.head\.", r"\1_predictions."),
    (r"^\w+\.layer\.(\d+)\.layer_norm\.", r"electra.encoder.layer.\1.output.LayerNorm."),
    (r"^\w+\.layer\.(\d+)\.output\.", r"electra.encoder.layer.\1.output.dense."),
    (r"^\w+\.layer\.(\d+)\.intermediate\.", r"electra.encoder.layer.\1.intermediate.dense."),
    (
        r"^\w+\.layer\.(\d+)\.attention\.output\.",
        r"electra.encoder.layer.\1.attention.output.dense.",
    ),
    (
        r"^\w+\.layer\.(\d+)\.attention\.layer_norm\.",
        r"electra.encoder.layer.\1.attention.output.LayerNorm.",
    ),
    (r"^\w+\.layer\.(\d+)\.attention\.", r"electra.encoder.layer.\1.attention.self."),
    (r"\.layer_norm\.", ".LayerNorm."),
)


def their_names(name: str) -> list[str]:
    """Return the one name, or the three for q, k and v, of our parameter ``name``."""
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    if "query_key_value" not in name:
        return [name]
    return [name.replace("query_key_value", part) for part in ("query", "key", "value")]


def to_huggingface(parameters: FlatParameters, network: str) -> dict[str, Array]:
    """Return the tensors of ``network`` by their names; also right for gradients.

    The tied ``generator_lm_head.weight`` is left out, as ``save_pretrained`` leaves it out.
    """
    tensors = {}
    for spec in parameters.specs:
        if spec.name.split(".")[0] in (network, "embeddings"):
            names = their_names(spec.name)
            parts = np.split(parameters[spec.name], len(names), axis=-1)
            for name, part in zip(names, parts, strict=True):
                tensors[name] = np.ascontiguousarray(part.T if _is_linear(spec) else part)
    return tensors


def from_huggingface(state_dicts: StateDicts, specs: Sequence[ParameterSpec]) -> FlatParameters:
    """Return our flat parameters in float64; the shared tensors are the discriminator's.

    Raises KeyError if one of their tensors is missing, ValueError if its shape does not fit.
    """
    parameters = FlatParameters(specs, np.full(sum(np.prod(s.shape) for s in specs), np.nan))
    for spec in specs:
        network = "generator" if spec.name.startswith("generator.") else "discriminator"
        parts = [state_dicts[network][name] for name in their_names(spec.name)]
        tensor = np.concatenate([part.T if _is_linear(spec) else part for part in parts], axis=-1)
        if tensor.shape != spec.shape:
            raise ValueError(f"{spec.name}: {tensor.shape} where {spec.shape} is needed")
        parameters[spec.name][...] = tensor
    return parameters


def relative_error(actual: Array | float, expected: Array | float) -> float:
    """Return ‖actual - expected‖ / ‖expected‖ over all entries of a tensor, or of a number."""
    return float(np.linalg.norm(np.subtract(actual, expected)) / np.linalg.norm(expected))


def relative_errors(actual: StateDicts, expected: StateDicts) -> dict[str, float]:
    """Return the relative error of each of their tensors; raises KeyError if names differ.

    The gradient of a key's bias is zero: it moves all scores of a query alike, and softmax does
    not see it. What both sides have there is rounding, so it is set against the query's bias.
    """
    errors = {}
    for network, tensors in expected.items():
        if tensors.keys() != actual[network].keys():
            raise KeyError(f"{network}: {sorted(tensors.keys() ^ actual[network].keys())}")
        for name, tensor in tensors.items():
            size = tensors[name.replace(".key.bias", ".query.bias")]
            difference = np.linalg.norm(actual[network][name] - tensor)
            errors[f"{network}.{name}"] = float(difference / np.linalg.norm(size))
    return errors


def _is_linear(spec: ParameterSpec) -> bool:
    return len(spec.shape) == 2 and not spec.name.startswith("embeddings.")
