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

from electra_ref.config.model import (
    EncoderConfig,
    EncoderSize,
    ModelConfig,
    discriminator_size,
    generator_size,
)

DISCRIMINATOR_SITES = 1 << 16  # the generator's dropout sites begin at 0


class Network(NamedTuple):
    """One encoder with its embeddings."""

    name: str  # prefix of the parameters of its head
    embeddings: str  # prefix of the parameters of its embeddings
    layers: str  # prefix of the parameters of its projection and its layers
    size: EncoderSize
    config: EncoderConfig  # sizes of the embeddings, dropout rates, layer norm's epsilon
    first_site: int  # number of its first dropout site
    tie_word_embeddings: bool  # if it guesses words: by the table that embeds them
    read_only_embeddings: str | None = None  # prefix of tables that are added and learn nothing


class Networks(NamedTuple):
    """The networks of a model by what they answer; None where it has no such network."""

    discriminator: Network | None  # tells which tokens were replaced: the detection head
    generator: Network | None  # guesses words: the vocabulary head; a full-size encoder if any


def generator_of(config: ModelConfig) -> Network:
    """Return the generator that ``config`` describes."""
    embeddings = "generator.embeddings" if config.sharing == "none" else "embeddings"
    layers = "encoder" if config.sharing == "all" else "generator"
    size, tied = generator_size(config), config.tie_word_embeddings
    return Network("generator", embeddings, layers, size, config, 0, tied)


def discriminator_of(config: ModelConfig) -> Network:
    """Return the discriminator that ``config`` describes."""
    name = "discriminator"
    full = encoder_of(config)._replace(name=name, layers=name)
    if config.sharing == "gdes":
        return full._replace(embeddings=f"{name}.embeddings", read_only_embeddings="embeddings")
    return full._replace(layers="encoder") if config.sharing == "all" else full


def encoder_of(config: ModelConfig) -> Network:
    """Return the full-size encoder that ``config`` describes, where it does not discriminate."""
    return full_size_encoder(config)._replace(tie_word_embeddings=config.tie_word_embeddings)


def full_size_encoder(config: EncoderConfig) -> Network:
    """Return the encoder that ``config`` describes, which reads for a head of any kind."""
    size = discriminator_size(config)
    return Network("encoder", "embeddings", "encoder", size, config, DISCRIMINATOR_SITES, True)
