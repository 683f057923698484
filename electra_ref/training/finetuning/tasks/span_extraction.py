"""Answers to questions as pieces of a context: SQuAD 1.1 and 2.0, and sets in their format.

    formats.squad -> span_windows -> heads.span -> span_decoding -> scores.squad

Whether a question may have no answer (``no_answer``) is found in the training data. If some have
none, the answer is "" where the null odds are above ``null_threshold``; otherwise it never is.
Source of the settings: google-research/electra configure_finetuning.py.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from electra_ref.config.finetuning import FinetuningConfig, idle_dropout, misfits_of_token_head
from electra_ref.config.model import EncoderConfig
from electra_ref.config.settings import count, setting
from electra_ref.model.heads.span import SpanOptions, SpanTargets
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.finetuning.formats.squad import Question, read_squad
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.plain import augmented, labels_of
from electra_ref.training.finetuning.scores.squad import Answer, squad_scores
from electra_ref.training.finetuning.span_decoding import (
    Candidate,
    DecodingLimits,
    Said,
    SpanPrediction,
    decode,
)
from electra_ref.training.finetuning.span_windows import Limits, windows_of
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Answered, Feature, Labels, Output, Use

__all__ = [
    "OUTPUTS", "TABLE", "answers", "augmented", "features", "labels_of", "options", "outputs",
    "predict", "recipe", "records", "result", "scores", "settled", "targets",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SpanConfig(FinetuningConfig):
    """A run that learns to find answers."""

    doc_stride: int = count(128, "tokens from one window of a context to the next")
    max_query_length: int = count(64, "tokens of a question at most")
    n_best: int = count(20, "answers that are kept for a question", resumed="free")
    max_answer_length: int = count(30, "tokens of an answer at most", resumed="free")
    beam_size: int = count(
        20, "starts of an answer that are followed, and ends of each; of the original's head"
    )
    answerable_weight: float = setting(
        0.5,
        "weight of the loss of whether there is an answer; of the original's head",
        at_least=0.0,
    )
    no_answer: bool = setting(
        False, "questions may have no answer; a new run finds it out from the training data"
    )
    null_threshold: float = setting(
        -2.75, "null odds above which there is no answer, with no_answer", resumed="free"
    )

    def _misfits(self) -> Iterator[str]:
        yield from misfits_of_token_head(self)

    def idle(self, chosen: Collection[str]) -> Iterator[str]:
        yield from idle_dropout(self, chosen)
        for key in ("beam_size", "answerable_weight") if self.head == "huggingface" else ():
            if key in chosen:
                yield (
                    f"{key} = {getattr(self, key):g} does nothing with head = 'huggingface': leave "
                    "it out, or choose head = 'original'"
                )


TABLE = SpanConfig


def recipe(settings: Mapping[str, Any], model: EncoderConfig) -> Mapping[str, Any]:
    """Return the original's settings; the threshold of the form huggingface is that of run_qa."""
    del model
    published = {"epochs": 2.0, "max_length": 512}
    if settings.get("head") == "huggingface":
        return {**published, "null_threshold": 0.0}
    return published


def records(
    file: InputFile, settings: SpanConfig, use: Use, labels: Labels | None, tally: Tally
) -> Iterator[Question]:
    """Yield the questions of ``file``."""
    del settings, labels
    return read_squad(file, use, tally)


def settled(records: Sequence[Question], settings: SpanConfig) -> SpanConfig:
    """Return ``settings`` with ``no_answer`` if some questions to learn from have none."""
    no_answer = settings.no_answer or any(record.impossible for record in records)
    return dataclasses.replace(settings, no_answer=no_answer)


def outputs(settings: SpanConfig, labels: Labels) -> int:
    """Return 2, for start and end."""
    del settings, labels
    return 2


def options(settings: SpanConfig) -> SpanOptions:
    """Return what shapes the head."""
    return SpanOptions(settings.answerable_weight, settings.beam_size)


def features(
    number: int,
    record: Question,
    tokenizer: WordPiece,
    settings: SpanConfig,
    labels: Labels,
    tally: Tally,
) -> list[Feature]:
    """Return the windows of the question ``number``."""
    del labels
    limits = Limits(settings.max_length, settings.max_query_length, settings.doc_stride)
    return windows_of(number, record, tokenizer, limits, tally)


def targets(features: Sequence[Feature], length: int) -> SpanTargets:
    """Return where the answers are."""
    del length
    windows = [feature.detail for feature in features]
    return SpanTargets(
        starts=np.array([window.answer[0] for window in windows], np.int32),
        ends=np.array([window.answer[1] for window in windows], np.int32),
        impossible=np.array([window.impossible for window in windows], np.int32),
        weights=np.array([window.is_labelled for window in windows], np.int32),
    )


def answers(answers: Said, features: Sequence[Feature]) -> list[Said]:
    """Return what the head said of each window."""
    make: Callable[..., Said] = type(answers)
    return [make(*(array[row] for array in answers)) for row in range(len(features))]


def predict(
    record: Question,
    features: Sequence[Feature],
    answers: Sequence[Said],
    settings: SpanConfig,
    labels: Labels,
) -> SpanPrediction:
    """Return the best answers."""
    del labels
    limits = DecodingLimits(settings.n_best, settings.max_answer_length)
    return decode(record.context, [feature.detail for feature in features], answers, limits)


def scores(answered: Sequence[Answered], settings: SpanConfig, labels: Labels) -> dict[str, float]:
    """Return the scores of SQuAD, exact match first."""
    del labels
    return squad_scores(
        (
            Answer(
                _best(one.prediction).text,
                one.prediction.null_odds if settings.no_answer else None,
                one.record.answers,
            )
            for one in answered
        ),
        settings.null_threshold,
    )


def result(
    record: Question, prediction: SpanPrediction, settings: SpanConfig, labels: Labels
) -> dict[str, Any]:
    """Return the answer, its place in the context, its score, and the best spans.

    Without an answer, the text is "", and place and score are null.
    """
    del labels
    given = _given(prediction, settings)
    is_there = given.text != ""
    return {
        "id": record.id,
        "answer": given.text,
        "start": given.start if is_there else None,
        "end": given.end if is_there else None,
        "score": given.score if is_there else None,
        "null_odds": prediction.null_odds,
        "best": _objects(prediction),
    }


def squad_lines(number: int, one: Answered, settings: SpanConfig, labels: Labels) -> list[str]:
    """Return a prediction of SQuAD: the answer by its id, "" where there is none."""
    del labels
    return [_pair(number, one, _given(one.prediction, settings).text)]


def null_odds_lines(number: int, one: Answered, settings: SpanConfig, labels: Labels) -> list[str]:
    """Return the null odds by the id, as the official script reads them."""
    del settings, labels
    return [_pair(number, one, one.prediction.null_odds)]


def best_lines(number: int, one: Answered, settings: SpanConfig, labels: Labels) -> list[str]:
    """Return the best spans by the id."""
    del settings, labels
    return [_pair(number, one, _objects(one.prediction))]


def _pair(number: int, one: Answered, value: Any) -> str:
    """Return a line of an object of JSON that has one for each id."""
    pair = json.dumps({one.record.id: value}, ensure_ascii=False)
    return f"{',' if number else ''}{pair[1:-1]}"


OUTPUTS: Mapping[str, Output] = {
    "squad": Output(squad_lines, ["{"], ["}"]),
    "squad-null-odds": Output(null_odds_lines, ["{"], ["}"]),
    "squad-nbest": Output(best_lines, ["{"], ["}"]),
}

_NOTHING = Candidate("", 0, 0, 0.0, 0.0)


def _best(prediction: SpanPrediction) -> Candidate:
    return prediction.candidates[0] if prediction.candidates else _NOTHING


def _given(prediction: SpanPrediction, settings: SpanConfig) -> Candidate:
    """Return the answer that is given: the best one, or nothing."""
    is_nothing = settings.no_answer and prediction.null_odds > settings.null_threshold
    return _NOTHING if is_nothing else _best(prediction)


def _objects(prediction: SpanPrediction) -> list[dict[str, Any]]:
    return [candidate._asdict() for candidate in prediction.candidates]
