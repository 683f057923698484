"""Questions with choices, from any of the files they come in.

    {"id": ..., "context": ..., "question": ..., "choices": [...], "label": 0}      an object a line

``context``, ``question`` and ``id`` may be missing; ``label`` is the number of the right choice,
counted from 0. Files of SWAG (CSV, or JSON with its keys) and of RACE are known by their columns
and keys.
"""

from __future__ import annotations

from collections.abc import Iterator

from electra_ref.errors import UserError
from electra_ref.training.finetuning.formats.choice_record import (
    ChoiceRecord,
    checked_choices,
    checked_label,
)
from electra_ref.training.finetuning.formats.delimited import Quoting
from electra_ref.training.finetuning.formats.json_lines import (
    JsonObject,
    id_of,
    json_objects,
    text_of,
    texts_of,
)
from electra_ref.training.finetuning.formats.race import ARTICLE, race_records
from electra_ref.training.finetuning.formats.swag import SENTENCE, swag_record, swag_table
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Use


def choice_records(
    file: InputFile, quoting: Quoting, use: Use, tally: Tally
) -> Iterator[ChoiceRecord]:
    """Yield the questions of ``file``.

    Raises UserError with file and line for what cannot be read, and for a file without a question
    that is to be learned from.
    """
    if file.ending in (".csv", ".tsv"):
        records = swag_table(file, quoting, use, tally)
    else:
        records = _of_json(file, use, tally)
    count = 0
    for count, record in enumerate(records, start=1):  # noqa: B007
        yield record
    if not count and use != "predict":
        raise UserError(f"{file.name} is empty: it has no question")


def _of_json(file: InputFile, use: Use, tally: Tally) -> Iterator[ChoiceRecord]:
    for found in json_objects(file, tally):
        if ARTICLE in found.values:
            yield from race_records(file, found, use)
        elif SENTENCE in found.values:
            yield swag_record(file, found, use)
        else:
            yield _question(file, found, use)


def _question(file: InputFile, found: JsonObject, use: Use) -> ChoiceRecord:
    line, values = found.line, found.values
    if "choices" not in values:
        raise file.error(
            line,
            f"no 'choices', nor 'article' as in RACE, nor 'sent1' as in SWAG; the keys are "
            f"{', '.join(values) or 'none'}",
        )
    if use != "predict" and "label" not in values:
        raise file.error(line, f"no 'label'; the keys are {', '.join(values)}")
    choices = checked_choices(file, line, texts_of(file, found, "choices"))
    return ChoiceRecord(
        text_of(file, found, "context") if values.get("context") is not None else "",
        text_of(file, found, "question") if values.get("question") is not None else "",
        choices,
        None if use == "predict" else checked_label(file, line, values["label"], len(choices)),
        id_of(file, found),
        file.place(line),
    )
