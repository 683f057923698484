"""ELECTRA: the generator fills masked positions, the discriminator tells which tokens it replaced.

    masked ids           = original ids, 15 % of them behind [MASK]
    generator logits     = head(encode(masked ids))              at the masked positions
    corrupted ids        = original ids, the masked ones replaced by samples from softmax(logits)
    discriminator logits = head(encode(corrupted ids))           at every token

    L = w_G (sum of MLM losses) / (masked positions) + w_D (sum of RTD losses) / (tokens)

w_G is 1 and w_D is 50. Sampling is the hard stop between the networks: integers go in and out, no
gradient passes. All that is smooth is a function of the parameters for given integers, and it is
this function that the complex step checks as a whole.
Source: Clark et al. 2020, arXiv:2003.10555, section 2 and figure 2; google-research/electra
pretrain/run_pretraining.py divides the same sums by the same counts.
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.arrays import Array
from electra_ref.backends import Cache
from electra_ref.batch import Batch, SpecialTokens
from electra_ref.config.model import ModelConfig
from electra_ref.config.pretraining import ObjectiveConfig
from electra_ref.masking import count_masked, mask_tokens
from electra_ref.model.encoder import EncoderCache, encode, encode_backward, encoder_specs
from electra_ref.model.heads.detection import (
    DetectionHeadCache,
    detection_head,
    detection_head_backward,
    detection_head_specs,
)
from electra_ref.model.heads.vocabulary import (
    VocabularyHeadCache,
    vocabulary_head,
    vocabulary_head_backward,
    vocabulary_head_specs,
)
from electra_ref.model.losses import Counts, LossTerm, gradient_scale
from electra_ref.model.networks import Network, discriminator_of, generator_of
from electra_ref.model.parameters import ParameterSpec, parameter_table
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.rng import RandomStream
from electra_ref.sampling import CorruptedBatch, corrupt, sample_tokens


class Electra(NamedTuple):
    """What the functions below need to know besides the parameters."""

    generator: Network
    discriminator: Network
    settings: ObjectiveConfig
    special_tokens: SpecialTokens


def electra_of(
    config: ModelConfig, settings: ObjectiveConfig, special_tokens: SpecialTokens
) -> Electra:
    """Return the two networks that ``config`` describes, to be trained as ``settings`` say."""
    return Electra(generator_of(config), discriminator_of(config), settings, special_tokens)


def parameter_specs(model: Electra) -> list[ParameterSpec]:
    """Return the table of the parameters of both networks and their heads."""
    networks = (encoder_specs(network) for network in (model.generator, model.discriminator))
    heads = vocabulary_head_specs(model.generator), detection_head_specs(model.discriminator)
    return parameter_table([*networks, *heads])


def count_losses(model: Electra, batch: Batch) -> Counts:
    """Return how many positions of ``batch`` are to be guessed, and how many tokens it has."""
    masked = count_masked(batch, model.special_tokens, model.settings.mask_probability)
    return {"mlm": int(masked.sum()), "rtd": int(batch.attention_mask.sum())}


class ElectraOutput(NamedTuple):
    """What a forward pass yields."""

    terms: tuple[LossTerm, LossTerm]  # "mlm" and "rtd"
    generator_logits: Array  # (B M, V)
    discriminator_logits: Array  # (N,)
    corrupted: CorruptedBatch
    discriminator_hidden: Array  # (N, C)


class ElectraCache(NamedTuple):
    """One cache for each part of the model, in the order they run, and the terms."""

    generator: EncoderCache
    generator_head: VocabularyHeadCache
    discriminator: EncoderCache
    discriminator_head: DetectionHeadCache
    mlm: Cache
    rtd: Cache
    terms: tuple[LossTerm, LossTerm]


def forward(
    run: ForwardPass, model: Electra, batch: Batch, stream: RandomStream
) -> tuple[ElectraOutput, ElectraCache]:
    """Mask, generate, sample, corrupt, discriminate; ``stream`` names the masks and the samples."""
    settings, to_device = model.settings, run.backend.to_device
    on_device = Batch(*map(to_device, batch))
    masked = mask_tokens(batch, model.special_tokens, settings.mask_probability, stream)

    generator_input = on_device._replace(input_ids=to_device(masked.masked_ids))
    hidden, generator = encode(run, model.generator, generator_input)
    positions = to_device(masked.positions)
    generator_logits, generator_head = vocabulary_head(run, model.generator, hidden, positions)
    slots = masked.positions.shape[1]
    sampled_ids = sample_tokens(generator_logits, settings.temperature, stream, slots)
    corrupted = corrupt(masked, sampled_ids)

    discriminator_input = on_device._replace(input_ids=to_device(corrupted.corrupted_ids))
    hidden, discriminator = encode(run, model.discriminator, discriminator_input)
    discriminator_logits, discriminator_head = detection_head(run, model.discriminator, hidden)
    labels, weights = (to_device(x.reshape(-1)) for x in (masked.labels, masked.weights))
    mlm_sum, mlm = run.backend.softmax_cross_entropy(generator_logits, labels, weights)
    labels, weights = (to_device(x.reshape(-1)) for x in (corrupted.replaced, batch.attention_mask))
    rtd_sum, rtd = run.backend.binary_cross_entropy(discriminator_logits, labels, weights)
    counts = count_losses(model, batch)
    terms = (
        LossTerm("mlm", mlm_sum, counts["mlm"], settings.generator_weight),
        LossTerm("rtd", rtd_sum, counts["rtd"], settings.discriminator_weight),
    )
    output = ElectraOutput(terms, generator_logits, discriminator_logits, corrupted, hidden)
    cache = ElectraCache(
        generator, generator_head, discriminator, discriminator_head, mlm, rtd, terms
    )
    return output, cache


def backward(run: BackwardPass, model: Electra, counts: Counts, cache: ElectraCache) -> None:
    """Add to the gradients those of the total loss, its sums divided by ``counts``.

    Consumes the cache: the layers of both encoders are taken out of it.
    """
    mlm_scale, rtd_scale = (gradient_scale(term, counts) for term in cache.terms)
    dlogits = run.backend.binary_cross_entropy_backward(rtd_scale, cache.rtd)
    dhidden = detection_head_backward(run, model.discriminator, dlogits, cache.discriminator_head)
    encode_backward(run, model.discriminator, dhidden, cache.discriminator)
    dlogits = run.backend.softmax_cross_entropy_backward(mlm_scale, cache.mlm)
    dhidden = vocabulary_head_backward(run, model.generator, dlogits, cache.generator_head)
    encode_backward(run, model.generator, dhidden, cache.generator)
