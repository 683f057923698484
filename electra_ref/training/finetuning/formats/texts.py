"""Texts with labels, from any of the files they come in.

    delimited    TSV or CSV with a header
    jsonl        an object a line
    text         a text a line, without labels: to be answered
    GLUE         see ``glue``

What a file is follows from the ending of its name, and where that does not tell, from its first
line. A header of one column looks like a text, so only the ending .tsv or .csv tells it from one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import chain, combinations
from typing import TypeVar

from electra_ref.config.settings import Settings, setting
from electra_ref.errors import UserError
from electra_ref.text.decoding import replace_surrogates
from electra_ref.training.finetuning.formats.columns import (
    LABELS,
    PAIRS,
    TEXTS,
    Columns,
    Names,
    NoColumnError,
    completed,
    find_columns,
)
from electra_ref.training.finetuning.formats.delimited import QUOTINGS, delimiter_of, read_table
from electra_ref.training.finetuning.formats.glue import glue_records
from electra_ref.training.finetuning.formats.json_lines import (
    ENDINGS,
    JsonObject,
    id_of,
    json_objects,
    text_of,
)
from electra_ref.training.finetuning.formats.json_values import keys_of
from electra_ref.training.finetuning.formats.text_record import TextRecord
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Use
from electra_ref.training.prediction.records import kind_of, looks_like_json

READ_AS_TEXT = "lines that look like JSON objects and were read as text; --set file_format=jsonl"
COUNTS = ("auto", "one", "two")
SURPRISES = {  # by what the model learned from
    "one": "pairs of texts, although the model learned from single ones",
    "two": "single texts, although the model learned from pairs",
}
FILE_FORMATS = ("auto", "delimited", "jsonl", "text")


@dataclasses.dataclass(frozen=True)
class TextFilesConfig(Settings):
    """Where a file has its texts and its labels."""

    file_format: str = setting(
        "auto", "auto, delimited (TSV, CSV), jsonl, or text: one a line", choices=FILE_FORMATS
    )
    text_column: str = setting("", "column or key of the text; empty: guessed and reported")
    text_pair_column: str = setting("", "column or key of the second text; empty: guessed")
    label_column: str = setting("", "column or key of the label; empty: guessed and reported")
    quoting: str = setting(
        "auto", "whether fields of TSV or CSV are quoted: quoted, none, or auto", choices=QUOTINGS
    )
    swap_pairs: bool = setting(False, "train on the two texts of a pair in both orders")
    texts_per_example: str = setting(
        "auto", "one, two, or auto: a new run finds it out from the training data", choices=COUNTS
    )

    def _misfits(self) -> Iterator[str]:
        keys = ("text_column", "text_pair_column", "label_column")
        for key, other in combinations(keys, 2):
            if (name := getattr(self, key)) and name == getattr(self, other):
                yield f"{key} and {other} are both {name!r}: name two columns"


TextFiles = TypeVar("TextFiles", bound=TextFilesConfig)


def text_records(
    file: InputFile,
    settings: TextFilesConfig,
    use: Use,
    tally: Tally,
    *,
    glue: str = "",
    label_names: tuple[str, ...] = LABELS,
) -> Iterator[TextRecord]:
    """Yield the records of ``file``, of the task ``glue`` if one is named.

    Raises UserError with file and line for what cannot be read, and for a file without a record
    that is to be learned from.
    """
    first = next(file.lines, None) if file.ending != ".json" else "{"
    if first is None:
        if use == "predict":
            return
        raise UserError(f"{file.name} is empty")
    if file.ending != ".json":
        file = file._replace(lines=chain([first], file.lines))
    names = Names(settings.text_column, settings.text_pair_column, settings.label_column)
    form = format_of(first, file.ending, settings, use, glue)
    if form == "glue":
        records = glue_records(file, glue, use, tally)
    elif form == "jsonl":
        records = _of_json(file, names, label_names, use, tally)
    elif form == "text":
        records = _of_lines(file, tally)
    else:
        records = _of_table(file, settings.quoting, names, label_names, use, tally)
    count = 0
    for count, record in enumerate(records, start=1):  # noqa: B007
        if settings.texts_per_example not in ("auto", _texts_of(record)):
            tally.add(SURPRISES[settings.texts_per_example], record.place)
        yield record
    if not count and use != "predict":
        raise UserError(f"{file.name} has no rows to {'train on' if use == 'train' else 'score'}")


def with_texts_per_example(records: Sequence[TextRecord], settings: TextFiles) -> TextFiles:
    """Return ``settings`` with how many texts each of ``records`` has, if all have as many."""
    found = {_texts_of(record) for record in records}
    if settings.texts_per_example != "auto" or len(found) != 1:
        return settings
    return dataclasses.replace(settings, texts_per_example=found.pop())


def _texts_of(record: TextRecord) -> str:
    return "one" if record.pair is None else "two"


def format_of(first: str, ending: str, settings: TextFilesConfig, use: Use, glue: str) -> str:
    """Return the format of a file with the line ``first``: glue, or one of FILE_FORMATS."""
    if settings.file_format != "auto":
        return settings.file_format
    if ending in ENDINGS or first.lstrip().startswith("{"):
        return "jsonl"
    if glue:
        return "glue"
    if use != "predict" or ending in (".tsv", ".csv"):
        return "delimited"
    known = {*TEXTS, *chain.from_iterable(PAIRS), settings.text_column.casefold()} - {""}
    names = first.casefold().replace('"', "").split(delimiter_of(first, ending))
    is_header = len(names) > 1 and known & {name.strip() for name in names}
    return "delimited" if is_header else "text"


def _of_lines(file: InputFile, tally: Tally) -> Iterator[TextRecord]:
    for number, line in enumerate(file.lines, start=1):
        if looks_like_json(line):
            tally.add(READ_AS_TEXT, file.place(number))
        yield TextRecord(line, None, None, None, file.place(number))


def _of_table(
    file: InputFile,
    quoting: str,
    names: Names,
    label_names: tuple[str, ...],
    use: Use,
    tally: Tally,
) -> Iterator[TextRecord]:
    table = read_table(file, quoting, tally)  # type: ignore[arg-type]  # one of its choices
    without_header = (
        f"if the file has no header, put a line of names before line 1, with {table.between} "
        f"between them, such as {TEXTS[0]} and {label_names[0]}"
    )
    try:
        columns = _columns(table.columns, names, label_names, use)
    except NoColumnError as error:
        raise file.error(1, f"{error}; this line is the header: {without_header}") from error
    tally.note(f"{table.form}; {columns}")
    place = {name: number for number, name in reversed(list(enumerate(table.columns)))}
    same = 0  # labels that are as the header calls their column
    for line, fields in table.records:
        text, pair, label, identifier = (
            None if name is None else fields[place[name]] for name in columns
        )
        same += bool(names.label) and label is not None and label == columns.label
        yield TextRecord(text or "", pair, label, identifier, file.place(line))
    if same:
        tally.note(
            f"warning: {file.place(1)}, was read as the header and not as an example, yet "
            f"{names.label!r}, the name of a column there, is also the label of {same:,} "
            f"example{'s' * (same > 1)}; {without_header}"
        )


def _of_json(
    file: InputFile, names: Names, label_names: tuple[str, ...], use: Use, tally: Tally
) -> Iterator[TextRecord]:
    columns = None
    for found in json_objects(file, tally):
        if columns is None:
            try:
                columns = _columns(list(found.values), names, label_names, use)
            except NoColumnError as error:
                raise file.error(found.line, str(error)) from error
        there = [key for key, value in found.values.items() if value is not None]
        own = completed(columns, there, names)
        tally.note(str(own))
        yield _record_of(file, found, own)


def _record_of(file: InputFile, found: JsonObject, columns: Columns) -> TextRecord:
    has_pair = columns.pair is not None and found.values.get(columns.pair) is not None
    return TextRecord(
        text_of(file, found, columns.text),
        text_of(file, found, columns.pair) if columns.pair is not None and has_pair else None,
        None if columns.label is None else _label_of(file, found, columns.label),
        None if columns.id is None else id_of(file, found, columns.id),
        file.place(found.line),
    )


def _label_of(file: InputFile, found: JsonObject, key: str) -> str | tuple[str, ...] | None:
    """Return a label as a string, many as a tuple of these."""
    if key not in found.values:
        raise file.error(found.line, f"no {key!r}; {keys_of(found.values)}")
    value = found.values[key]
    if isinstance(value, list):
        return tuple(_one_label(file, found.line, key, label) for label in value)
    return None if value is None else _one_label(file, found.line, key, value)


def _one_label(file: InputFile, line: int, key: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return replace_surrogates(value)[0]
    if isinstance(value, (int, float)):
        return repr(value)
    raise file.error(line, f"{key!r} is {kind_of(value)}, and no label")


def _columns(there: list[str], names: Names, label_names: tuple[str, ...], use: Use) -> Columns:
    """Return the columns to read. Raises NoColumnError."""
    is_labelled = use != "predict"
    if not is_labelled and names.label not in there:
        names = names._replace(label="")
    columns = find_columns(there, names, label_names=label_names, needs_label=is_labelled)
    return columns if is_labelled else columns._replace(label=None)
