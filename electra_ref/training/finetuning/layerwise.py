"""Learning rates by depth: the closer a layer is to the input, the less it moves.

    rate of a parameter = learning_rate * decay^(depth of the head - its depth)

    depth   0 embeddings and their projection, i + 1 layer i (from 0), n + 2 the head of n layers

Nothing has the depth n + 1, so the top layer moves by decay^2 of the head's rate: a remainder of a
pooling layer that the original once had. Without the ``gap`` the head has the depth n + 1.
Source: google-research/electra model/optimization.py (``_get_layer_lrs``); issue 51 of that
repository for the remainder; Clark et al. 2020, arXiv:2003.10555, appendix B.
"""

from __future__ import annotations

from collections.abc import Iterable

from electra_ref.model.labelled import HEAD
from electra_ref.model.networks import Network
from electra_ref.model.parameters import ParameterSpec, parameter_table


def with_rates(
    specs: Iterable[ParameterSpec], encoder: Network, decay: float, *, gap: bool
) -> list[ParameterSpec]:
    """Return ``specs`` with the rates of their depths, those that move alike side by side."""
    top = encoder.size.num_hidden_layers + (2 if gap else 1)
    return parameter_table(
        [spec._replace(rate_scale=decay ** (top - _depth(spec.name, encoder, top)))]
        for spec in specs
    )


def _depth(name: str, encoder: Network, top: int) -> int:
    if name.startswith(f"{HEAD}."):
        return top
    layer = name.removeprefix(f"{encoder.layers}.layer.")
    return 0 if layer == name else int(layer.partition(".")[0]) + 1
