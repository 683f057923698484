"""Regression: a number for a text or, most of all, for how alike two texts are.

Files and rows are those of classification; the label is a number between ``lowest_score`` and
``highest_score``. The model learns

    (score - lowest) / (highest - lowest)

and what it predicts is mapped back. It may then lie outside; a submission to GLUE is clipped.
Source: google-research/electra finetune/classification/classification_tasks.py
(``RegressionTask``, ``STS``), which divides by the highest score; its lowest one is 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from electra_ref.config.finetuning import FinetuningConfig, head_for_rows
from electra_ref.config.model import EncoderConfig
from electra_ref.config.settings import setting
from electra_ref.errors import UserError
from electra_ref.model.heads.regression import ScoreTargets
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.finetuning.formats.columns import SCORES
from electra_ref.training.finetuning.formats.glue import (
    GLUE_TASKS,
    SUBMISSION_HEADER,
    glue_recipe,
    submission_line,
)
from electra_ref.training.finetuning.formats.text_record import (
    TextRecord,
    with_id,
    with_swapped_pairs,
)
from electra_ref.training.finetuning.formats.texts import (
    TextFilesConfig,
    text_records,
    with_texts_per_example,
)
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.plain import labels_of, options
from electra_ref.training.finetuning.rows import text_row
from electra_ref.training.finetuning.scores.numbers import number_scores
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Answered, Feature, Labels, Output, Use

__all__ = [
    "OUTPUTS", "TABLE", "answers", "augmented", "features", "labels_of", "options", "outputs",
    "predict", "recipe", "records", "result", "scores", "settled", "targets",
]  # fmt: skip

DIGITS = 6  # of a score
_GLUE = tuple(name for name, task in GLUE_TASKS.items() if not task.labels)


@dataclasses.dataclass(frozen=True)
class RegressionConfig(FinetuningConfig, TextFilesConfig):
    """The settings of a regression."""

    glue: str = setting(
        "", f"the files are those of a task of GLUE: {', '.join(_GLUE)}", choices=("", *_GLUE)
    )
    lowest_score: float = setting(0.0, "the lowest score there is")
    highest_score: float = setting(1.0, "the highest score there is")

    def _misfits(self) -> Iterator[str]:
        if self.highest_score <= self.lowest_score:
            yield (
                f"highest_score = {self.highest_score:g} is not above lowest_score = "
                f"{self.lowest_score:g}"
            )


TABLE: type[FinetuningConfig] = RegressionConfig


def recipe(settings: Mapping[str, Any], model: EncoderConfig) -> Mapping[str, Any]:
    """Return the original's settings for STS-B, whose scores are from 0 to 5, and the head."""
    if settings.get("glue") not in _GLUE:
        return head_for_rows(model)
    return {**head_for_rows(model), **glue_recipe(settings["glue"]), "highest_score": 5.0}


def records(
    file: InputFile, settings: RegressionConfig, use: Use, labels: Labels | None, tally: Tally
) -> Iterator[TextRecord]:
    """Yield the texts of ``file``; the label is a number."""
    del labels
    for record in text_records(file, settings, use, tally, glue=settings.glue, label_names=SCORES):
        yield record if use == "predict" else record._replace(label=_score_of(record, settings))


def settled(records: Sequence[TextRecord], settings: RegressionConfig) -> RegressionConfig:
    """Return ``settings`` with how many texts an example has."""
    return with_texts_per_example(records, settings)


def augmented(records: list[TextRecord], settings: RegressionConfig) -> list[TextRecord]:
    """Return the records, with ``swap_pairs`` in both orders."""
    return with_swapped_pairs(records) if settings.swap_pairs else records


def outputs(settings: RegressionConfig, labels: Labels) -> int:
    """Return 1."""
    del settings, labels
    return 1


def features(
    number: int,
    record: TextRecord,
    tokenizer: WordPiece,
    settings: RegressionConfig,
    labels: Labels,
    tally: Tally,
) -> list[Feature]:
    """Return the one row of ``record``; its detail is the target, None where there is none."""
    del labels
    row = text_row(tokenizer, record.text, record.pair, settings.max_length, record.place, tally)
    target = None
    if record.label is not None:
        range_of_scores = settings.highest_score - settings.lowest_score
        target = (record.label - settings.lowest_score) / range_of_scores
    return [Feature(number, (row,), target)]


def targets(features: Sequence[Feature], length: int) -> ScoreTargets:
    """Return the targets of ``features``."""
    del length
    found = [feature.detail for feature in features]
    known = np.array([target is not None for target in found])
    return ScoreTargets(np.array([target or 0.0 for target in found], np.float32), known)


def answers(answers: npt.NDArray[Any], features: Sequence[Feature]) -> list[float]:
    """Return the prediction for each of ``features``, on the scale of the targets."""
    assert len(answers) == len(features)
    found: list[float] = answers.astype(np.float64).tolist()
    return found


def predict(
    record: TextRecord,
    features: Sequence[Feature],
    answers: Sequence[float],
    settings: RegressionConfig,
    labels: Labels,
) -> float:
    """Return the score, on the scale of the file."""
    del record, features, labels
    (answer,) = answers
    return settings.lowest_score + answer * (settings.highest_score - settings.lowest_score)


def scores(
    answered: Sequence[Answered], settings: RegressionConfig, labels: Labels
) -> dict[str, float]:
    """Return the scores of predictions for labelled records; Pearson's correlation is the first."""
    del settings, labels
    return number_scores(
        np.array([one.record.label for one in answered], np.float64),
        np.array([one.prediction for one in answered], np.float64),
    )


def result(
    record: TextRecord, prediction: float, settings: RegressionConfig, labels: Labels
) -> dict[str, Any]:
    """Return ``score``."""
    del settings, labels
    return with_id(record, {"score": round(prediction, DIGITS)})


def glue_lines(number: int, one: Answered, settings: RegressionConfig, labels: Labels) -> list[str]:
    """Return the line of a submission to GLUE; the score is clipped to the range there is."""
    del labels
    score = min(max(one.prediction, settings.lowest_score), settings.highest_score)
    return [submission_line(number, one.record, f"{score:.3f}")]


OUTPUTS: Mapping[str, Output] = {"glue": Output(glue_lines, [SUBMISSION_HEADER])}


def _score_of(record: TextRecord, settings: RegressionConfig) -> float:
    """Return the score of ``record``. Raises UserError if it is none, or out of the range."""
    try:
        score = math.nan if "_" in str(record.label) else float(record.label)  # not Python's 1_000
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f"{record.place}: the score {record.label!r} is no number")
    low, high = settings.lowest_score, settings.highest_score
    if not low <= score <= high:
        raise UserError(
            f"{record.place}: the score {score:g} is not between {low:g} and {high:g}; "
            "--set lowest_score=... and highest_score=... say what range there is"
        )
    return score
