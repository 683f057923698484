"""ELECTRA: the generator fills masked positions, the discriminator tells which tokens it replaced.

    masked ids           = original ids, 15 % of them chosen; 85 % of those behind [MASK]
    generator logits     = head(encode(masked ids))              at the chosen positions
    corrupted ids        = original ids, the chosen ones replaced by samples from
                           softmax(logits / temperature)
    discriminator logits = head(encode(corrupted ids))           at every token

    L = w_G (sum of MLM losses) / (chosen positions) + w_D (sum of RTD losses) / (tokens)

w_G is 1 and w_D is 50. Sampling is the hard stop between the networks: integers go in and out, no
gradient passes. All that is smooth is a function of the parameters for given integers, and it is
this function that the complex step checks as a whole.

Variants, each a setting: ``electra-15`` takes the RTD loss at the masked positions only. An
``adversarial`` generator learns from the RTD loss, too (``reinforce``, ``relaxation``). In two
stages (``two_stage_steps``) the generator learns alone first. Then the discriminator starts from
the generator's encoder and learns alone.
Source: Clark et al. 2020, arXiv:2003.10555, section 2 and figure 2, sections 3.2 and 3.5 for the
variants; google-research/electra pretrain/run_pretraining.py divides the same sums by the same
counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal, NamedTuple

from electra_ref.arrays import Array
from electra_ref.backends import Cache
from electra_ref.batch import Batch, SpecialTokens
from electra_ref.config.model import ModelConfig
from electra_ref.config.objective import AdversarialConfig, ObjectiveConfig
from electra_ref.masking import count_masked, mask_tokens
from electra_ref.model.discriminator_input import READERS, DiscriminatorInput, count_read
from electra_ref.model.encoder import EncoderCache, encode, encode_backward, encoder_specs
from electra_ref.model.generation import (
    GuessesCache,
    guess_backward,
    guess_masked,
    on_device,
    sample,
)
from electra_ref.model.heads.detection import (
    DetectionHeadCache,
    detection_head,
    detection_head_backward,
    detection_head_specs,
)
from electra_ref.model.heads.vocabulary import vocabulary_head_specs
from electra_ref.model.losses import Counts, LossTerm, gradient_scale
from electra_ref.model.networks import Network, Networks, discriminator_of, generator_of
from electra_ref.model.objectives.one_stage import settings_at
from electra_ref.model.objectives.output import Detections, Output
from electra_ref.model.parameters import FlatParameters, ParameterSpec, parameter_table
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.model.reinforce import (
    ReinforceCache,
    baseline_specs,
    reinforce,
    reinforce_backward,
)
from electra_ref.model.relaxation import Relaxation, relaxation_logits_backward, relaxation_of
from electra_ref.rng import RandomStream


class Electra(NamedTuple):
    """What the functions below need to know besides the parameters."""

    generator: Network | None  # None: samples are uniform
    discriminator: Network
    settings: ObjectiveConfig
    special_tokens: SpecialTokens
    learning: Literal["both", "generator", "discriminator"] = "both"  # which networks learn


def model_of(
    config: ModelConfig, settings: ObjectiveConfig, special_tokens: SpecialTokens
) -> Electra:
    """Return the two networks that ``config`` describes, to be trained as ``settings`` say."""
    generator = None if settings.uniform_generator else generator_of(config)
    return Electra(generator, discriminator_of(config), settings, special_tokens)


def parameter_specs(model: Electra) -> list[ParameterSpec]:
    """Return the table of the parameters of both networks and their heads."""
    generator, discriminator = model.generator, model.discriminator
    if generator is None:
        return parameter_table([encoder_specs(discriminator), detection_head_specs(discriminator)])
    networks = (encoder_specs(network) for network in (generator, discriminator))
    heads = [vocabulary_head_specs(generator), detection_head_specs(discriminator)]
    if model.settings.adversarial == "reinforce":
        heads.append(baseline_specs(generator))
    return parameter_table([*networks, *heads])


def networks_of(model: Electra) -> Networks:
    """Return both networks."""
    return Networks(model.discriminator, model.generator)


def at_step(model: Electra, step: int) -> Electra:
    """Return ``model`` as it is trained at ``step``: temperatures, and which networks learn.

    Its temperatures have no schedule any more.
    """
    settings = dataclasses.replace(
        settings_at(model.settings, step),
        gumbel_temperature=model.settings.gumbel_temperature_at(step),
        gumbel_temperature_end=1.0,
        gumbel_temperature_steps=0,
    )
    if stages := settings.two_stage_steps:
        model = model._replace(learning="generator" if step < stages else "discriminator")
    return model._replace(settings=settings)


def begin_step(model: Electra, step: int, parameters: FlatParameters) -> None:
    """Copy the generator's encoder into the discriminator where the second stage begins."""
    if model.generator is None or step == 0 or step != model.settings.two_stage_steps:
        return
    targets = encoder_specs(model.discriminator)
    for target, source in zip(targets, encoder_specs(model.generator), strict=True):
        parameters[target.name][...] = parameters[source.name]


def unchanged(model: Electra) -> Iterator[str]:
    """Yield the names of the parameters that a step leaves as they are."""
    if model.learning == "generator":
        yield from _names(encoder_specs(model.discriminator))
        yield from _names(detection_head_specs(model.discriminator))
    elif model.learning == "discriminator" and model.generator is not None:
        yield from _names(encoder_specs(model.generator))
        yield from _names(vocabulary_head_specs(model.generator))


def count_losses(model: Electra, batch: Batch) -> Counts:
    """Return how many places each loss of ``batch`` is taken over."""
    settings = model.settings
    masked = int(count_masked(batch, model.special_tokens, settings.mask_probability).sum())
    read = count_read(batch, pairs=settings.reads_pairs)
    detected = masked if settings.objective == "electra-15" else read
    counts = {"mlm": masked, "rtd": detected}
    if settings.adversarial == "reinforce":
        counts |= {"policy": detected, "baseline": masked}
    return counts


class ElectraCache(NamedTuple):
    """One cache for each part of the model, in the order they run; None for parts that did not."""

    generator: GuessesCache | None
    discriminator: EncoderCache | None
    discriminator_head: DetectionHeadCache | None
    rtd: Cache
    reinforce: ReinforceCache | None
    terms: tuple[LossTerm, ...]


def forward(
    run: ForwardPass, model: Electra, batch: Batch, stream: RandomStream
) -> tuple[Output, ElectraCache]:
    """Mask, generate, sample, corrupt, discriminate; ``stream`` names the masks and the samples."""
    settings, special_tokens = model.settings, model.special_tokens
    masked = mask_tokens(batch, special_tokens, settings.mask_probability, stream)
    counts = count_losses(model, batch)
    terms: tuple[LossTerm, ...] = ()
    guesses = generator = logits = policy = None
    if model.generator is not None:
        # A generator that does not learn drops nothing.
        stays = model.learning == "discriminator"
        reads = run._replace(stream=None) if stays else run
        guesses, generator = guess_masked(reads, model.generator, batch, masked)
        logits = guesses.logits
        terms += (LossTerm("mlm", guesses.loss, counts["mlm"], settings.generator_weight),)
        if stays:
            generator, terms = None, ()
    if model.learning == "generator":
        output = Output(terms, masked, guesses=guesses)
        return output, ElectraCache(generator, None, None, None, None, terms)

    vocab_size = model.discriminator.config.vocab_size
    samples = sample(run, settings, special_tokens, masked, logits, stream, vocab_size)
    read = READERS[settings.discriminator_input](samples.corrupted, special_tokens)
    relaxation = None
    if samples.noise is not None and logits is not None:
        relaxation = relaxation_of(run, settings, logits, samples.noise, samples.corrupted, read)
    detections, discriminator, head = _detect(run, model.discriminator, read, relaxation)
    labels, weights = read.replaced.reshape(-1), _rtd_weights(settings, read).reshape(-1)
    rtd_sum, rtd = run.backend.binary_cross_entropy(
        detections.logits, run.backend.to_device(labels), run.backend.to_device(weights)
    )
    terms += (LossTerm("rtd", rtd_sum, counts["rtd"], settings.discriminator_weight),)
    if settings.adversarial == "reinforce" and model.generator is not None and guesses is not None:
        more, policy = reinforce(
            run, model.generator, settings, guesses, samples.corrupted, read, detections.logits,
            counts,
        )  # fmt: skip
        terms += more
    output = Output(terms, masked, samples.corrupted, guesses, None, detections)
    return output, ElectraCache(generator, discriminator, head, rtd, policy, terms)


def backward(run: BackwardPass, model: Electra, counts: Counts, cache: ElectraCache) -> None:
    """Add to the gradients those of the total loss, its sums divided by ``counts``.

    Consumes the cache: the layers of both encoders are taken out of it.
    """
    scales = {term.name: gradient_scale(term, counts) for term in cache.terms}
    dlogits: Array | None = None  # of the generator, by other losses than its own
    if cache.discriminator is not None and cache.discriminator_head is not None:
        ddetection = run.backend.binary_cross_entropy_backward(scales["rtd"], cache.rtd)
        dhidden = detection_head_backward(
            run, model.discriminator, ddetection, cache.discriminator_head
        )
        dlogits = encode_backward(run, model.discriminator, dhidden, cache.discriminator)
    if model.generator is not None and cache.generator is not None:
        if dlogits is not None:
            dlogits = relaxation_logits_backward(model.settings, dlogits)
        if cache.reinforce is not None:
            dlogits = reinforce_backward(run, model.generator, counts, cache.reinforce)
        guess_backward(run, model.generator, scales["mlm"], cache.generator, dlogits)


def evaluate(run: ForwardPass, model: Electra, batch: Batch, stream: RandomStream) -> Output:
    """Run both networks, whichever learns; the discriminator reads plain samples."""
    plain = dataclasses.asdict(AdversarialConfig())
    settings = dataclasses.replace(model.settings, **plain)
    return forward(run, model._replace(settings=settings, learning="both"), batch, stream)[0]


def _detect(
    run: ForwardPass, network: Network, read: DiscriminatorInput, relaxation: Relaxation | None
) -> tuple[Detections, EncoderCache, DetectionHeadCache]:
    batch = on_device(run, read.batch, read.batch.input_ids)
    hidden, encoder = encode(run, network, batch, relaxation)
    logits, head = detection_head(run, network, hidden)
    return Detections(read, hidden, logits), encoder, head


def _rtd_weights(settings: ObjectiveConfig, read: DiscriminatorInput) -> Array:
    """Return which tokens (B, T') the RTD loss counts."""
    return read.is_masked if settings.objective == "electra-15" else read.batch.attention_mask


def _names(specs: Iterator[ParameterSpec]) -> Iterator[str]:
    return (spec.name for spec in specs)
