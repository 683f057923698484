"""The head that chooses one of the answers to a question. Each answer is a row with the question.

    z    = the logit of a classification head with one output      (B,)    a row
    Z    = z at the rows of each question, -1e9 where it has fewer choices      (Q, K)
    loss = sum over the questions of cross entropy(softmax(Z), the right choice)

The rows of a question stand one after the other. Questions may have different numbers of choices:
``rows`` tells where each choice stands, and B is the number of all choices.

The original form has the original's head for a row, dropout and an affine map; the original has no
such task, BERT has: Devlin et al. 2019, arXiv:1810.04805, section 4.4. The form layers has the
same for all tokens and layers. The huggingface form is that of transformers
models/electra/modeling_electra.py (``ElectraForMultipleChoice``, ``ElectraSequenceSummary``), which
drops nothing of what it reads:

    z = dropout(gelu(h W_1 + b_1)) W_2 + b_2                       (B,)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from electra_ref.arrays import Array, get_xp
from electra_ref.backends import Cache
from electra_ref.model.heads import classification
from electra_ref.model.heads.classification import LogitsCache, row_logits, row_logits_backward
from electra_ref.model.labelled import FineTuned, HeadOutput, LabelledBatch
from electra_ref.model.losses import Counts, LossTerm, gradient_scale
from electra_ref.model.parameters import ParameterSpec
from electra_ref.model.passes import BackwardPass, ForwardPass

NAME = "choice"  # of the loss
NO_CHOICE = -1e9  # its exponential, beside that of any choice, is 0


class ChoiceTargets(NamedTuple):
    """The choices of Q questions, K at most, and the right one of each."""

    rows: Array  # (Q, K)  the row of a choice, from 0 to B - 1; any where there is none
    is_choice: Array  # (Q, K)  False where a question has fewer choices
    labels: Array  # (Q,)  from 0 to K - 1
    weights: Array  # (Q,)  0 where the right choice is not known


def head_specs(model: FineTuned) -> Iterator[ParameterSpec]:
    """Yield the specs of the head."""
    return classification.head_specs(model)


def count_losses(model: FineTuned, batch: LabelledBatch) -> Counts:
    """Return how many questions have a known answer."""
    del model
    return {NAME: int(batch.targets.weights.sum())}


class ChoiceCache(NamedTuple):
    """One cache for each operation, in the order they run, and the term."""

    logits: LogitsCache
    gather: Cache
    loss: Cache
    term: LossTerm


def forward(
    run: ForwardPass, model: FineTuned, hidden: Array, batch: LabelledBatch
) -> tuple[HeadOutput, ChoiceCache]:
    """Return a logit (B,) for each row, and the loss."""
    targets = batch.targets
    logits, cache = _logits(run, model, hidden, batch)
    gathered, gather = run.backend.gather_positions(logits, targets.rows.reshape(1, -1))
    choices = gathered.reshape(targets.rows.shape)
    # no gradient comes back to where there is no choice: its probability is 0
    choices = get_xp(choices).where(targets.is_choice, choices, NO_CHOICE)
    loss, loss_cache = run.backend.softmax_cross_entropy(choices, targets.labels, targets.weights)
    term = LossTerm(NAME, loss, count_losses(model, batch)[NAME], model.head.loss_weight)
    return HeadOutput((term,), logits[:, 0]), ChoiceCache(cache, gather, loss_cache, term)


def backward(run: BackwardPass, model: FineTuned, counts: Counts, cache: ChoiceCache) -> Array:
    """Return dhidden (N, C); add to the gradients those of the head."""
    dchoices = run.backend.softmax_cross_entropy_backward(
        gradient_scale(cache.term, counts), cache.loss
    )
    dlogits = run.backend.gather_positions_backward(dchoices.reshape(-1, 1), cache.gather)
    return row_logits_backward(run, model, dlogits, cache.logits)


def answer(run: ForwardPass, model: FineTuned, hidden: Array, batch: LabelledBatch) -> Array:
    """Return a logit (B,) for each row."""
    return _logits(run, model, hidden, batch)[0][:, 0]


def _logits(
    run: ForwardPass, model: FineTuned, hidden: Array, batch: LabelledBatch
) -> tuple[Array, LogitsCache]:
    """Return a logit (B, 1) for each row."""
    dropout = 0.0 if model.head.form == "huggingface" else model.head.dropout
    return row_logits(run, model, hidden, batch, dropout)
