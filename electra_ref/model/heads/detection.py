"""The head that tells which tokens were replaced, the discriminator's.

    logits = gelu(h W + b) w + b      (N,)      positive = replaced

Source: Clark et al. 2020, arXiv:2003.10555, section 2; google-research/electra
pretrain/run_pretraining.py (``_get_discriminator_output``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from electra_ref.arrays import Array
from electra_ref.backends import Cache
from electra_ref.model.networks import Network
from electra_ref.model.parameters import ParameterSpec
from electra_ref.model.passes import BackwardPass, ForwardPass, linear_specs


def detection_head_specs(network: Network) -> Iterator[ParameterSpec]:
    """Yield the specs of the head of ``network``."""
    name, width = f"{network.name}.head", network.size.hidden_size
    yield from linear_specs(f"{name}.dense", width, width)
    yield from linear_specs(f"{name}.output", width, 1, "glorot_uniform")


class DetectionHeadCache(NamedTuple):
    """One cache for each operation of the head, in the order they run."""

    dense: Cache
    gelu: Cache
    output: Cache


def detection_head(
    run: ForwardPass, network: Network, hidden: Array
) -> tuple[Array, DetectionHeadCache]:
    """Return one logit (N,) for each row of ``hidden`` (N, C)."""
    h, dense = run.linear(f"{network.name}.head.dense", hidden)
    h, gelu = run.backend.gelu(h)
    logits, output = run.linear(f"{network.name}.head.output", h)
    return logits[:, 0], DetectionHeadCache(dense, gelu, output)


def detection_head_backward(
    run: BackwardPass, network: Network, dlogits: Array, cache: DetectionHeadCache
) -> Array:
    """Return dhidden (N, C) for ``dlogits`` (N,)."""
    dh = run.linear(f"{network.name}.head.output", dlogits[:, None], cache.output)
    dh = run.backend.gelu_backward(dh, cache.gelu)
    return run.linear(f"{network.name}.head.dense", dh, cache.dense)
