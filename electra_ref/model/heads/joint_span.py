"""The original's head for an answer's place: the end is chosen in view of the start.

    start[t]    = h[t] w + b                                                     (B, T)
    end[s, t]   = gelu(h[s] W_s + h[t] W_t + b) w + b                            (B, T)
    impossible  = gelu([h[0], sum over t of softmax(start)[t] h[t]] W + b) w + b (B,)

W_s over W_t is the one matrix of the concatenation [h[s], h[t]]; in this way h[t] W_t is computed
once for all starts. In training s is the true start. For an answer the best starts are followed,
and for each of them its best ends (a beam).

An answer lies in the second text or at [CLS], which stands for none; everywhere else 1000 is taken
from start and end. There is no dropout. h[0] is the hidden state of [CLS].
Source: google-research/electra finetune/qa/qa_tasks.py (``get_prediction_module``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from electra_ref.arrays import Array, get_xp
from electra_ref.backends import Cache
from electra_ref.batch import Batch
from electra_ref.gradient import GradientSum
from electra_ref.model.heads.pooling import softmax_pooling, softmax_pooling_backward
from electra_ref.model.labelled import HEAD
from electra_ref.model.parameters import ParameterSpec
from electra_ref.model.passes import BackwardPass, ForwardPass, linear_specs

START, END, ANSWERABLE = f"{HEAD}.start", f"{HEAD}.end", f"{HEAD}.answerable"
FORBIDDEN = 1000.0  # taken from a logit: its probability is 0 in float32 and in float64


class JointLogits(NamedTuple):
    """What the head says in training."""

    starts: Array  # (B, T)
    ends: Array  # (B, T)  given the true starts
    impossible: Array  # (B,)  positive: there is no answer


class Beam(NamedTuple):
    """The K best starts, and for each the K best ends, by their log probabilities."""

    starts: Array  # (B, K)  positions
    start_scores: Array  # (B, K)
    ends: Array  # (B, K, K)  positions
    end_scores: Array  # (B, K, K)  given the start
    impossible: Array  # (B,)  logits


class EndCache(NamedTuple):
    """The caches of the end, in the order they run."""

    tokens: Cache
    gather: Cache
    starts: Cache
    gelu: Cache
    output: Cache


class AnswerableCache(NamedTuple):
    """The caches of whether there is an answer, in the order they run."""

    gather: Cache
    pooling: Cache
    dense: Cache
    gelu: Cache
    output: Cache


class JointCache(NamedTuple):
    """The caches of the three parts."""

    start: Cache
    end: EndCache
    answerable: AnswerableCache


def joint_specs(width: int, inner: int) -> Iterator[ParameterSpec]:
    """Yield the specs over hidden states of ``width`` C, with ``inner`` W units in between."""
    glorot = "glorot_uniform"
    yield from linear_specs(START, width, 1, glorot)
    for part in (END, ANSWERABLE):
        yield from linear_specs(f"{part}.dense", 2 * width, inner, glorot)
        yield from linear_specs(f"{part}.output", inner, 1, glorot)


def joint_logits(
    run: ForwardPass, hidden: Array, batch: Batch, starts: Array
) -> tuple[JointLogits, JointCache]:
    """Return the logits of ``hidden`` (N, C) in view of the true ``starts`` (B,)."""
    mask = answer_mask(batch, hidden)
    start_logits, start = _start_logits(run, hidden, mask)
    tokens, tokens_cache = _token_part(run, hidden)
    begun, gather, starts_cache = _start_part(run, hidden, starts[:, None])
    end_logits, gelu, output = _end_logits(run, tokens, begun, mask)
    impossible, answerable = _impossible(run, hidden, start_logits)
    end = EndCache(tokens_cache, gather, starts_cache, gelu, output)
    logits = JointLogits(start_logits, end_logits, impossible)
    return logits, JointCache(start, end, answerable)


def joint_logits_backward(run: BackwardPass, dlogits: JointLogits, cache: JointCache) -> Array:
    """Return dhidden (N, C) for the gradients of the three logits."""
    dstarts, dhidden = _impossible_backward(run, dlogits.impossible, cache.answerable)
    dhidden = _end_backward(run, dlogits.ends, cache.end, dhidden)
    dstarts = dstarts + dlogits.starts
    return run.linear(START, dstarts.reshape(-1, 1), cache.start, dhidden)


def best_spans(run: ForwardPass, hidden: Array, batch: Batch, beam: int) -> Beam:
    """Return the ``beam`` best starts and their best ends; of equal ones the first.

    There are T of each at most. Memory is that of one start at a time.
    """
    mask = answer_mask(batch, hidden)
    start_logits, _ = _start_logits(run, hidden, mask)
    impossible, _ = _impossible(run, hidden, start_logits)
    starts, start_scores = _best(start_logits, beam)
    tokens, _ = _token_part(run, hidden)
    begun, *_ = _start_part(run, hidden, starts)
    begun = begun.reshape(*starts.shape, -1)
    found = [
        _best(_end_logits(run, tokens, begun[:, number], mask)[0], beam)
        for number in range(starts.shape[1])
    ]
    xp = get_xp(hidden)
    ends, end_scores = (xp.stack(part, axis=1) for part in zip(*found, strict=True))
    return Beam(starts, start_scores, ends, end_scores, impossible)


def answer_mask(batch: Batch, hidden: Array) -> Array:
    """Return what is added to the logits: 0 (B, T) where an answer may be, in the dtype's real."""
    may_be = batch.attention_mask & (batch.token_type_ids == 1)
    may_be[:, 0] = True
    mask: Array = (may_be.astype(hidden.real.dtype) - 1.0) * FORBIDDEN
    return mask


def _start_logits(run: ForwardPass, hidden: Array, mask: Array) -> tuple[Array, Cache]:
    logits, cache = run.linear(START, hidden)
    return logits.reshape(mask.shape) + mask, cache


def _token_part(run: ForwardPass, hidden: Array) -> tuple[Array, Cache]:
    """Return h W_t + b (N, W)."""
    weight, bias = run.parameters[f"{END}.dense.weight"], run.parameters[f"{END}.dense.bias"]
    return run.backend.linear(hidden, weight[hidden.shape[1] :], bias)


def _start_part(run: ForwardPass, hidden: Array, starts: Array) -> tuple[Array, Cache, Cache]:
    """Return h[s] W_s (B K, W) of the ``starts`` (B, K)."""
    weight, bias = run.parameters[f"{END}.dense.weight"], run.parameters[f"{END}.dense.bias"]
    h, gather = run.backend.gather_positions(hidden, starts)
    none = get_xp(bias).zeros_like(bias)  # the other part has the bias
    begun, cache = run.backend.linear(h, weight[: hidden.shape[1]], none)
    return begun, gather, cache


def _end_logits(
    run: ForwardPass, tokens: Array, begun: Array, mask: Array
) -> tuple[Array, Cache, Cache]:
    """Return the logits (B, T) of the end from the parts (N, W) and (B, W)."""
    width = tokens.shape[1]
    h = tokens.reshape(*mask.shape, width) + begun[:, None, :]
    h, gelu = run.backend.gelu(h.reshape(-1, width))
    logits, output = run.linear(f"{END}.output", h)
    return logits.reshape(mask.shape) + mask, gelu, output


def _end_backward(run: BackwardPass, dlogits: Array, cache: EndCache, dhidden: Array) -> Array:
    """Return dhidden (N, C) for ``dlogits`` (B, T), plus ``dhidden`` from elsewhere."""
    dh = run.linear(f"{END}.output", dlogits.reshape(-1, 1), cache.output)
    dtokens = run.backend.gelu_backward(dh, cache.gelu)
    dbegun = dtokens.reshape(*dlogits.shape, dtokens.shape[1]).sum(axis=1)
    dweight = run.gradients.sum_of(f"{END}.dense.weight")
    dbias = run.gradients.sum_of(f"{END}.dense.bias")
    of_starts, of_tokens = _halves(dweight)
    dh = run.backend.linear_backward(dbegun, cache.starts, of_starts, _nowhere(dbias))
    dh = run.backend.gather_positions_backward(dh, cache.gather)
    return run.backend.linear_backward(dtokens, cache.tokens, of_tokens, dbias, dhidden + dh)


def _halves(total: GradientSum) -> tuple[GradientSum, GradientSum]:
    """Return where the gradients of the upper and of the lower half of a matrix are summed."""
    half = total.array.shape[0] // 2
    return total._replace(array=total.array[:half]), total._replace(array=total.array[half:])


def _nowhere(like: GradientSum) -> GradientSum:
    """Return where the gradient of what is no parameter goes."""
    return GradientSum(get_xp(like.array).empty_like(like.array), is_empty=True)


def _impossible(
    run: ForwardPass, hidden: Array, start_logits: Array
) -> tuple[Array, AnswerableCache]:
    """Return the logits (B,) that there is no answer."""
    xp = get_xp(hidden)
    first, gather = run.backend.gather_positions(
        hidden, xp.zeros((start_logits.shape[0], 1), "int32")
    )
    pooled, pooling = softmax_pooling(start_logits, hidden)
    h, dense = run.linear(f"{ANSWERABLE}.dense", xp.concatenate([first, pooled], axis=1))
    h, gelu = run.backend.gelu(h)
    logits, output = run.linear(f"{ANSWERABLE}.output", h)
    return logits[:, 0], AnswerableCache(gather, pooling, dense, gelu, output)


def _impossible_backward(
    run: BackwardPass, dlogits: Array, cache: AnswerableCache
) -> tuple[Array, Array]:
    """Return dstart_logits (B, T) and dhidden (N, C) for ``dlogits`` (B,)."""
    dh = run.linear(f"{ANSWERABLE}.output", dlogits.reshape(-1, 1), cache.output)
    dh = run.backend.gelu_backward(dh, cache.gelu)
    dh = run.linear(f"{ANSWERABLE}.dense", dh, cache.dense)
    width = dh.shape[1] // 2
    dfirst = run.backend.gather_positions_backward(_part(dh, 0, width), cache.gather)
    dstarts, dhidden = softmax_pooling_backward(_part(dh, width, 2 * width), cache.pooling)
    return dstarts, dhidden + dfirst


def _part(rows: Array, start: int, end: int) -> Array:
    """Return some columns of ``rows`` in an array of their own, as kernels want them."""
    part: Array = get_xp(rows).ascontiguousarray(rows[:, start:end])
    return part


def _best(logits: Array, count: int) -> tuple[Array, Array]:
    """Return the positions and the log probabilities (B, count) of the largest ``logits``."""
    xp = get_xp(logits)
    shifted = logits - logits.max(axis=1, keepdims=True)
    scores = shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))
    order = xp.argsort(-scores, axis=1, kind="stable")[:, :count]
    places: Any = order.astype("int32")
    return places, xp.take_along_axis(scores, order, axis=1)
