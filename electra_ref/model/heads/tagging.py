"""The head that gives each word one of K tags, by what the encoder says of its first piece.

    h      = hidden at the first piece of each word                           (B M, C)
    logits = h W + b                                                          (B M, K)   original
    logits = dropout(h) W + b                                                 (B M, K)   huggingface
    loss   = sum over the words of cross entropy(softmax(logits), tag)

M is the number of words of the longest row. Slots without a word point at position 0 and have
weight 0, and so do words without a tag. The weight of the mean loss is ``loss_weight``. The
original sums over the words of a batch: its loss is that of a ``loss_weight`` of as many words.

Source: google-research/electra finetune/tagging/tagging_tasks.py (``get_prediction_module``);
transformers models/electra/modeling_electra.py (``ElectraForTokenClassification``), whose dropout
is of all tokens. Here it is of the words alone, the only ones that have a loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from electra_ref.arrays import Array
from electra_ref.backends import Cache
from electra_ref.model.labelled import HEAD, FineTuned, HeadOutput, LabelledBatch, head_site
from electra_ref.model.losses import Counts, LossTerm, gradient_scale
from electra_ref.model.parameters import ParameterSpec
from electra_ref.model.passes import BackwardPass, ForwardPass, linear_specs

NAME = "tagging"  # of the loss


class TagTargets(NamedTuple):
    """The words of each row, and their tags."""

    positions: Array  # (B, M)  column of the first piece; 0 in unused slots
    labels: Array  # (B, M)  from 0 to K - 1; 0 where there is none
    weights: Array  # (B, M)  0 where there is no label


def head_specs(model: FineTuned) -> Iterator[ParameterSpec]:
    """Yield the specs of the head."""
    initializer = "truncated_normal" if model.head.form == "huggingface" else "glorot_uniform"
    width, outputs = model.encoder.size.hidden_size, model.head.outputs
    yield from linear_specs(f"{HEAD}.output", width, outputs, initializer)


def count_losses(model: FineTuned, batch: LabelledBatch) -> Counts:
    """Return how many words have a tag."""
    del model
    return {NAME: int(batch.targets.weights.sum())}


class TaggingCache(NamedTuple):
    """One cache for each operation, in the order they run, and the term."""

    gather: Cache
    dropout: Cache
    output: Cache
    loss: Cache
    term: LossTerm


def forward(
    run: ForwardPass, model: FineTuned, hidden: Array, batch: LabelledBatch
) -> tuple[HeadOutput, TaggingCache]:
    """Return the logits (B M, K) and their loss."""
    targets: TagTargets = batch.targets
    h, gather = run.backend.gather_positions(hidden, targets.positions)
    h, dropout = _dropped(run, model, h, len(targets.positions))
    logits, output = run.linear(f"{HEAD}.output", h)
    labels, weights = targets.labels.reshape(-1), targets.weights.reshape(-1)
    loss, loss_cache = run.backend.softmax_cross_entropy(logits, labels, weights)
    term = LossTerm(NAME, loss, count_losses(model, batch)[NAME], model.head.loss_weight)
    return HeadOutput((term,), logits), TaggingCache(gather, dropout, output, loss_cache, term)


def backward(run: BackwardPass, model: FineTuned, counts: Counts, cache: TaggingCache) -> Array:
    """Return dhidden (N, C); add to the gradients those of the head."""
    del model
    dlogits = run.backend.softmax_cross_entropy_backward(
        gradient_scale(cache.term, counts), cache.loss
    )
    dh = run.linear(f"{HEAD}.output", dlogits, cache.output)
    dh = run.backend.dropout_backward(dh, cache.dropout)
    return run.backend.gather_positions_backward(dh, cache.gather)


def answer(run: ForwardPass, model: FineTuned, hidden: Array, batch: LabelledBatch) -> Array:
    """Return the logits (B M, K) at ``batch.targets.positions`` (B, M)."""
    del model
    h, _ = run.backend.gather_positions(hidden, batch.targets.positions)
    return run.linear(f"{HEAD}.output", h)[0]


def _dropped(run: ForwardPass, model: FineTuned, h: Array, examples: int) -> tuple[Array, Cache]:
    """Return dropout of ``h`` (B M, C) for ``examples`` B rows; the original has none."""
    rate = model.head.dropout if model.head.form == "huggingface" else 0.0
    count = h.size // examples
    bits = run.dropout_bits(model.encoder, head_site(model, 0), examples, count, rate)
    return run.backend.dropout(h, bits, rate)
