"""From what the head says of the windows of a question to its best answers.

A span is dropped that leaves the context, starts at a token that another window answers, ends
before it starts, or is longer than ``max_answer_length`` tokens. The others of all windows are
sorted by the sum of the scores of start and end: log probabilities, or logits in the form
huggingface. Of spans with the same text the best stays. The probabilities of the best ``n_best``
are a softmax of their scores.

    null odds   original      the smallest logit for impossible among the windows
                huggingface   the smallest start[0] + end[0] among the windows - the best score

Source: google-research/electra finetune/qa/qa_metrics.py (``write_predictions``); transformers
examples/pytorch/question-answering/utils_qa.py. The original writes "empty" where it has no span at
all; here the text is empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.model.heads.joint_span import Beam
from electra_ref.model.heads.span import SpanLogits
from electra_ref.training.finetuning.span_windows import Window

Said = Beam | SpanLogits  # of one row
Floats = npt.NDArray[np.floating]
Places = npt.NDArray[np.integer]


class DecodingLimits(NamedTuple):
    """How many spans are looked at."""

    n_best: int
    longest: int  # tokens of an answer


class Candidate(NamedTuple):
    """A span of the context."""

    text: str
    start: int  # its first character
    end: int  # the character after its last
    score: float
    probability: float  # among the candidates


class SpanPrediction(NamedTuple):
    """The best answers to a question, and whether there is one."""

    candidates: tuple[Candidate, ...]  # the best first; their texts differ
    null_odds: float  # large where there is no answer


def decode(
    context: str, windows: Sequence[Window], said: Sequence[Said], limits: DecodingLimits
) -> SpanPrediction:
    """Return the best spans of ``context`` by what the head ``said`` of its ``windows``."""
    parts = [_spans(window, one, limits) for window, one in zip(windows, said, strict=True)]
    characters, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
    best: dict[str, tuple[int, int, float]] = {}
    for number in np.argsort(-scores, kind="stable"):
        if len(best) == limits.n_best:
            break
        start, end = characters[number].tolist()
        best.setdefault(context[start:end], (start, end, float(scores[number])))
    return SpanPrediction(tuple(_candidates(best)), _null_odds(said, best))


def _spans(
    window: Window, said: Said, limits: DecodingLimits
) -> tuple[npt.NDArray[np.int32], Floats]:
    """Return the characters (n, 2) and the scores (n,) of the spans of one window."""
    starts, ends, scores = _of_beam(said) if isinstance(said, Beam) else _of_logits(said, limits)
    starts, ends = starts - window.first, ends - window.first
    (first, end), size = window.owned, len(window.offsets)
    kept = (first <= starts) & (starts < end) & (starts <= ends) & (ends < size)
    kept &= ends - starts < limits.longest
    characters = np.stack([window.offsets[starts[kept], 0], window.offsets[ends[kept], 1]], axis=1)
    return characters, scores[kept]


def _of_beam(beam: Beam) -> tuple[Places, Places, Floats]:
    """Return the starts, the ends and the scores (K K,) of all pairs."""
    starts = np.broadcast_to(beam.starts[:, None], beam.ends.shape)
    scores = beam.start_scores[:, None] + beam.end_scores
    return starts.ravel(), beam.ends.ravel(), scores.ravel()


def _of_logits(logits: SpanLogits, limits: DecodingLimits) -> tuple[Places, Places, Floats]:
    """Return the same for the best starts with each of the best ends."""
    starts, ends = (np.argsort(-one, kind="stable")[: limits.n_best] for one in logits)
    scores = logits.starts[starts][:, None] + logits.ends[ends]
    return np.repeat(starts, ends.size), np.tile(ends, starts.size), scores.ravel()


def _candidates(best: dict[str, tuple[int, int, float]]) -> Iterator[Candidate]:
    scores = np.array([score for *_, score in best.values()])
    weights = np.exp(scores - scores.max(initial=-np.inf))
    probabilities = (weights / weights.sum()).tolist()
    for (text, (start, end, score)), probability in zip(best.items(), probabilities, strict=True):
        yield Candidate(text, start, end, score, probability)


def _null_odds(said: Sequence[Said], best: dict[str, tuple[int, int, float]]) -> float:
    odds = [
        float(one.impossible) if isinstance(one, Beam) else float(one.starts[0] + one.ends[0])
        for one in said
    ]
    if isinstance(said[0], Beam) or not best:
        return min(odds)
    *_, score = next(iter(best.values()))
    return min(odds) - score
