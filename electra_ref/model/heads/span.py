"""The head that finds an answer in a text: where it starts, where it ends, whether it is there.

    loss = sum over the rows of (cross entropy(start, s) + cross entropy(end, e)) / 2
           + answerable_weight * binary cross entropy(impossible, is impossible)

original     start, end and impossible as in ``joint_span``; the end is given the start
huggingface  start, end = the two columns of h W + b, over all tokens; no logit for impossible

A question without an answer, and a window that does not show it, have s = e = 0, the place of
[CLS]; only the first kind counts as impossible. No form has dropout.

transformers also leaves padding among the places of its softmax. Here 1000 is taken from the logits
of padding, so that the loss of a row does not depend on the rows beside it.
Source: google-research/electra finetune/qa/qa_tasks.py (``get_prediction_module``); transformers
models/electra/modeling_electra.py (``ElectraForQuestionAnswering``) and
examples/pytorch/question-answering/run_qa.py (the targets).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from electra_ref.arrays import Array, get_xp
from electra_ref.backends import Cache
from electra_ref.batch import Batch
from electra_ref.model.heads.joint_span import (
    FORBIDDEN,
    Beam,
    JointLogits,
    best_spans,
    joint_logits,
    joint_logits_backward,
    joint_specs,
)
from electra_ref.model.labelled import HEAD, FineTuned, HeadOutput, LabelledBatch
from electra_ref.model.losses import Counts, LossTerm, gradient_scale
from electra_ref.model.parameters import ParameterSpec
from electra_ref.model.passes import BackwardPass, ForwardPass, linear_specs

OUTPUT = f"{HEAD}.output"  # of the form huggingface
START, END, ANSWERABLE = "start", "end", "answerable"  # of the losses


class SpanTargets(NamedTuple):
    """Where the answer of each row is."""

    starts: Array  # (B,)  position of its first token; 0 for none
    ends: Array  # (B,)  position of its last token
    impossible: Array  # (B,)  1 where the question has no answer
    weights: Array  # (B,)  0 where nothing is known


class SpanOptions(NamedTuple):
    """What shapes the original's head; the values are the original's."""

    answerable_weight: float = 0.5  # of the loss of whether there is an answer
    beam: int = 20  # starts that are followed, and ends of each
    width: int = 512  # units between the hidden states and the logits


class SpanLogits(NamedTuple):
    """What the form huggingface says."""

    starts: Array  # (B, T)
    ends: Array  # (B, T)


class SpanCache(NamedTuple):
    """The caches of the logits and of each loss, and the terms."""

    logits: Cache
    start: Cache
    end: Cache
    answerable: Cache  # None in the form huggingface
    terms: tuple[LossTerm, ...]


def head_specs(model: FineTuned) -> Iterator[ParameterSpec]:
    """Yield the specs of the head."""
    width = model.encoder.size.hidden_size
    if model.head.form == "huggingface":
        return linear_specs(OUTPUT, width, 2)
    return joint_specs(width, options_of(model).width)


def options_of(model: FineTuned) -> SpanOptions:
    """Return the options of the head, the original's where it has none."""
    return model.head.options or SpanOptions()


def count_losses(model: FineTuned, batch: LabelledBatch) -> Counts:
    """Return how many rows have a target, for each loss."""
    names = (START, END) if model.head.form == "huggingface" else (START, END, ANSWERABLE)
    return dict.fromkeys(names, int(batch.targets.weights.sum()))


def forward(
    run: ForwardPass, model: FineTuned, hidden: Array, batch: LabelledBatch
) -> tuple[HeadOutput, SpanCache]:
    """Return the logits and their losses; those of the end are given the true start."""
    targets, rows = batch.targets, int(batch.targets.weights.sum())
    logits: SpanLogits | JointLogits
    if model.head.form == "huggingface":
        logits, cache = span_logits(run, hidden, batch.tokens)
    else:
        logits, cache = joint_logits(run, hidden, batch.tokens, targets.starts)
    backend, weight = run.backend, model.head.loss_weight
    start, of_start = backend.softmax_cross_entropy(logits.starts, targets.starts, targets.weights)
    end, of_end = backend.softmax_cross_entropy(logits.ends, targets.ends, targets.weights)
    terms = [LossTerm(START, start, rows, weight / 2), LossTerm(END, end, rows, weight / 2)]
    of_answerable = None
    if isinstance(logits, JointLogits):
        loss, of_answerable = backend.binary_cross_entropy(
            logits.impossible, targets.impossible, targets.weights
        )
        share = options_of(model).answerable_weight
        terms.append(LossTerm(ANSWERABLE, loss, rows, weight * share))
    output = HeadOutput(tuple(terms), logits)
    return output, SpanCache(cache, of_start, of_end, of_answerable, output.terms)


def backward(run: BackwardPass, model: FineTuned, counts: Counts, cache: SpanCache) -> Array:
    """Return dhidden (N, C); add to the gradients those of the head."""
    scales = [gradient_scale(term, counts) for term in cache.terms]
    dstarts = run.backend.softmax_cross_entropy_backward(scales[0], cache.start)
    dends = run.backend.softmax_cross_entropy_backward(scales[1], cache.end)
    if model.head.form == "huggingface":
        return span_logits_backward(run, SpanLogits(dstarts, dends), cache.logits)
    dimpossible = run.backend.binary_cross_entropy_backward(scales[2], cache.answerable)
    return joint_logits_backward(run, JointLogits(dstarts, dends, dimpossible), cache.logits)


def answer(
    run: ForwardPass, model: FineTuned, hidden: Array, batch: LabelledBatch
) -> Beam | SpanLogits:
    """Return the best spans; in the form huggingface the logits (B, T) of starts and ends."""
    if model.head.form == "huggingface":
        return span_logits(run, hidden, batch.tokens)[0]
    return best_spans(run, hidden, batch.tokens, options_of(model).beam)


def span_logits(run: ForwardPass, hidden: Array, batch: Batch) -> tuple[SpanLogits, Cache]:
    """Return the logits of the form huggingface for ``hidden`` (N, C)."""
    mask = (batch.attention_mask.astype(hidden.real.dtype) - 1.0) * FORBIDDEN
    logits, cache = run.linear(OUTPUT, hidden)
    starts, ends = (logits[:, column].reshape(mask.shape) + mask for column in (0, 1))
    return SpanLogits(starts, ends), cache


def span_logits_backward(run: BackwardPass, dlogits: SpanLogits, cache: Cache) -> Array:
    """Return dhidden (N, C) for the gradients of both logits."""
    columns = [dlogits.starts.reshape(-1), dlogits.ends.reshape(-1)]
    return run.linear(OUTPUT, get_xp(dlogits.starts).stack(columns, axis=1), cache)
