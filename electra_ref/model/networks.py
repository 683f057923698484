"""The networks as data: what the functions of this package need to know of each.

Two networks that name the same prefix share the parameters behind it. In ELECTRA the generator and
the discriminator share their embeddings and have layers of their own.
Source: Clark et al. 2020, arXiv:2003.10555, sections 2 and 3.2.
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.config.model import EncoderSize, ModelConfig, discriminator_size, generator_size

DISCRIMINATOR_SITES = 1 << 16  # the generator's dropout sites begin at 0


class Network(NamedTuple):
    """One encoder with its embeddings."""

    name: str  # prefix of the parameters of its head
    embeddings: str  # prefix of the parameters of its embeddings
    layers: str  # prefix of the parameters of its projection and its layers
    size: EncoderSize
    config: ModelConfig  # sizes of the embeddings, dropout rates, layer norm's epsilon
    first_site: int  # number of its first dropout site


def generator_of(config: ModelConfig) -> Network:
    """Return the generator that ``config`` describes."""
    return Network("generator", "embeddings", "generator", generator_size(config), config, 0)


def discriminator_of(config: ModelConfig) -> Network:
    """Return the discriminator that ``config`` describes."""
    name, size = "discriminator", discriminator_size(config)
    return Network(name, "embeddings", name, size, config, DISCRIMINATOR_SITES)
