"""The files of GLUE, each task with the quirks it is distributed with.

All are TSV, and quotation marks are characters like any other: MRPC, QQP and others have stray
ones. All have a header, but for CoLA's training and dev files, whose columns are source, label,
mark and sentence. Columns are found by their names; those of test files stand elsewhere.

    QQP      a few rows are broken by the end of a line; they are left out and counted
    MNLI     gold_label is the last of many; a row with "-" has none, is left out and counted
    MRPC     its test file may have labels; they are not read where answers are wanted

The order of the labels is the original's, so that the outputs of models agree.
Sources: google-research/electra finetune/classification/classification_tasks.py; huggingface/
transformers src/transformers/data/processors/glue.py (which names the columns by number);
nyu-mll/jiant (names of the files of a submission). Wang et al. 2018, arXiv:1804.07461.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from electra_ref.config.settings import Value
from electra_ref.errors import UserError
from electra_ref.training.finetuning.formats.text_record import TextRecord
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Labels, Use

BINARY = ("0", "1")
ENTAILMENT = ("entailment", "not_entailment")
NO_LABEL = "-"
SUBMISSION_HEADER = "index\tprediction"


class GlueTask(NamedTuple):
    """One task of GLUE."""

    name: str  # as GLUE writes it; NAME.tsv is its file of a submission
    text: str  # the name of a column
    pair: str | None
    label: str
    labels: Labels  # none: a score from 0 to 5
    epochs: float = 3.0  # the original's
    swap_pairs: bool = False  # as the original does: the two texts are alike


GLUE_TASKS: Mapping[str, GlueTask] = {
    "cola": GlueTask("CoLA", "sentence", None, "label", BINARY),
    "sst2": GlueTask("SST-2", "sentence", None, "label", BINARY),
    "mrpc": GlueTask("MRPC", "#1 String", "#2 String", "Quality", BINARY, swap_pairs=True),
    "stsb": GlueTask("STS-B", "sentence1", "sentence2", "score", (), 10.0, True),
    "qqp": GlueTask("QQP", "question1", "question2", "is_duplicate", BINARY),
    "mnli": GlueTask(
        "MNLI", "sentence1", "sentence2", "gold_label", ("contradiction", "entailment", "neutral")
    ),
    "qnli": GlueTask("QNLI", "question", "sentence", "label", ENTAILMENT),
    "rte": GlueTask("RTE", "sentence1", "sentence2", "label", ENTAILMENT, 10.0),
    "wnli": GlueTask("WNLI", "sentence1", "sentence2", "label", BINARY),
}
_COLA_COLUMNS = ["source", "label", "mark", "sentence"]
_COLA_TEST = ["index", "sentence"]
_IDS = ("index", "id")


def glue_recipe(task: str) -> dict[str, Value]:
    """Return the original's settings for ``task``; it has none for WNLI, which gets the usual ones.

    Source: google-research/electra configure_finetuning.py (epochs, batch, length) and
    finetune/classification/classification_tasks.py (``double_unordered``).
    """
    glue = GLUE_TASKS[task]
    recipe: dict[str, Value] = {"epochs": glue.epochs, "batch_size": 32, "max_length": 128}
    if glue.swap_pairs:
        recipe["swap_pairs"] = True
    return recipe


def submission_line(number: int, record: TextRecord, prediction: str) -> str:
    """Return what a file that GLUE accepts says of the record ``number``, counted from 0.

    The file begins with SUBMISSION_HEADER. Its name is CoLA.tsv, SST-2.tsv, MRPC.tsv, STS-B.tsv,
    QQP.tsv, MNLI-m.tsv, MNLI-mm.tsv, QNLI.tsv, RTE.tsv or WNLI.tsv; AX.tsv for the diagnostic set,
    which a model for MNLI answers. Raises UserError for an id that a table cannot hold.
    """
    name = number if record.id is None else record.id
    if isinstance(name, (dict, list)) or set("\t\r\n") & set(str(name)):
        raise UserError(
            f"{record.place}: the id {name!r} cannot stand in a table: make it a number, or a "
            "string without tabs and ends of lines"
        )
    return f"{name}\t{prediction}"


def glue_records(file: InputFile, task: str, use: Use, tally: Tally) -> Iterator[TextRecord]:
    """Yield the records of a file of the GLUE ``task``. Raises UserError with its line."""
    glue = GLUE_TASKS[task]
    rows: Iterator[list[str]] = (line.split("\t") for line in file.lines)
    columns = next(rows, None)
    if columns is None:
        raise UserError(f"{file.name} is empty")
    first_line = 2
    if task == "cola" and columns != _COLA_TEST:
        rows, columns, first_line = chain([columns], rows), _COLA_COLUMNS, 1
    places = _places(file, glue, columns, needs_label=use != "predict")
    for line, row in enumerate(rows, start=first_line):
        if len(row) != len(columns):
            if task == "qqp":
                tally.add("rows of QQP with too few or too many columns left out", file.place(line))
                continue
            raise file.error(line, _misfit(task, line, len(row), len(columns)))
        label = None if places.label is None else row[places.label]
        if task == "mnli" and label == NO_LABEL:
            tally.add("rows of MNLI without a gold label left out", file.place(line))
            continue
        if label is not None and glue.labels and label not in glue.labels:
            raise file.error(line, _wrong_label(glue, line, label, first_line))
        yield TextRecord(
            text=row[places.text],
            pair=None if places.pair is None else row[places.pair],
            label=label,
            id=None if places.id is None else row[places.id],
            place=file.place(line),
        )


class _Places(NamedTuple):
    """Numbers of columns."""

    text: int
    pair: int | None
    label: int | None
    id: int | None


def _places(file: InputFile, glue: GlueTask, columns: list[str], *, needs_label: bool) -> _Places:
    wanted = [glue.text, *([glue.pair] if glue.pair else []), *([glue.label] * needs_label)]
    if missing := [name for name in wanted if name not in columns]:
        there = ", ".join(map(repr, columns[:20]))
        raise file.error(
            1,
            f"a file of {glue.name} begins with a header that has {', '.join(map(repr, wanted))}; "
            f"{', '.join(map(repr, missing))} {'is' if len(missing) == 1 else 'are'} not there, "
            f"but {there[:200]}",
        )
    identifier = next((columns.index(name) for name in _IDS if name in columns), None)
    return _Places(
        columns.index(glue.text),
        columns.index(glue.pair) if glue.pair else None,
        columns.index(glue.label) if needs_label else None,
        identifier,
    )


def _misfit(task: str, line: int, found: int, expected: int) -> str:
    message = f"{found} column{'s' * (found != 1)} instead of {expected}"
    if task == "cola" and line == 1:
        message += (
            "; training and dev files of CoLA have no header, and the columns source, label, mark, "
            "sentence; its test file begins with index and sentence"
        )
    return message


def _wrong_label(glue: GlueTask, line: int, label: str, first_line: int) -> str:
    message = f"the label {label!r} is none of {', '.join(glue.labels)}"
    if line == first_line == 1:
        message += "; training and dev files of CoLA have no header: delete this line if it is one"
    return message
