"""Tables of text, TSV or CSV: a header with the names of the columns, then a record a line.

    plain     a line is cut at each delimiter; a quotation mark is a character like any other
    quoted    a field may stand between quotation marks; then it may hold delimiters and ends of
              lines, and a mark inside it is doubled (RFC 4180)

The delimiter is a tab or a comma, as the ending of the name says (.tsv, .csv). If the header has
none of these, or the name has another ending, it is the first of tab, comma and semicolon that the
header has. Whether fields are quoted is found out from the first ``HEAD_LINES`` lines, unless it is
said: where only one of the two readings fits the header, that one; where both fit, a CSV is quoted,
and a TSV if its header is or a mark in it is doubled.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Literal, NamedTuple

from electra_ref.errors import UserError
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.prediction.source import LONGEST_LINE

if TYPE_CHECKING:
    import _csv

Quoting = Literal["auto", "none", "quoted"]
QUOTINGS = ("auto", "none", "quoted")
HEAD_LINES = 1000
LONGEST_OPEN_RECORD = 100  # lines at the end of the head that a quotation mark may leave open
QUOTE = '"'

_DELIMITERS = {"\t": "tabs", ",": "commas", ";": "semicolons"}
_BY_ENDING = {".tsv": "\t", ".csv": ","}


class Fields(NamedTuple):
    """A record of a table."""

    line: int  # where it begins, counted from 1
    fields: list[str]


class Table(NamedTuple):
    """A table that is being read."""

    columns: list[str]
    records: Iterator[Fields]  # with as many fields as there are columns
    form: str  # what was found out, for people
    between: str  # what stands between columns, such as "tabs"


def read_table(file: InputFile, quoting: Quoting, tally: Tally) -> Table:
    """Return the table in ``file``. Raises UserError with the line of what does not fit.

    Blank lines are left out and counted in ``tally``.
    """
    head = list(islice(file.lines, HEAD_LINES))
    if not head or not head[0].strip():
        raise UserError(
            f"{file.name}, line 1: expected a header with the names of the columns"
            if head
            else f"{file.name} is empty"
        )
    delimiter = delimiter_of(head[0], file.ending)
    is_quoted = quoting == "quoted"
    if quoting == "auto":
        is_quoted = looks_quoted(head, delimiter, is_whole=len(head) < HEAD_LINES)
    lines = chain(head, file.lines)
    all_fields = quoted_fields(file, lines, delimiter) if is_quoted else plain(lines, delimiter)
    columns = [name.strip() for name in next(all_fields).fields]
    between = _DELIMITERS[delimiter]
    form = f"columns between {between}, {'' if is_quoted else 'not '}quoted"
    return Table(columns, _checked(file, all_fields, len(columns), tally), form, between)


def delimiter_of(header: str, ending: str) -> str:
    """Return what stands between the columns of a file with ``header`` and an ``ending``."""
    expected = _BY_ENDING.get(ending)
    found = [delimiter for delimiter in _DELIMITERS if delimiter in header]
    if expected in found or not found:
        return expected or "\t"
    return found[0]


def plain(lines: Iterable[str], delimiter: str) -> Iterator[Fields]:
    """Yield the fields of each line."""
    for number, line in enumerate(lines, start=1):
        yield Fields(number, line.split(delimiter))


def quoted_fields(file: InputFile, lines: Iterable[str], delimiter: str) -> Iterator[Fields]:
    """Yield the records of quoted ``lines``; none has fields if it is a blank line."""
    reader = _quoted(lines, delimiter)
    start = 1
    try:
        for fields in reader:
            yield Fields(start, fields)
            start = reader.line_num + 1
    except csv.Error as error:
        wrong = f"a quotation mark does not stand where a field begins or ends ({error})"
        if "field limit" in str(error):  # only a mark joins lines, and none of these is longer
            wrong = f"a quotation mark is not closed within {LONGEST_LINE:,} characters"
        advice = "if the file has no quoted fields, --set quoting=none"
        raise file.error(start, f"{wrong}; {advice}") from error


def looks_quoted(head: Sequence[str], delimiter: str, *, is_whole: bool) -> bool:
    """Return whether the first lines of a file, or all of them, are quoted."""
    fields = [field for line in head for field in line.split(delimiter)]
    if not any(field.startswith(QUOTE) for field in fields):
        return delimiter != "\t"
    fits_plain = _all_fit(len(one.fields) for one in plain(head, delimiter) if any(one.fields))
    if not _fits_quoted(head, delimiter, is_whole=is_whole):
        return delimiter != "\t" and not fits_plain  # then the error names the line
    if not fits_plain or delimiter != "\t":
        return True
    return head[0].startswith(QUOTE) or any(
        field.startswith(QUOTE) and QUOTE * 2 in field[1:-1] for field in fields
    )


def _fits_quoted(head: Sequence[str], delimiter: str, *, is_whole: bool) -> bool:
    reader = _quoted(head, delimiter)
    counts: list[int] = []
    start = 0
    try:
        for fields in reader:
            start = reader.line_num
            if fields:
                counts.append(len(fields))
    except csv.Error:
        is_cut = not is_whole and reader.line_num >= len(head)
        if not is_cut or start < len(head) - LONGEST_OPEN_RECORD:
            return False
    return _all_fit(iter(counts))


def _quoted(lines: Iterable[str], delimiter: str) -> _csv.Reader:
    csv.field_size_limit(LONGEST_LINE)  # of all readers: csv has no limit of one
    return csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, strict=True)


def _all_fit(counts: Iterator[int]) -> bool:
    expected = next(counts, 0)
    return all(count == expected for count in counts)


def _checked(
    file: InputFile, records: Iterator[Fields], columns: int, tally: Tally
) -> Iterator[Fields]:
    """Yield the records that are no blank lines. Raises UserError for what does not fit."""
    for record in records:
        if not any(field.strip() for field in record.fields) and len(record.fields) <= 1:
            tally.add("blank lines left out", file.place(record.line))
        elif len(record.fields) != columns:
            raise file.error(
                record.line,
                f"{len(record.fields)} column{'s' * (len(record.fields) != 1)}, "
                f"but the header has {columns}",
            )
        else:
            yield record
