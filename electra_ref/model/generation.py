"""The generator's part of a step: it guesses masked tokens, and samples take their place.

    masked ids     = original ids, 15 % of them chosen; 85 % of those behind [MASK]
    logits         = head(encode(masked ids))                at the chosen positions
    samples        ~ softmax(logits / temperature)
    corrupted ids  = original ids, the chosen ones replaced by the samples

Other ways to draw samples: uniformly over the ordinary tokens (``uniform_generator``, there is no
generator; with ``exploration`` in a share of the slots only), never the original token
(``disallow_correct``), or by Gumbel-max of noise that a relaxation uses as well. A sample that
equals the original counts as original in all of them.
Source: Clark et al. 2020, arXiv:2003.10555, section 2 and figure 2; google-research/electra
configure_pretraining.py and pretrain/run_pretraining.py (``_get_fake_data``). Difference: the
original's uniform samples may be special tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Array
from electra_ref.backends import Cache
from electra_ref.batch import Batch, SpecialTokens
from electra_ref.config.objective import ObjectiveConfig
from electra_ref.gumbel import gumbel_noise, sample_with_noise
from electra_ref.masking import MaskedBatch
from electra_ref.model.encoder import EncoderCache, encode, encode_backward
from electra_ref.model.heads.vocabulary import (
    VocabularyHeadCache,
    vocabulary_head,
    vocabulary_head_backward,
)
from electra_ref.model.networks import Network
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.rng import RandomStream
from electra_ref.sampling import CorruptedBatch, corrupt, forbid, sample_tokens
from electra_ref.uniform_draws import draw_uniform, explore


class Guesses(NamedTuple):
    """What a network says of the masked positions."""

    hidden: Array  # (N, C)
    logits: Array  # (B M, V)
    loss: Array  # ()  summed over the masked positions


class GuessesCache(NamedTuple):
    """One cache for each part, in the order they run."""

    encoder: EncoderCache
    head: VocabularyHeadCache
    loss: Cache


def guess(
    run: ForwardPass, network: Network, batch: Batch, masked: MaskedBatch
) -> tuple[Guesses, GuessesCache]:
    """Let ``network`` read ``batch``, on the device, and guess the originals that are masked.

    The batch holds the masked ids, or what took their place.
    """
    to_device = run.backend.to_device
    hidden, encoder = encode(run, network, batch)
    logits, head = vocabulary_head(run, network, hidden, to_device(masked.positions))
    labels, weights = (to_device(x.reshape(-1)) for x in (masked.labels, masked.weights))
    loss, cross_entropy = run.backend.softmax_cross_entropy(logits, labels, weights)
    return Guesses(hidden, logits, loss), GuessesCache(encoder, head, cross_entropy)


def guess_masked(
    run: ForwardPass, network: Network, batch: Batch, masked: MaskedBatch
) -> tuple[Guesses, GuessesCache]:
    """Let ``network`` read the masked ids of ``batch``, on the host, and guess the originals."""
    return guess(run, network, on_device(run, batch, masked.masked_ids), masked)


def guess_backward(
    run: BackwardPass,
    network: Network,
    scale: float,
    cache: GuessesCache,
    dlogits_elsewhere: Array | None = None,
) -> None:
    """Add to the gradients those of ``scale`` times the loss.

    ``dlogits_elsewhere`` (B M, V) is the gradient of the logits by other losses; None is zero.
    Consumes the cache: the layers of the encoder are taken out of it.
    """
    dlogits = run.backend.softmax_cross_entropy_backward(scale, cache.loss)
    if dlogits_elsewhere is not None:
        dlogits = dlogits + dlogits_elsewhere
    dhidden = vocabulary_head_backward(run, network, dlogits, cache.head)
    encode_backward(run, network, dhidden, cache.encoder)


def on_device(run: ForwardPass, batch: Batch, input_ids: npt.NDArray[np.int32]) -> Batch:
    """Return ``batch`` with other ``input_ids`` (B, T), all on the device."""
    return Batch(*map(run.backend.to_device, batch._replace(input_ids=input_ids)))


class Samples(NamedTuple):
    """The corrupted rows, and the noise that they were drawn with, if any."""

    corrupted: CorruptedBatch
    noise: Array | None  # (B M, V)  on the device


def sample(
    run: ForwardPass,
    settings: ObjectiveConfig,
    special_tokens: SpecialTokens,
    masked: MaskedBatch,
    logits: Array | None,
    stream: RandomStream,
    vocab_size: int,
) -> Samples:
    """Draw a token for each slot of ``masked`` by ``logits`` (B M, V), and corrupt the rows.

    Without ``logits`` the tokens are uniform. ``stream`` names the random numbers.
    """
    slots = masked.positions.shape[1]
    originals = masked.labels.reshape(-1)
    excluded = originals if settings.disallow_correct else None
    ordinary = slots, vocab_size, special_tokens, excluded
    if logits is None:
        return Samples(corrupt(masked, draw_uniform(stream, originals.size, *ordinary)), None)
    logits = logits.real  # integers go out: no derivative passes
    if settings.adversarial == "gumbel-softmax":
        noise = gumbel_noise(stream, originals.size, slots, vocab_size, logits.dtype)
        noise = run.backend.to_device(noise)
        sampled_ids = sample_with_noise(logits, settings.temperature, noise)
        return Samples(corrupt(masked, sampled_ids), noise)
    if settings.disallow_correct:
        logits = forbid(logits, run.backend.to_device(originals))
    sampled_ids = sample_tokens(logits, settings.temperature, stream, slots)
    if settings.exploration:
        sampled_ids = explore(sampled_ids, settings.exploration, stream, *ordinary)
    return Samples(corrupt(masked, sampled_ids), None)
