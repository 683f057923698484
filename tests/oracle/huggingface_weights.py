"""Our flat parameters as the state dicts of Hugging Face's two classes, and back.

The names are those of the package's table. It is linear, so gradients go through it as parameters
do. NumPy only, so that it also reads the fixture files where PyTorch is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from electra_ref.arrays import Array
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.model.objectives.electra import networks_of, parameter_specs
from electra_ref.model.parameters import FlatParameters
from electra_ref.training.huggingface.names import Tensor, tensors_of
from tests.tiny_electra import tiny_model

NETWORKS = ("generator", "discriminator")
StateDicts = Mapping[str, Mapping[str, Array]]  # network -> their name -> tensor


def tensors(config: PretrainingConfig) -> Mapping[str, list[Tensor]]:
    """Return the table of names of both networks."""
    return tensors_of(networks_of(tiny_model(config)))


def to_huggingface(
    config: PretrainingConfig, parameters: FlatParameters, network: str
) -> dict[str, Array]:
    """Return the tensors of ``network`` by their names; also right for gradients.

    The tied ``generator_lm_head.weight`` is left out, as ``save_pretrained`` leaves it out.
    """
    return {
        tensor.name: np.ascontiguousarray(tensor.value(parameters))
        for tensor in tensors(config)[network]
    }


def from_huggingface(config: PretrainingConfig, state_dicts: StateDicts) -> FlatParameters:
    """Return our flat parameters in float64; the shared tensors are the discriminator's.

    Raises KeyError if one of their tensors is missing, ValueError if its shape does not fit.
    """
    specs = parameter_specs(tiny_model(config))
    parameters = FlatParameters(specs, np.full(sum(np.prod(s.shape) for s in specs), np.nan))
    for network in NETWORKS:  # the discriminator is the last
        for tensor in tensors(config)[network]:
            found = state_dicts[network][tensor.name]
            if found.shape != tensor.shape:
                raise ValueError(f"{tensor.name}: {found.shape} where {tensor.shape} is needed")
            tensor.view(parameters)[...] = found
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
