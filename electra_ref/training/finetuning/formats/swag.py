"""SWAG: the beginning of a sentence, and four ways to end it.

    sent1, sent2, ending0, ending1, ending2, ending3, label        among other columns or keys

``sent1`` is the sentence before, ``sent2`` the beginning that all endings share. The files are CSV
with a header; those of the test set have no label. The same keys in JSON are read as well.
Source: rowanz/swagaf data/README.md; huggingface/transformers
examples/multiple-choice/utils_multiple_choice.py (``SwagProcessor``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from electra_ref.training.finetuning.formats.choice_record import ChoiceRecord, checked_label
from electra_ref.training.finetuning.formats.delimited import Quoting, read_table
from electra_ref.training.finetuning.formats.json_lines import JsonObject, id_of
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Use

SENTENCE = "sent1"  # the key that tells SWAG from other formats
ENDINGS = ("ending0", "ending1", "ending2", "ending3")
_TEXTS = (SENTENCE, "sent2", *ENDINGS)
_IDS = ("fold-ind", "id")


def swag_table(file: InputFile, quoting: Quoting, use: Use, tally: Tally) -> Iterator[ChoiceRecord]:
    """Yield the records of a table of SWAG. Raises UserError with the line of what is wrong."""
    table = read_table(file, quoting, tally)
    _check(file, 1, dict.fromkeys(table.columns, ""), use)
    tally.note(f"{table.form}; those of SWAG")
    for line, fields in table.records:
        found = JsonObject(line, dict(zip(table.columns, fields, strict=True)))
        yield swag_record(file, found, use)


def swag_record(file: InputFile, found: JsonObject, use: Use) -> ChoiceRecord:
    """Return the record that was ``found``. Raises UserError for what is missing."""
    line, values = found
    _check(file, line, values, use)
    return ChoiceRecord(
        values[SENTENCE],
        values["sent2"],
        tuple(values[key] for key in ENDINGS),
        None if use == "predict" else checked_label(file, line, values["label"], len(ENDINGS)),
        id_of(file, found, next((key for key in _IDS if key in values), "id")),
        file.place(line),
    )


def _check(file: InputFile, line: int, values: Mapping[str, Any], use: Use) -> None:
    wanted = _TEXTS if use == "predict" else (*_TEXTS, "label")
    if missing := [key for key in wanted if key not in values]:
        raise file.error(
            line,
            f"SWAG has {', '.join(wanted)}; missing: {', '.join(missing)}; those there are "
            f"{', '.join(values)}",
        )
    if wrong := [key for key in _TEXTS if not isinstance(values[key], str)]:
        raise file.error(line, f"expected a string {wrong[0]!r}")
