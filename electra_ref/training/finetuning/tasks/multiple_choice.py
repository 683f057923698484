"""Multiple choice: which of the answers to a question is right.

    files       JSON lines {context, question, choices, label}; SWAG; RACE (``formats.choices``)
    rows        [CLS] context [SEP] question and choice [SEP]        a row for each choice
                [CLS] question [SEP] choice [SEP]                    without a context
                [CLS] choice [SEP]                                   with neither

A choice follows the question after a space, as SWAG's endings do. Where the question has a blank,
written _ , the choice stands there, as in RACE. A pair that is too long is cut as any other, mostly
the context: RACE needs ``max_length`` 512.

A question may have any number of choices. Its probability is a softmax over its own choices.
Sources: Devlin et al. 2019, arXiv:1810.04805, section 4.4 (a row for each choice; 3 epochs, batches
of 16 questions); huggingface/transformers examples/multiple-choice/utils_multiple_choice.py
(``convert_examples_to_features``), which replaces every _ , also inside a word. The original has no
such task.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.config.finetuning import FinetuningConfig, head_for_rows
from electra_ref.config.model import EncoderConfig
from electra_ref.config.settings import setting
from electra_ref.model.heads.choice import ChoiceTargets
from electra_ref.model.heads.pooling import softmax
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.finetuning.formats.choice_record import ChoiceRecord
from electra_ref.training.finetuning.formats.choices import choice_records
from electra_ref.training.finetuning.formats.delimited import QUOTINGS
from electra_ref.training.finetuning.formats.text_record import with_id
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.plain import augmented, labels_of, options, settled
from electra_ref.training.finetuning.rows import text_row
from electra_ref.training.finetuning.scores.labels import accuracy
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Answered, Feature, Labels, Output, Use

__all__ = [
    "OUTPUTS", "TABLE", "answers", "augmented", "features", "labels_of", "options", "outputs",
    "predict", "recipe", "records", "result", "scores", "settled", "targets",
]  # fmt: skip

DIGITS = 6  # of a probability
_BLANK = re.compile(r"(?<![^\W_])_+(?![^\W_])")  # no letter or digit beside it
OUTPUTS: Mapping[str, Output] = {}


@dataclasses.dataclass(frozen=True)
class MultipleChoiceConfig(FinetuningConfig):
    """The settings of a multiple choice."""

    quoting: str = setting(
        "auto", "whether fields of SWAG's CSV are quoted: quoted, none, or auto", choices=QUOTINGS
    )


TABLE: type[FinetuningConfig] = MultipleChoiceConfig


class Prediction(NamedTuple):
    """What the model says of a question."""

    probabilities: npt.NDArray[np.float64]  # (choices)
    choice: int


def recipe(settings: Mapping[str, Any], model: EncoderConfig) -> Mapping[str, Any]:
    """Return BERT's settings for SWAG, but for the learning rate, and the head."""
    del settings
    return {**head_for_rows(model), "epochs": 3.0, "batch_size": 16, "max_length": 128}


def records(
    file: InputFile, settings: MultipleChoiceConfig, use: Use, labels: Labels | None, tally: Tally
) -> Iterator[ChoiceRecord]:
    """Yield the questions of ``file``."""
    del labels
    return choice_records(file, settings.quoting, use, tally)  # type: ignore[arg-type]  # a choice


def outputs(settings: MultipleChoiceConfig, labels: Labels) -> int:
    """Return 1: a logit for each row."""
    del settings, labels
    return 1


def texts_of_choice(record: ChoiceRecord, choice: str) -> tuple[str, str | None]:
    """Return the two texts of the row of a ``choice``; the second is None where there is one."""
    context, question = record.context.strip(), record.question.strip()
    if _BLANK.search(question):
        whole = _BLANK.sub(lambda _: choice, question)
        return (context, whole) if context else (whole, None)
    if not context:
        return (question, choice) if question else (choice, None)
    return context, f"{question} {choice}" if question else choice


def features(
    number: int,
    record: ChoiceRecord,
    tokenizer: WordPiece,
    settings: MultipleChoiceConfig,
    labels: Labels,
    tally: Tally,
) -> list[Feature]:
    """Return the rows of ``record`` as one feature; its detail is the number of the right one."""
    del labels
    rows = tuple(
        text_row(
            tokenizer,
            *texts_of_choice(record, choice),
            settings.max_length,
            record.place,
            tally,
        )
        for choice in record.choices
    )
    return [Feature(number, rows, record.label)]


def targets(features: Sequence[Feature], length: int) -> ChoiceTargets:
    """Return where the rows of each question stand, one after the other, and which is right."""
    del length
    counts = np.array([len(feature.rows) for feature in features])
    starts = np.cumsum(counts) - counts
    places = np.arange(counts.max())
    is_choice = places < counts[:, None]
    rows = np.where(is_choice, starts[:, None] + places, 0)
    return ChoiceTargets(
        rows.astype(np.int32),
        is_choice,
        np.array([feature.detail or 0 for feature in features], np.int32),
        np.array([feature.detail is not None for feature in features]),
    )


def answers(
    answers: npt.NDArray[Any], features: Sequence[Feature]
) -> list[npt.NDArray[np.float64]]:
    """Return the logits (choices) of each of ``features``."""
    ends = np.cumsum([0, *(len(feature.rows) for feature in features)]).tolist()
    assert ends[-1] == len(answers)
    return [answers[start:end].astype(np.float64) for start, end in pairwise(ends)]


def predict(
    record: ChoiceRecord,
    features: Sequence[Feature],
    answers: Sequence[npt.NDArray[np.float64]],
    settings: MultipleChoiceConfig,
    labels: Labels,
) -> Prediction:
    """Return the probability of each choice, and the most probable one."""
    del record, features, settings, labels
    (logits,) = answers
    return Prediction(softmax(logits), int(logits.argmax()))


def scores(
    answered: Sequence[Answered], settings: MultipleChoiceConfig, labels: Labels
) -> dict[str, float]:
    """Return the accuracy of predictions for labelled records."""
    del settings, labels
    right = np.array([one.record.label for one in answered])
    return {"accuracy": accuracy(right, np.array([one.prediction.choice for one in answered]))}


def result(
    record: ChoiceRecord, prediction: Prediction, settings: MultipleChoiceConfig, labels: Labels
) -> dict[str, Any]:
    """Return the number of the ``choice``, its ``text``, and the probability of each."""
    del settings, labels
    return with_id(
        record,
        {
            "choice": prediction.choice,
            "text": record.choices[prediction.choice],
            "probabilities": np.round(prediction.probabilities, DIGITS).tolist(),
        },
    )
