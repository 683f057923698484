"""The networks as data: what the functions of this package need to know of each.

Two networks that name the same prefix share the parameters behind it; that is all that sharing is:

    sharing       generator's embeddings   discriminator's embeddings             layers
    none          generator.embeddings     embeddings                             two
    embeddings    embeddings               embeddings                             two
    all           embeddings               embeddings                             one
    gdes          embeddings               embeddings + discriminator.embeddings  two

In ``gdes`` (gradient-disentangled embedding sharing) the discriminator reads the sum of the
generator's tables and of its own, which begin at zero. Its loss moves its own tables only. Its
layer norm after the embeddings is its own, too. All tables have one width; the original's generator
with embeddings of its own has them as wide as itself.
Source: Clark et al. 2020, arXiv:2003.10555, sections 2 and 3.2; for ``gdes`` He et al. 2021,
arXiv:2111.09543, section 3, which defines it for words. microsoft/DeBERTa also splits the table of
positions; here that of segments is split, too.
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
    read_only_embeddings: str | None = None  # prefix of tables that are added and learn nothing


class Networks(NamedTuple):
    """The networks of a model by what they answer; None where it has no such network."""

    discriminator: Network | None  # tells which tokens were replaced: the detection head
    generator: Network | None  # guesses words: the vocabulary head; a full-size encoder if any


def generator_of(config: ModelConfig) -> Network:
    """Return the generator that ``config`` describes."""
    embeddings = "generator.embeddings" if config.sharing == "none" else "embeddings"
    layers = "encoder" if config.sharing == "all" else "generator"
    return Network("generator", embeddings, layers, generator_size(config), config, 0)


def discriminator_of(config: ModelConfig) -> Network:
    """Return the discriminator that ``config`` describes."""
    name, size = "discriminator", discriminator_size(config)
    if config.sharing == "gdes":
        own = f"{name}.embeddings"
        return Network(name, own, name, size, config, DISCRIMINATOR_SITES, "embeddings")
    layers = "encoder" if config.sharing == "all" else name
    return Network(name, "embeddings", layers, size, config, DISCRIMINATOR_SITES)


def encoder_of(config: ModelConfig) -> Network:
    """Return the full-size encoder that ``config`` describes, where it does not discriminate."""
    return discriminator_of(config)._replace(name="encoder", layers="encoder")
