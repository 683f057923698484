"""What replace_mlm and all_tokens_mlm share: a generator replaces tokens, an encoder recovers them.

    corrupted ids = original ids, the masked ones replaced by a generator's samples

Both train the generator beside the encoder and differ in the encoder's loss. Evaluation also lets
the encoder read what the generator reads, [MASK] included, so that its guesses can be compared with
those of ``mlm``.
"""

from __future__ import annotations

from typing import Protocol

from electra_ref.batch import Batch, SpecialTokens
from electra_ref.config.objective import ObjectiveConfig
from electra_ref.masking import mask_tokens
from electra_ref.model.generation import GuessesCache, guess_masked, sample
from electra_ref.model.losses import Counts, LossTerm
from electra_ref.model.networks import Network
from electra_ref.model.objectives.output import Output
from electra_ref.model.passes import ForwardPass
from electra_ref.rng import RandomStream
from electra_ref.sampling import CorruptedBatch


class RecoveryModel(Protocol):
    """What the functions below read of a model."""

    @property
    def generator(self) -> Network | None: ...  # None: samples are uniform
    @property
    def encoder(self) -> Network: ...
    @property
    def settings(self) -> ObjectiveConfig: ...
    @property
    def special_tokens(self) -> SpecialTokens: ...


def replace_masked(
    run: ForwardPass, model: RecoveryModel, batch: Batch, counts: Counts, stream: RandomStream
) -> tuple[Output, CorruptedBatch, GuessesCache | None]:
    """Mask, generate, sample, corrupt; ``stream`` names the masks and the samples.

    Return the output so far, with the generator's loss, the corrupted rows, and the cache of the
    generator. There is neither loss nor cache if samples are uniform.
    """
    settings, special_tokens = model.settings, model.special_tokens
    masked = mask_tokens(batch, special_tokens, settings.mask_probability, stream)
    terms: tuple[LossTerm, ...] = ()
    guesses = cache = logits = None
    if model.generator is not None:
        guesses, cache = guess_masked(run, model.generator, batch, masked)
        logits = guesses.logits
        terms = (LossTerm("mlm", guesses.loss, counts["mlm"], settings.generator_weight),)
    vocab_size = model.encoder.config.vocab_size
    corrupted = sample(run, settings, special_tokens, masked, logits, stream, vocab_size).corrupted
    return Output(terms, masked, corrupted, guesses), corrupted, cache


def with_guesses_behind_mask(
    run: ForwardPass, encoder: Network, batch: Batch, output: Output
) -> Output:
    """Return ``output`` with what ``encoder`` guesses when it reads what the generator does."""
    guesses, _ = guess_masked(run, encoder, batch, output.masked)
    return output._replace(encoder_guesses=guesses)
