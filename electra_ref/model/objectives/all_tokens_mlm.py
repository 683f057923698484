"""All-Tokens MLM: a full-size encoder predicts every token, with a gate that copies its input.

    corrupted ids = original ids, the masked ones replaced by a generator's samples
    z             = detection head(encode(corrupted ids))    the gate, at every token
    log q         = vocabulary head(encode(corrupted ids))   of the original token, at every token
    p(x_t)        = s_t [x_t = corrupted_t] + (1 - s_t) q(x_t),      s = sigmoid(-z)

    L = w_G (sum of MLM losses) / (masked positions) - w (sum of log p) / (tokens)

The gate has the shape of ELECTRA's discriminator: a positive z says "replaced". So the figures of
detection are those of the gate. Where evaluation lets the encoder read [MASK], q alone guesses.
Source: Clark et al. 2020, arXiv:2003.10555, section 3.5.
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.backends import Cache
from electra_ref.batch import Batch, SpecialTokens
from electra_ref.config.model import ModelConfig
from electra_ref.config.objective import ObjectiveConfig
from electra_ref.masking import count_masked
from electra_ref.model.discriminator_input import replaced_rows
from electra_ref.model.encoder import EncoderCache, encode, encode_backward, encoder_specs
from electra_ref.model.generation import GuessesCache, guess_backward, on_device
from electra_ref.model.heads.detection import (
    DetectionHeadCache,
    detection_head,
    detection_head_backward,
    detection_head_specs,
)
from electra_ref.model.heads.vocabulary import (
    LogLikelihoodCache,
    log_likelihood_head,
    log_likelihood_head_backward,
    vocabulary_head_specs,
)
from electra_ref.model.losses import Counts, LossTerm, gradient_scale
from electra_ref.model.networks import Network, Networks, encoder_of, generator_of
from electra_ref.model.objectives.one_stage import begin_step, settings_at, unchanged
from electra_ref.model.objectives.output import Detections, Output
from electra_ref.model.objectives.recovery import replace_masked, with_guesses_behind_mask
from electra_ref.model.parameters import ParameterSpec, parameter_table
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.rng import RandomStream

__all__ = ["at_step", "backward", "begin_step", "count_losses", "evaluate", "forward", "model_of",
           "networks_of", "parameter_specs", "unchanged"]  # fmt: skip


class AllTokensMlm(NamedTuple):
    """What the functions below need to know besides the parameters."""

    generator: Network | None  # None: samples are uniform
    encoder: Network
    gate: Network  # the same encoder, under the name of the gate's head
    settings: ObjectiveConfig
    special_tokens: SpecialTokens


def model_of(
    config: ModelConfig, settings: ObjectiveConfig, special_tokens: SpecialTokens
) -> AllTokensMlm:
    """Return the networks that ``config`` describes, to be trained as ``settings`` say."""
    generator = None if settings.uniform_generator else generator_of(config)
    encoder = encoder_of(config)
    gate = encoder._replace(name="encoder.gate")
    return AllTokensMlm(generator, encoder, gate, settings, special_tokens)


def parameter_specs(model: AllTokensMlm) -> list[ParameterSpec]:
    """Return the table of the parameters of both networks and their heads."""
    networks = [n for n in (model.generator, model.encoder) if n is not None]
    heads = *map(vocabulary_head_specs, networks), detection_head_specs(model.gate)
    return parameter_table([*map(encoder_specs, networks), *heads])


def networks_of(model: AllTokensMlm) -> Networks:
    """Return the encoder with its gate, which detects, and as what guesses words."""
    return Networks(model.gate, model.encoder)


def at_step(model: AllTokensMlm, step: int) -> AllTokensMlm:
    """Return ``model`` with the sampling temperature of ``step``."""
    return model._replace(settings=settings_at(model.settings, step))


def count_losses(model: AllTokensMlm, batch: Batch) -> Counts:
    """Return how many positions of ``batch`` are to be guessed, and how many tokens it has."""
    masked = count_masked(batch, model.special_tokens, model.settings.mask_probability)
    return {"mlm": int(masked.sum()), "all_tokens": int(batch.attention_mask.sum())}


class AllTokensMlmCache(NamedTuple):
    """One cache for each part of the model, in the order they run, and the terms."""

    generator: GuessesCache | None
    encoder: EncoderCache
    gate: DetectionHeadCache
    head: LogLikelihoodCache
    loss: Cache
    terms: tuple[LossTerm, ...]


def forward(
    run: ForwardPass, model: AllTokensMlm, batch: Batch, stream: RandomStream
) -> tuple[Output, AllTokensMlmCache]:
    """Mask, generate, sample, corrupt, predict; ``stream`` names the masks and the samples."""
    to_device = run.backend.to_device
    counts = count_losses(model, batch)
    output, corrupted, generator = replace_masked(run, model, batch, counts, stream)
    encoder_input = on_device(run, batch, corrupted.corrupted_ids)
    hidden, encoder = encode(run, model.encoder, encoder_input)
    gate_logits, gate = detection_head(run, model.gate, hidden)
    labels = to_device(batch.input_ids.reshape(-1))
    log_likelihoods, head = log_likelihood_head(run, model.encoder, hidden, labels)
    is_copy, weights = ~corrupted.replaced.reshape(-1), batch.attention_mask.reshape(-1)
    loss_sum, loss = run.backend.copy_gate_cross_entropy(
        gate_logits, log_likelihoods, to_device(is_copy), to_device(weights)
    )
    count, weight = counts["all_tokens"], model.settings.encoder_weight
    terms = (*output.terms, LossTerm("all_tokens", loss_sum, count, weight))
    read = replaced_rows(corrupted, model.special_tokens)
    output = output._replace(terms=terms, detections=Detections(read, hidden, gate_logits))
    return output, AllTokensMlmCache(generator, encoder, gate, head, loss, terms)


def backward(
    run: BackwardPass, model: AllTokensMlm, counts: Counts, cache: AllTokensMlmCache
) -> None:
    """Add to the gradients those of the total loss, its sums divided by ``counts``.

    Consumes the cache: the layers of both encoders are taken out of it.
    """
    scales = {term.name: gradient_scale(term, counts) for term in cache.terms}
    dgate_logits, dlog_likelihoods = run.backend.copy_gate_cross_entropy_backward(
        scales["all_tokens"], cache.loss
    )
    dhidden = detection_head_backward(run, model.gate, dgate_logits, cache.gate)
    dhidden = dhidden + log_likelihood_head_backward(
        run, model.encoder, dlog_likelihoods, cache.head
    )
    encode_backward(run, model.encoder, dhidden, cache.encoder)
    if model.generator is not None and cache.generator is not None:
        guess_backward(run, model.generator, scales["mlm"], cache.generator)


def evaluate(run: ForwardPass, model: AllTokensMlm, batch: Batch, stream: RandomStream) -> Output:
    """Return the output of the forward pass, with the encoder's guesses behind [MASK] besides."""
    output, _ = forward(run, model, batch, stream)
    return with_guesses_behind_mask(run, model.encoder, batch, output)
