"""Replace MLM: a full-size encoder guesses the originals behind a generator's samples.

    corrupted ids  = original ids, the masked ones replaced by a generator's samples
    encoder logits = head(encode(corrupted ids))             at the masked positions

    L = (w_G (sum of MLM losses) + w (sum of the encoder's losses)) / (masked positions)

The encoder never reads [MASK], and must find out which tokens it cannot trust.
Source: Clark et al. 2020, arXiv:2003.10555, section 3.5.
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.batch import Batch, SpecialTokens
from electra_ref.config.model import ModelConfig
from electra_ref.config.objective import ObjectiveConfig
from electra_ref.masking import count_masked
from electra_ref.model.encoder import encoder_specs
from electra_ref.model.generation import GuessesCache, guess, guess_backward, on_device
from electra_ref.model.heads.vocabulary import vocabulary_head_specs
from electra_ref.model.losses import Counts, LossTerm, gradient_scale
from electra_ref.model.networks import Network, Networks, encoder_of, generator_of
from electra_ref.model.objectives.one_stage import begin_step, settings_at, unchanged
from electra_ref.model.objectives.output import Output
from electra_ref.model.objectives.recovery import replace_masked, with_guesses_behind_mask
from electra_ref.model.parameters import ParameterSpec, parameter_table
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.rng import RandomStream

__all__ = ["at_step", "backward", "begin_step", "count_losses", "evaluate", "forward", "model_of",
           "networks_of", "parameter_specs", "unchanged"]  # fmt: skip


class ReplaceMlm(NamedTuple):
    """What the functions below need to know besides the parameters."""

    generator: Network | None  # None: samples are uniform
    encoder: Network
    settings: ObjectiveConfig
    special_tokens: SpecialTokens


def model_of(
    config: ModelConfig, settings: ObjectiveConfig, special_tokens: SpecialTokens
) -> ReplaceMlm:
    """Return the two networks that ``config`` describes, to be trained as ``settings`` say."""
    generator = None if settings.uniform_generator else generator_of(config)
    return ReplaceMlm(generator, encoder_of(config), settings, special_tokens)


def parameter_specs(model: ReplaceMlm) -> list[ParameterSpec]:
    """Return the table of the parameters of both networks and their heads."""
    networks = [n for n in (model.generator, model.encoder) if n is not None]
    return parameter_table([*map(encoder_specs, networks), *map(vocabulary_head_specs, networks)])


def networks_of(model: ReplaceMlm) -> Networks:
    """Return the encoder, which guesses words; the generator helped to train it."""
    return Networks(None, model.encoder)


def at_step(model: ReplaceMlm, step: int) -> ReplaceMlm:
    """Return ``model`` with the sampling temperature of ``step``."""
    return model._replace(settings=settings_at(model.settings, step))


def count_losses(model: ReplaceMlm, batch: Batch) -> Counts:
    """Return how many positions of ``batch`` each network is to guess."""
    masked = count_masked(batch, model.special_tokens, model.settings.mask_probability)
    return {"mlm": int(masked.sum()), "replace_mlm": int(masked.sum())}


class ReplaceMlmCache(NamedTuple):
    """One cache for each network, in the order they run, and the terms."""

    generator: GuessesCache | None
    encoder: GuessesCache
    terms: tuple[LossTerm, ...]


def forward(
    run: ForwardPass, model: ReplaceMlm, batch: Batch, stream: RandomStream
) -> tuple[Output, ReplaceMlmCache]:
    """Mask, generate, sample, corrupt, guess; ``stream`` names the masks and the samples."""
    counts = count_losses(model, batch)
    output, corrupted, generator = replace_masked(run, model, batch, counts, stream)
    encoder_input = on_device(run, batch, corrupted.corrupted_ids)
    recovered, encoder = guess(run, model.encoder, encoder_input, output.masked)
    count, weight = counts["replace_mlm"], model.settings.encoder_weight
    terms = (*output.terms, LossTerm("replace_mlm", recovered.loss, count, weight))
    return output._replace(terms=terms), ReplaceMlmCache(generator, encoder, terms)


def backward(run: BackwardPass, model: ReplaceMlm, counts: Counts, cache: ReplaceMlmCache) -> None:
    """Add to the gradients those of the total loss, its sums divided by ``counts``.

    Consumes the cache: the layers of both encoders are taken out of it.
    """
    scales = {term.name: gradient_scale(term, counts) for term in cache.terms}
    guess_backward(run, model.encoder, scales["replace_mlm"], cache.encoder)
    if model.generator is not None and cache.generator is not None:
        guess_backward(run, model.generator, scales["mlm"], cache.generator)


def evaluate(run: ForwardPass, model: ReplaceMlm, batch: Batch, stream: RandomStream) -> Output:
    """Return the output of the forward pass, with the encoder's guesses behind [MASK] besides."""
    output, _ = forward(run, model, batch, stream)
    return with_guesses_behind_mask(run, model.encoder, batch, output)
