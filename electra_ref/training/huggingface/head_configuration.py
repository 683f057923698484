"""What ``config.json`` says of a task head: its class, its labels, its dropout.

    class                               problem_type                   kind of task here
    ElectraForSequenceClassification    single_label_classification    classification
                                        multi_label_classification     the same with label sets
                                        regression                     regression
    ElectraForTokenClassification                                      tagging
    ElectraForQuestionAnswering                                        span-extraction
    ElectraForMultipleChoice                                           multiple-choice

Where ``problem_type`` is missing, one output is a regression and several are classes, as in
transformers. It leaves out ``id2label`` where there are two outputs without names of their own.
Source: transformers models/electra/modeling_electra.py (``ElectraClassificationHead``,
``ElectraSequenceSummary``) and configuration_utils.py, versions 4.57 and 5.24.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.counting import counted
from electra_ref.errors import UserError
from electra_ref.model.labelled import Head
from electra_ref.training.huggingface.configuration import require_only, typed
from electra_ref.training.huggingface.names import TASK_CLASSES, TaskClass

NAMED = ("classification", "tagging")  # the heads whose outputs have names
_ONE_LABEL, _LABEL_SET = "single_label_classification", "multi_label_classification"
_NUMBER = "regression"
_PROBLEMS = (_ONE_LABEL, _LABEL_SET, _NUMBER)
_SEQUENCE = TASK_CLASSES["classification"].name
_NO_NAME = "LABEL_{}"  # what transformers calls outputs without names
_OUTPUTS = 2  # theirs, where config.json does not say
_SUMMARY = {  # keys of multiple choice, and the one value that is computed here
    "summary_type": "first",
    "summary_use_proj": True,
    "summary_activation": "gelu",
    "summary_proj_to_labels": False,
}
_LARGEST_RATE = 0.999


class TaskHead(NamedTuple):
    """What is known of a head of theirs."""

    kind: str  # of our heads
    labels: tuple[str, ...]  # () where the outputs have no names
    outputs: int
    dropout: float
    has_label_sets: bool  # whether a row may have several labels, or none
    notes: list[str]  # what the user should know


def class_of(found: Mapping[str, Any], names: Collection[str]) -> TaskClass | None:
    """Return the class that ``found``, or else the ``names`` of the tensors are of.

    None if it is none of a task.
    """
    classes = {each.name: each for each in TASK_CLASSES.values()}
    named = architecture(found)
    return classes.get(named) if named in classes else _class_by_tensors(names)


def read_head(
    file: Path, found: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> TaskHead:
    """Return the head that ``found``, the contents of ``file``, describes.

    ``shapes`` are those of the tensors. Raises UserError for what is no head of a task, and for
    what is not computed here, by name.
    """
    task_class = _agreed_class(file, found, shapes)
    most = max((shape[0] for shape in shapes.values() if shape), default=0)
    labels, notes = _labels(file, found, most)
    problem = _problem(file, found, len(labels)) if task_class.name == _SEQUENCE else None
    kind = _kind(task_class, problem)
    if kind == "multiple-choice":
        for key, only in _SUMMARY.items():
            require_only(file, found, key, only)
    if kind == "span-extraction" and len(labels) != _OUTPUTS:
        raise UserError(
            f"{file} has {len(labels)} labels, and {task_class.name} answers with a first and a "
            "last token: two outputs"
        )
    outputs = 1 if kind == "multiple-choice" else len(labels)
    dropout = _dropout(file, found, kind)
    if kind not in NAMED:
        labels, notes = (), []
    return TaskHead(kind, labels, outputs, dropout, problem == _LABEL_SET, notes)


def head_keys(head: Head, labels: Sequence[str], *, label_sets: bool) -> dict[str, Any]:
    """Return what ``config.json`` says of ``head``.

    ``labels`` are the names of its outputs, if they have names. ``label_sets`` tells whether a row
    may have several of them. The keys are complete, since versions of transformers differ in
    what they derive from what.
    """
    names = labels if head.kind in NAMED else [_NO_NAME.format(i) for i in range(head.outputs)]
    keys: dict[str, Any] = {
        "architectures": [TASK_CLASSES[head.kind].name],
        "classifier_dropout": head.dropout,
    }
    if head.kind == "multiple-choice":
        return {**keys, "summary_last_dropout": head.dropout}
    keys["id2label"] = {str(i): name for i, name in enumerate(names)}
    keys["label2id"] = {name: i for i, name in enumerate(names)}
    if head.kind == "regression":
        keys["problem_type"] = _NUMBER
    elif head.kind == "classification":
        keys["problem_type"] = _LABEL_SET if label_sets else _ONE_LABEL
    return keys


def architecture(found: Any) -> str | None:
    """Return the class that ``found``, the contents of a config.json, names first."""
    named = found.get("architectures")
    return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else None


def _class_by_tensors(names: Collection[str]) -> TaskClass | None:
    """Return the class of whose head most tensors are there; None if no head is complete."""
    complete = [
        each
        for each in TASK_CLASSES.values()
        if all(f"{stem}.weight" in names for stem in each.tensors.values())
    ]
    return max(complete, key=lambda each: len(each.tensors), default=None)


def _agreed_class(file: Path, found: Mapping[str, Any], names: Collection[str]) -> TaskClass:
    """Return the class. Raises UserError if file and tensors disagree, or if there is none."""
    task_class, named = class_of(found, names), architecture(found)
    known = ", ".join(dict.fromkeys(each.name for each in TASK_CLASSES.values()))
    if task_class is None:
        raise UserError(f"the model beside {file} has no head for a task; read are {known}")
    if named is not None and named != task_class.name:
        raise UserError(
            f"{file} names the class {named}, and the weights beside it are those of "
            f"{task_class.name}: if they are meant, write it to architectures there"
        )
    return task_class


def _problem(file: Path, found: Mapping[str, Any], outputs: int) -> str:
    """Return what the class for sequences is used for. Raises UserError."""
    problem = found.get("problem_type")
    if problem is None:
        return _NUMBER if outputs == 1 else _ONE_LABEL
    if problem not in _PROBLEMS:
        raise UserError(
            f"{file} has problem_type = {problem!r}, which is none of {', '.join(_PROBLEMS)}"
        )
    if (problem == _NUMBER and outputs != 1) or (problem == _ONE_LABEL and outputs == 1):
        raise UserError(
            f"{file} has problem_type = {problem!r} with {counted(outputs, 'label')}; computed "
            "here are one number for a regression, and two labels or more to choose from"
        )
    return str(problem)


def _kind(task_class: TaskClass, problem: str | None) -> str:
    """Return the kind of our head for the class, by ``problem`` where it has two."""
    if problem is not None:
        return "regression" if problem == _NUMBER else "classification"
    return next(kind for kind, each in TASK_CLASSES.items() if each is task_class)


def _labels(file: Path, found: Mapping[str, Any], most: int) -> tuple[tuple[str, ...], list[str]]:
    """Return the names of the outputs, and notes.

    Raises UserError, also for more than ``most``: a name is made for each, without a token.
    """
    by_id = found.get("id2label")
    count = found.get("num_labels")
    if by_id is None:
        count = _OUTPUTS if count is None else typed(file, "num_labels", count, int)
        if int(count) > most:
            raise UserError(
                f"{file} has num_labels = {count}, more than any tensor beside it has rows"
            )
        return tuple(_NO_NAME.format(i) for i in range(int(count))), []
    numbers = [str(i) for i in range(len(by_id))] if isinstance(by_id, dict) else []
    if not numbers or sorted(by_id) != sorted(numbers):
        raise UserError(f"{file} has an id2label that does not number its labels from 0")
    labels = tuple(by_id[number] for number in numbers)
    labels = tuple(str(label) if type(label) is int else label for label in labels)
    if not all(isinstance(label, str) for label in labels) or len(set(labels)) < len(labels):
        raise UserError(f"{file} has an id2label whose labels are not all different words")
    if count not in (None, len(labels)):
        raise UserError(
            f"{file} has num_labels = {count!r} and {counted(len(labels), 'label')} in id2label; "
            "versions of transformers read different models from it: remove the wrong one"
        )
    return labels, list(_label_notes(file, found, labels))


def _label_notes(file: Path, found: Mapping[str, Any], labels: Sequence[str]) -> Iterator[str]:
    by_label = found.get("label2id")
    numbers = {label: i for i, label in enumerate(labels)}
    if by_label is not None and by_label != numbers:
        yield f"{file} has a label2id that is not the reverse of its id2label, which is taken"


def _dropout(file: Path, found: Mapping[str, Any], kind: str) -> float:
    """Return the dropout of what the head reads. Raises UserError.

    Where ``classifier_dropout`` is missing, it is the encoder's. The class that answers questions
    has none, whatever the file says: the setting does nothing, and has its default.
    """
    if kind == "span-extraction":
        return FinetuningConfig.head_dropout
    key = "summary_last_dropout" if kind == "multiple-choice" else "classifier_dropout"
    value = found.get(key)
    if value is None and kind != "multiple-choice":
        key = "hidden_dropout_prob"
        value = found.get(key)
    rate = float(typed(file, key, 0.1 if value is None else value, float))
    if not 0.0 <= rate <= _LARGEST_RATE:
        raise UserError(f"{file} has {key} = {rate}, which is not in [0, {_LARGEST_RATE}]")
    return rate
