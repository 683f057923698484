"""Generator, sampling, discriminator: one forward and one backward pass of ELECTRA.

    generator logits  = head(encode(masked ids))                at the masked positions
    corrupted ids     = original ids, the masked ones replaced by samples from softmax(logits)
    discriminator logits = head(encode(corrupted ids))          at every token

Sampling is the hard stop between the networks: integers go in and out, no gradient passes. All
that is smooth is a function of the parameters for given integers, and it is this function that
the complex step checks as a whole.
Source: Clark et al. 2020, arXiv:2003.10555, section 2 and figure 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from electra_ref.arrays import Array
from electra_ref.backends import Backend
from electra_ref.config import Config, discriminator_size, generator_size
from electra_ref.masking import MaskedBatch
from electra_ref.model.encoder import Dropout, Encoder, EncoderCache, encode, encode_backward
from electra_ref.model.heads import (
    DiscriminatorHeadCache,
    GeneratorHeadCache,
    discriminator_head,
    discriminator_head_backward,
    generator_head,
    generator_head_backward,
)
from electra_ref.model.objectives import (
    LossCounts,
    LossWeights,
    ObjectiveCache,
    mlm_loss,
    objective_backward,
    rtd_loss,
)
from electra_ref.model.parameters import FlatGradients, FlatParameters
from electra_ref.rng import Purpose, RandomStream
from electra_ref.sampling import CorruptedBatch

Corrupt = Callable[[Array], CorruptedBatch]  # from the generator's logits (B M, V)
DISCRIMINATOR_SITES = 1 << 16  # dropout sites of the discriminator start here, the generator's at 0


class Electra(NamedTuple):
    """What the functions below need to know of the model, besides its parameters."""

    generator: Encoder
    discriminator: Encoder
    hidden_dropout: float
    attention_dropout: float
    weights: LossWeights


def electra_of(config: Config) -> Electra:
    """Return the model that ``config`` describes."""
    return Electra(
        Encoder("generator", generator_size(config), config.layer_norm_eps),
        Encoder("discriminator", discriminator_size(config), config.layer_norm_eps),
        config.hidden_dropout,
        config.attention_dropout,
        LossWeights(config.generator_weight, config.discriminator_weight),
    )


class ElectraOutput(NamedTuple):
    """What a forward pass yields; the losses are sums, see ``objectives``."""

    mlm_loss: Array  # ()
    rtd_loss: Array  # ()
    generator_logits: Array  # (B M, V)
    discriminator_logits: Array  # (N,)
    corrupted: CorruptedBatch


class ElectraCache(NamedTuple):
    """One cache for each part of the model, in the order they run."""

    generator: EncoderCache
    generator_head: GeneratorHeadCache
    discriminator: EncoderCache
    discriminator_head: DiscriminatorHeadCache
    objective: ObjectiveCache


def electra_forward(
    backend: Backend,
    parameters: FlatParameters,
    electra: Electra,
    masked: MaskedBatch,
    corrupt: Corrupt,
    dropout_stream: RandomStream | None,
) -> tuple[ElectraOutput, ElectraCache]:
    """Run both networks on one micro-batch; ``corrupt`` makes the discriminator's input.

    ``dropout_stream`` names the random bits of all dropout sites; None, as in evaluation, drops
    nothing.
    """
    token_type_ids = backend.to_device(masked.batch.token_type_ids)
    attention_mask = backend.to_device(masked.batch.attention_mask)
    generator_logits, generator_cache, generator_head_cache = _generator(
        backend,
        parameters,
        electra,
        masked,
        token_type_ids,
        attention_mask,
        _dropout(electra, dropout_stream, 0),
    )
    corrupted = corrupt(generator_logits)
    hidden, discriminator_cache = encode(
        backend,
        parameters,
        electra.discriminator,
        backend.to_device(corrupted.corrupted_ids),
        token_type_ids,
        attention_mask,
        _dropout(electra, dropout_stream, DISCRIMINATOR_SITES),
    )
    discriminator_logits, discriminator_head_cache = discriminator_head(backend, parameters, hidden)
    mlm, mlm_cache = mlm_loss(backend, generator_logits, masked)
    rtd, rtd_cache = rtd_loss(backend, discriminator_logits, corrupted)
    output = ElectraOutput(mlm, rtd, generator_logits, discriminator_logits, corrupted)
    return output, ElectraCache(
        generator_cache,
        generator_head_cache,
        discriminator_cache,
        discriminator_head_cache,
        ObjectiveCache(mlm_cache, rtd_cache),
    )


def electra_backward(
    backend: Backend,
    gradients: FlatGradients,
    electra: Electra,
    counts: LossCounts,
    cache: ElectraCache,
) -> None:
    """Add to ``gradients`` those of the total loss of the micro-batch behind ``cache``."""
    dgenerator_logits, ddiscriminator_logits = objective_backward(
        backend, electra.weights, counts, cache.objective
    )
    dhidden = discriminator_head_backward(
        backend, gradients, ddiscriminator_logits, cache.discriminator_head
    )
    encode_backward(backend, gradients, electra.discriminator, dhidden, cache.discriminator)
    dhidden = generator_head_backward(backend, gradients, dgenerator_logits, cache.generator_head)
    encode_backward(backend, gradients, electra.generator, dhidden, cache.generator)


def total_loss(electra: Electra, output: ElectraOutput, counts: LossCounts) -> Array:
    """Return the weighted sum () of the two mean losses of one micro-batch's ``output``."""
    mlm = output.mlm_loss * (electra.weights.mlm / counts.mlm)
    return mlm + output.rtd_loss * (electra.weights.rtd / counts.rtd)


def _generator(
    backend: Backend,
    parameters: FlatParameters,
    electra: Electra,
    masked: MaskedBatch,
    token_type_ids: Array,
    attention_mask: Array,
    dropout: Dropout,
) -> tuple[Array, EncoderCache, GeneratorHeadCache]:
    masked_ids = backend.to_device(masked.masked_ids)
    hidden, encoder_cache = encode(
        backend, parameters, electra.generator, masked_ids, token_type_ids, attention_mask, dropout
    )
    logits, head_cache = generator_head(
        backend,
        parameters,
        hidden,
        backend.to_device(masked.positions),
        electra.generator.layer_norm_eps,
    )
    return logits, encoder_cache, head_cache


def _dropout(electra: Electra, stream: RandomStream | None, first_site: int) -> Dropout:
    if stream is not None:
        stream = stream._replace(purpose=Purpose.DROPOUT + first_site)
    return Dropout(electra.hidden_dropout, electra.attention_dropout, stream)
