"""What describes a model: the sizes of the discriminator, and of the generator as a share of it.

Source of the defaults, which are ELECTRA-small's: google-research/electra
configure_pretraining.py; Clark et al. 2020, arXiv:2003.10555, table 6.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from electra_ref.config.settings import Settings, count, setting

INITIAL_ATTENTION = ("random", "neighbours")
SHARING = ("none", "embeddings", "all", "gdes")
GENERATOR_SIZES = ("generator_num_attention_heads", "generator_intermediate_size")  # 0: derived


@dataclasses.dataclass(frozen=True)
class EncoderConfig(Settings):
    """One encoder with its embeddings. Sizes are counts, rates are in [0, 1)."""

    vocab_size: int = count(
        0, "entries of the vocabulary; 0: as many as the data yield", at_least=0
    )
    embedding_size: int = count(128, "width of the embeddings")
    hidden_size: int = count(256, "width of the discriminator")
    num_hidden_layers: int = count(12, "layers of the discriminator")
    num_attention_heads: int = count(4, "attention heads of the discriminator")
    intermediate_size: int = count(1024, "width of the discriminator's feed-forward layers")
    max_position_embeddings: int = count(512, "longest row the model can read")
    type_vocab_size: int = count(2, "segments that can be told apart", at_least=2)
    hidden_dropout: float = setting(
        0.1, "dropout after embeddings and sublayers", at_least=0.0, at_most=0.999
    )
    attention_dropout: float = setting(
        0.1, "dropout of attention probabilities", at_least=0.0, at_most=0.999
    )
    layer_norm_eps: float = setting(1e-12, "added to the variance in layer norm", above=0.0)
    initializer_range: float = setting(
        0.02, "standard deviation of the truncated normal", above=0.0
    )
    initial_attention: str = setting(
        "random",
        "what the first layer attends to at first: random; neighbours (for short runs), where the "
        "embeddings are as wide as the network and heads have an even width",
        choices=INITIAL_ATTENTION,
    )


@dataclasses.dataclass(frozen=True)
class ModelConfig(EncoderConfig):
    """The discriminator's encoder, and the generator as a share of it."""

    sharing: str = setting(
        "embeddings",
        "what generator and discriminator share: none, embeddings, all, or gdes (the discriminator "
        "reads the generator's tables plus a difference of its own)",
        choices=SHARING,
    )
    generator_hidden_size: float = setting(
        0.25, "generator width, share of the discriminator's", above=0.0, at_most=16.0
    )
    generator_layers: float = setting(
        1.0, "generator depth, share of the discriminator's", above=0.0, at_most=16.0
    )
    generator_num_attention_heads: int = count(
        0, "attention heads of the generator; 0: one for each 64 of its width", at_least=0
    )
    generator_intermediate_size: int = count(
        0, "width of the generator's feed-forward layers; 0: four times its width", at_least=0
    )
    tie_word_embeddings: bool = setting(
        True, "a network guesses words by the table that embeds them; false: by one of its own"
    )

    def _misfits(self) -> Iterator[str]:
        yield from misfits_of_heads(
            "discriminator", discriminator_size(self), "num_attention_heads"
        )
        if self.sharing == "all":
            yield from _misfits_of_one_encoder(self)


def misfits_of_heads(network: str, size: EncoderSize, key: str) -> Iterator[str]:
    """Yield what to say of a network whose heads do not divide its width; ``key`` decides them."""
    if size.hidden_size % size.num_attention_heads:
        yield (
            f"the {network}'s {size.num_attention_heads} attention heads do not divide its "
            f"width {size.hidden_size}; change hidden_size or {key}"
        )


def _misfits_of_one_encoder(config: ModelConfig) -> Iterator[str]:
    if (config.generator_hidden_size, config.generator_layers) != (1, 1):
        yield (
            "sharing = 'all' makes one encoder of both, so they have one size: set "
            "generator_hidden_size = 1 and generator_layers = 1"
        )
    for key in GENERATOR_SIZES:
        if getattr(config, key):
            yield f"{key} does nothing with sharing = 'all', which makes one encoder: leave it out"


@dataclasses.dataclass(frozen=True)
class EncoderSize:
    """Sizes of one of the two encoders."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int


def begins_at_neighbours(config: EncoderConfig, size: EncoderSize) -> bool:
    """Return whether attention of a network of ``size`` begins at the neighbours.

    A network that projects its embeddings begins with random queries and keys, whatever the
    configuration says, and so does one whose heads have an odd width.
    """
    projects = config.embedding_size != size.hidden_size
    is_odd = size.hidden_size // size.num_attention_heads % 2 == 1
    return config.initial_attention == "neighbours" and not projects and not is_odd


def discriminator_size(config: EncoderConfig) -> EncoderSize:
    """Return the sizes of the discriminator, as configured."""
    return EncoderSize(
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.intermediate_size,
    )


def generator_size(config: ModelConfig) -> EncoderSize:
    """Return the sizes of the generator, derived from the discriminator's.

    If the configuration does not say otherwise, heads are 64 wide and at least one, and the
    feed-forward layer is four times as wide as the rest: google-research/electra
    pretrain/run_pretraining.py (``get_generator_config``). Where both share all their layers, they
    are the discriminator's.
    """
    if config.sharing == "all":
        return discriminator_size(config)
    hidden_size = max(1, round(config.hidden_size * config.generator_hidden_size))
    layers = max(1, round(config.num_hidden_layers * config.generator_layers))
    heads = config.generator_num_attention_heads or max(1, hidden_size // 64)
    intermediate_size = config.generator_intermediate_size or 4 * hidden_size
    return EncoderSize(hidden_size, layers, heads, intermediate_size)
