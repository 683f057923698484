"""MLM: a full-size encoder guesses the masked tokens. BERT, with ELECTRA's masking.

    masked ids = original ids, 15 % of them chosen; 85 % of those behind [MASK]
    logits     = head(encode(masked ids))                    at the chosen positions
    L          = w (sum of MLM losses) / (chosen positions)

There is no generator and no next-sentence task. BERT's own masking (80 % [MASK], 10 % random, 10 %
as it is) is not used.
Source: Devlin et al. 2019, arXiv:1810.04805, section 3.1; google-research/electra
configure_pretraining.py (``electra_objective = False``).
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.batch import Batch, SpecialTokens
from electra_ref.config.model import ModelConfig
from electra_ref.config.objective import ObjectiveConfig
from electra_ref.masking import count_masked, mask_tokens
from electra_ref.model.encoder import encoder_specs
from electra_ref.model.generation import GuessesCache, guess_backward, guess_masked
from electra_ref.model.heads.vocabulary import vocabulary_head_specs
from electra_ref.model.losses import Counts, LossTerm, gradient_scale
from electra_ref.model.networks import Network, Networks, encoder_of
from electra_ref.model.objectives.one_stage import begin_step, unchanged
from electra_ref.model.objectives.output import Output
from electra_ref.model.parameters import ParameterSpec, parameter_table
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.rng import RandomStream

__all__ = ["at_step", "backward", "begin_step", "count_losses", "evaluate", "forward", "model_of",
           "networks_of", "parameter_specs", "unchanged"]  # fmt: skip


class Mlm(NamedTuple):
    """What the functions below need to know besides the parameters."""

    encoder: Network
    settings: ObjectiveConfig
    special_tokens: SpecialTokens


def model_of(config: ModelConfig, settings: ObjectiveConfig, special_tokens: SpecialTokens) -> Mlm:
    """Return the encoder that ``config`` describes, to be trained as ``settings`` say."""
    return Mlm(encoder_of(config), settings, special_tokens)


def parameter_specs(model: Mlm) -> list[ParameterSpec]:
    """Return the table of the parameters of the encoder and its head."""
    return parameter_table([encoder_specs(model.encoder), vocabulary_head_specs(model.encoder)])


def networks_of(model: Mlm) -> Networks:
    """Return the encoder, which guesses words."""
    return Networks(None, model.encoder)


def at_step(model: Mlm, step: int) -> Mlm:
    """Return ``model``: all steps are alike."""
    del step
    return model


def count_losses(model: Mlm, batch: Batch) -> Counts:
    """Return how many positions of ``batch`` are to be guessed."""
    masked = count_masked(batch, model.special_tokens, model.settings.mask_probability)
    return {"mlm": int(masked.sum())}


class MlmCache(NamedTuple):
    """The cache of the encoder with its head, and the term."""

    guesses: GuessesCache
    term: LossTerm


def forward(
    run: ForwardPass, model: Mlm, batch: Batch, stream: RandomStream
) -> tuple[Output, MlmCache]:
    """Mask and guess; ``stream`` names the masks."""
    settings = model.settings
    masked = mask_tokens(batch, model.special_tokens, settings.mask_probability, stream)
    guesses, cache = guess_masked(run, model.encoder, batch, masked)
    count = count_losses(model, batch)["mlm"]
    term = LossTerm("mlm", guesses.loss, count, settings.encoder_weight)
    return Output((term,), masked, guesses=guesses), MlmCache(cache, term)


def backward(run: BackwardPass, model: Mlm, counts: Counts, cache: MlmCache) -> None:
    """Add to the gradients those of the loss, its sum divided by ``counts``; consume the cache."""
    guess_backward(run, model.encoder, gradient_scale(cache.term, counts), cache.guesses)


def evaluate(run: ForwardPass, model: Mlm, batch: Batch, stream: RandomStream) -> Output:
    """Return the output of the forward pass."""
    return forward(run, model, batch, stream)[0]
