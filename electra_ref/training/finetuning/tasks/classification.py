"""Classification of one text, or of two that are compared: one label a text, or any number.

    sentiment, topics, intents, acceptability, inference, paraphrases

Files: TSV, CSV, JSON lines, and those of GLUE by name (``formats.texts``). A text is a row
[CLS] text [SEP], a pair is [CLS] text [SEP] second text [SEP] (``rows``).

With ``multi_label`` a text has any number of labels, also none: in a table between
``label_separator``, in JSON an array. A label is predicted where its probability is above 0.5.

The first score, by which seeds are compared, is the one published for the task: accuracy; the
correlation of Matthews for CoLA; the micro F1 for any number of labels. GLUE also reports the F1
of MRPC and QQP.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.config.finetuning import FinetuningConfig, head_for_rows
from electra_ref.config.model import EncoderConfig
from electra_ref.config.settings import setting
from electra_ref.errors import UserError
from electra_ref.model.heads.classification import LabelSetTargets, LabelTargets
from electra_ref.model.heads.pooling import softmax
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.finetuning.formats.glue import (
    GLUE_TASKS,
    SUBMISSION_HEADER,
    glue_recipe,
    submission_line,
)
from electra_ref.training.finetuning.formats.text_record import (
    TextRecord,
    is_whole_number,
    with_id,
    with_swapped_pairs,
)
from electra_ref.training.finetuning.formats.texts import (
    TextFilesConfig,
    text_records,
    with_texts_per_example,
)
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.plain import options
from electra_ref.training.finetuning.rows import text_row
from electra_ref.training.finetuning.scores.labels import (
    accuracy,
    f1_of_positive,
    label_set_scores,
    macro_f1,
    matthews_correlation,
)
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Answered, Feature, Labels, Output, Use

__all__ = [
    "OUTPUTS", "TABLE", "answers", "augmented", "features", "labels_of", "options", "outputs",
    "predict", "recipe", "records", "result", "scores", "settled", "targets",
]  # fmt: skip

DIGITS = 6  # of a probability
LABELS_SHOWN = 20
_GLUE = tuple(name for name, task in GLUE_TASKS.items() if task.labels)


@dataclasses.dataclass(frozen=True)
class ClassificationConfig(FinetuningConfig, TextFilesConfig):
    """The settings of a classification."""

    glue: str = setting(
        "", f"the files are those of a task of GLUE: {', '.join(_GLUE)}", choices=("", *_GLUE)
    )
    multi_label: bool = setting(False, "a text has any number of labels")
    label_separator: str = setting(",", "what stands between labels, with multi_label")


TABLE: type[FinetuningConfig] = ClassificationConfig


class Prediction(NamedTuple):
    """What the model says of a text."""

    probabilities: npt.NDArray[np.float64]  # (K,)  they add up to 1 for one label a text
    labels: tuple[int, ...]  # the most probable one; or all above 0.5


class Detail(NamedTuple):
    """The target of a feature."""

    labels: tuple[int, ...]  # their numbers; one, but for multi_label
    is_known: bool
    outputs: int | None  # K with multi_label


def recipe(settings: Mapping[str, Any], model: EncoderConfig) -> Mapping[str, Any]:
    """Return the original's settings for a task of GLUE, and the head."""
    glue = glue_recipe(settings["glue"]) if settings.get("glue") in _GLUE else {}
    return {**head_for_rows(model), **glue}


def records(
    file: InputFile,
    settings: ClassificationConfig,
    use: Use,
    labels: Labels | None,
    tally: Tally,
) -> Iterator[TextRecord]:
    """Yield the texts of ``file``; a label is a string, or a tuple of these with multi_label."""
    known = labels
    if known is None and settings.glue:
        known = GLUE_TASKS[settings.glue].labels
    for record in text_records(file, settings, use, tally, glue=settings.glue):
        if use == "predict":
            yield record
            continue
        label = _label_of(record, settings)
        for one in label if isinstance(label, tuple) else (label,):
            if known is not None and one not in known:
                raise UserError(f"{record.place}: {_unknown(one, known, settings)}")
        yield record._replace(label=label)


def labels_of(records: Sequence[TextRecord], settings: ClassificationConfig) -> Labels:
    """Return the labels in GLUE's order; otherwise by number if all are numbers, or by name."""
    if settings.glue:
        return GLUE_TASKS[settings.glue].labels
    found: set[str] = set()
    for record in records:
        found.update(record.label if settings.multi_label else (record.label,))
    if len(found) < (1 if settings.multi_label else 2):
        only = f"only the label {next(iter(found))!r}" if found else "no label"
        raise UserError(f"the training data have {only}: there is nothing to learn")
    if all(is_whole_number(label) for label in found):
        return tuple(sorted(found, key=lambda label: (int(label), label)))
    return tuple(sorted(found))


def settled(records: Sequence[TextRecord], settings: ClassificationConfig) -> ClassificationConfig:
    """Return ``settings`` with how many texts an example has."""
    return with_texts_per_example(records, settings)


def augmented(records: list[TextRecord], settings: ClassificationConfig) -> list[TextRecord]:
    """Return the records, with ``swap_pairs`` in both orders."""
    return with_swapped_pairs(records) if settings.swap_pairs else records


def outputs(settings: ClassificationConfig, labels: Labels) -> int:
    """Return the number of labels."""
    del settings
    return len(labels)


def features(
    number: int,
    record: TextRecord,
    tokenizer: WordPiece,
    settings: ClassificationConfig,
    labels: Labels,
    tally: Tally,
) -> list[Feature]:
    """Return the one row of ``record``."""
    row = text_row(tokenizer, record.text, record.pair, settings.max_length, record.place, tally)
    chosen = record.label if settings.multi_label else (record.label,)
    numbers = () if record.label is None else tuple(map(labels.index, chosen))
    outputs = len(labels) if settings.multi_label else None
    return [Feature(number, (row,), Detail(numbers, record.label is not None, outputs))]


def targets(features: Sequence[Feature], length: int) -> LabelTargets | LabelSetTargets:
    """Return the labels of ``features``; as sets, where each has an array of them."""
    del length
    details: list[Detail] = [feature.detail for feature in features]
    known = np.array([detail.is_known for detail in details])
    if (outputs := details[0].outputs) is None:
        return LabelTargets(np.array([[*d.labels, 0][0] for d in details], np.int32), known)
    has_label = np.zeros((len(details), outputs), np.float32)
    for row, detail in zip(has_label, details, strict=True):
        row[list(detail.labels)] = 1.0
    return LabelSetTargets(has_label, known)


def answers(
    answers: npt.NDArray[Any], features: Sequence[Feature]
) -> list[npt.NDArray[np.float64]]:
    """Return the logits (K,) of each of ``features``."""
    assert len(answers) == len(features)
    return list(answers.astype(np.float64))


def predict(
    record: TextRecord,
    features: Sequence[Feature],
    answers: Sequence[npt.NDArray[np.float64]],
    settings: ClassificationConfig,
    labels: Labels,
) -> Prediction:
    """Return the probabilities, and which labels they say."""
    del record, features, labels
    (logits,) = answers
    if settings.multi_label:
        small = np.exp(-np.abs(logits))
        probabilities = np.where(logits > 0, 1.0, small) / (1.0 + small)
        return Prediction(probabilities, tuple(np.flatnonzero(logits > 0).tolist()))
    return Prediction(softmax(logits), (int(logits.argmax()),))


def scores(
    answered: Sequence[Answered], settings: ClassificationConfig, labels: Labels
) -> dict[str, float]:
    """Return the scores of predictions for labelled records."""
    if settings.multi_label:
        right_sets = np.stack([_has_label(one.record.label, labels) for one in answered])
        predicted_sets = np.zeros_like(right_sets)
        for row, one in zip(predicted_sets, answered, strict=True):
            row[list(one.prediction.labels)] = True
        return label_set_scores(right_sets, predicted_sets)
    right = np.array([labels.index(one.record.label) for one in answered])
    predicted = np.array([one.prediction.labels[0] for one in answered])
    if settings.glue == "cola":
        return {
            "matthews_correlation": matthews_correlation(right, predicted),
            "accuracy": accuracy(right, predicted),
        }
    if settings.glue in ("mrpc", "qqp"):
        return {"accuracy": accuracy(right, predicted), "f1": f1_of_positive(right, predicted)}
    return {"accuracy": accuracy(right, predicted), "macro_f1": macro_f1(right, predicted)}


def result(
    record: TextRecord, prediction: Prediction, settings: ClassificationConfig, labels: Labels
) -> dict[str, Any]:
    """Return ``label`` or ``labels``, and the probability of each label there is."""
    chosen = [labels[number] for number in prediction.labels]
    probabilities = np.round(prediction.probabilities, DIGITS).tolist()
    said: dict[str, Any] = {"labels": chosen} if settings.multi_label else {"label": chosen[0]}
    said["probabilities"] = dict(zip(labels, probabilities, strict=True))
    return with_id(record, said)


def glue_lines(
    number: int, one: Answered, settings: ClassificationConfig, labels: Labels
) -> list[str]:
    """Return the line of a submission to GLUE. Raises UserError for any number of labels."""
    if settings.multi_label:
        raise UserError("a submission to GLUE has one label a text, but multi_label = true")
    return [submission_line(number, one.record, labels[one.prediction.labels[0]])]


OUTPUTS: Mapping[str, Output] = {"glue": Output(glue_lines, [SUBMISSION_HEADER])}


def _label_of(record: TextRecord, settings: ClassificationConfig) -> str | tuple[str, ...]:
    """Return the label of ``record``, a tuple with multi_label. Raises UserError without one."""
    label = record.label
    if settings.multi_label:
        parts = label if isinstance(label, tuple) else _split(label, settings.label_separator)
        return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if isinstance(label, tuple):
        raise UserError(f"{record.place}: an array of labels; --set multi_label=true reads these")
    if label is None or not label.strip():
        raise UserError(f"{record.place}: no label")
    return str(label.strip())


def _split(label: str | None, separator: str) -> list[str]:
    return [] if label is None else label.split(separator) if separator else label.split()


def _has_label(chosen: Sequence[str], labels: Labels) -> npt.NDArray[np.bool_]:
    """Return (K,) which of ``labels`` are among the ``chosen`` ones."""
    return np.array([label in chosen for label in labels])


def _unknown(label: str, known: Labels, settings: ClassificationConfig) -> str:
    shown = ", ".join(map(repr, known[:LABELS_SHOWN]))
    more = f" and {len(known) - LABELS_SHOWN:,} more" if len(known) > LABELS_SHOWN else ""
    where = GLUE_TASKS[settings.glue].name if settings.glue else "the training data"
    return f"the label {label!r} does not occur in {where}, which has {shown}{more}"
