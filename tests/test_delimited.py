"""Tables of text: delimiters, quotation marks, blank and ragged lines."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from electra_ref.errors import UserError
from electra_ref.training.finetuning.formats import delimited
from electra_ref.training.finetuning.formats.delimited import Quoting, read_table
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.tally import Tally
from tests.finetuning_files import read, write


def table(
    folder: Path, name: str, text: str, quoting: Quoting = "auto"
) -> tuple[list[list[str]], str, Tally]:
    """Return header and records, what was found out, and the tally."""
    forms = []

    def records(file: InputFile, tally: Tally) -> Any:
        found = read_table(file, quoting, tally)
        forms.append(found.form)
        return chain([found.columns], (record.fields for record in found.records))

    rows, tally = read(write(folder, name, text), records)
    return rows, forms[0], tally


def test_a_table_of_tabs(tmp_path: Path) -> None:
    rows, form, tally = table(tmp_path, "a.tsv", 'a\tb\n1, x\t"y" z\n" \t"\n')
    assert rows == [["a", "b"], ["1, x", '"y" z'], ['" ', '"']]
    assert form == "columns between tabs, not quoted"
    assert tally.counts() == {}


def test_a_table_of_commas_is_quoted(tmp_path: Path) -> None:
    text = 'a,b\n"1, x","He said ""no"""\n"two\nlines",2\nx "y",3\n'
    rows, form, _ = table(tmp_path, "a.csv", text)
    expected = [["1, x", 'He said "no"'], ["two\nlines", "2"], ['x "y"', "3"]]
    assert rows == [["a", "b"], *expected]
    assert form == "columns between commas, quoted"


@pytest.mark.parametrize("name", ["a.tsv.gz", "a.tsv", "a.csv", "a", "a.txt"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_name_and_end_of_line(tmp_path: Path, name: str, end: str) -> None:
    rows, _, _ = table(tmp_path, name, f"\ufeffa\tb{end}1\t2{end}")
    assert rows == [["a", "b"], ["1", "2"]]


@pytest.mark.parametrize(("delimiter", "form"), [(";", "semicolons"), ("\t", "tabs")])
def test_a_csv_may_have_other_delimiters(tmp_path: Path, delimiter: str, form: str) -> None:
    rows, found, _ = table(tmp_path, "a.csv", f"a{delimiter}b\n1{delimiter}2\n")
    assert rows == [["a", "b"], ["1", "2"]]
    assert found.startswith(f"columns between {form}")


def test_a_header_of_the_delimiter_that_the_name_tells(tmp_path: Path) -> None:
    rows, _, _ = table(tmp_path, "a.tsv", "a,b\tc\n1,2\t3\n")
    assert rows == [["a,b", "c"], ["1,2", "3"]]
    rows, _, _ = table(tmp_path, "a.csv", "a\tb,c\n1\t2,3\n")
    assert rows == [["a\tb", "c"], ["1\t2", "3"]]


def test_one_column(tmp_path: Path) -> None:
    rows, form, tally = table(tmp_path, "a.tsv", " sentence \none, two\n\nthree\n")
    assert rows == [["sentence"], ["one, two"], ["three"]]
    assert form == "columns between tabs, not quoted"
    assert list(tally.lines()) == [
        f"1 blank line left out (the first: {tmp_path / 'a.tsv'}, line 3)"
    ]


STRAY = 'a\tb\n"Yes," he said\t1\n"No."\t0\nAn 8" pipe\t1\n'
QUOTED = {
    "header": '"a"\t"b"\n"x"\t"1"\n',
    "doubled marks": 'a\tb\n"He said ""x"" twice"\t1\n',
    "a tab in a field": 'a\tb\n"x\ty"\t1\n',
    "an end of line in a field": 'a\tb\n"x\ny"\t1\n',
}


def test_stray_marks_in_a_table_of_tabs_are_characters(tmp_path: Path) -> None:
    rows, form, _ = table(tmp_path, "a.tsv", STRAY)
    assert rows[1:] == [['"Yes," he said', "1"], ['"No."', "0"], ['An 8" pipe', "1"]]
    assert form.endswith("not quoted")


def test_a_whole_sentence_between_marks_is_no_proof(tmp_path: Path) -> None:
    rows, _, _ = table(tmp_path, "a.tsv", 'a\tb\n"No."\t0\n\nYes\t1\n')
    assert rows[1] == ['"No."', "0"]


@pytest.mark.parametrize("text", QUOTED.values(), ids=QUOTED)
def test_a_table_of_tabs_that_is_quoted(tmp_path: Path, text: str) -> None:
    rows, form, _ = table(tmp_path, "a.tsv", text)
    assert form == "columns between tabs, quoted"
    assert rows[0] == ["a", "b"]
    assert rows[1][0] in ("x", 'He said "x" twice', "x\ty", "x\ny")


def test_a_table_of_commas_that_is_not_quoted(tmp_path: Path) -> None:
    rows, form, _ = table(tmp_path, "a.csv", 'a,b\n"Yes" he said,1\n')
    assert rows[1] == ['"Yes" he said', "1"]
    assert form == "columns between commas, not quoted"


def test_the_setting_decides(tmp_path: Path) -> None:
    text = 'a\tb\n"No."\t0\n'
    assert table(tmp_path, "a.tsv", text, "quoted")[0][1] == ["No.", "0"]
    assert table(tmp_path, "a.tsv", QUOTED["header"], "none")[0][0] == ['"a"', '"b"']


def test_a_mark_that_the_head_leaves_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first lines are looked at; a record may go on after them."""
    monkeypatch.setattr(delimited, "HEAD_LINES", 3)
    rows, form, _ = table(tmp_path, "a.tsv", 'a\tb\n"x\ty"\t1\n"two\nlines"\t2\n')
    assert form.endswith("tabs, quoted")
    assert rows[1:] == [["x\ty", "1"], ["two\nlines", "2"]]


def test_a_mark_that_stays_open_for_long_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "HEAD_LINES", 200)
    text = "a\tb\n" + '"x\t1\n' + "y\t2\n" * 300
    rows, form, _ = table(tmp_path, "a.tsv", text)
    assert form.endswith("not quoted")
    assert rows[1] == ['"x', "1"]


LONG = 200_000  # more than csv takes at first


@pytest.fixture
def usual_limit() -> Iterator[None]:
    """Read with the limit that csv begins with, whatever was read before."""
    before = csv.field_size_limit(131_072)
    yield
    csv.field_size_limit(before)


@pytest.mark.usefixtures("usual_limit")
@pytest.mark.parametrize("quoting", ["auto", "quoted"])
@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_fields_may_be_as_long_as_lines(tmp_path: Path, name: str, quoting: Quoting) -> None:
    mark = "\t" if name == "a.tsv" else ","
    for field in ("x" * LONG, ("x" * 4999 + "\n") * 40):
        text = f'a{mark}b\n"{field}{mark}""y"""{mark}1\n'
        rows, form, _ = table(tmp_path, name, text, quoting)
        assert form.endswith(", quoted")
        assert rows[1] == [f'{field}{mark}"y"', "1"]
    assert table(tmp_path, "a.csv", f"a,b\n{'x' * LONG},1\n", quoting)[0][1] == ["x" * LONG, "1"]


@pytest.mark.usefixtures("usual_limit")
def test_a_mark_that_stays_open_for_too_long_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "LONGEST_LINE", 1000)
    message = error(tmp_path, "a.csv", 'a,b\n"x,1\n' + "y,2\n" * 1000, "quoted")
    assert message == (
        "/a.csv, line 2: a quotation mark is not closed within 1,000 characters; "
        "if the file has no quoted fields, --set quoting=none"
    )


def error(folder: Path, name: str, text: str, quoting: Quoting = "auto") -> str:
    with pytest.raises(UserError) as caught:
        table(folder, name, text, quoting)
    return str(caught.value).removeprefix(str(folder))


def test_a_line_with_another_number_of_columns(tmp_path: Path) -> None:
    assert error(tmp_path, "a.tsv", "a\tb\n1\t2\n1\t2\t3\n") == (
        "/a.tsv, line 3: 3 columns, but the header has 2"
    )
    assert error(tmp_path, "a.tsv", "a\tb\n1\n") == (
        "/a.tsv, line 2: 1 column, but the header has 2"
    )


def test_a_table_that_fits_neither_reading_is_read_as_its_name_tells(tmp_path: Path) -> None:
    assert error(tmp_path, "a.tsv", STRAY + "x\n") == (
        "/a.tsv, line 5: 1 column, but the header has 2"
    )
    message = error(tmp_path, "a.csv", 'a,b\n"Yes" he said,1\nx\n')
    assert message.startswith("/a.csv, line 2: a quotation mark does not stand where")


def test_lines_are_those_of_the_file_and_not_records(tmp_path: Path) -> None:
    text = 'a,b\n"two\nlines",1\n\nx,2,3\n'
    assert error(tmp_path, "a.csv", text).startswith("/a.csv, line 5: 3 columns")


def test_a_mark_that_is_never_closed_is_named_where_it_is_opened(tmp_path: Path) -> None:
    message = error(tmp_path, "a.csv", 'a,b\nx,1\n"y,2\nz,3\n', "quoted")
    assert message.startswith("/a.csv, line 3: a quotation mark")
    assert message.endswith("--set quoting=none")


def test_a_file_without_a_header(tmp_path: Path) -> None:
    assert error(tmp_path, "a.tsv", "") == "/a.tsv is empty"
    expected = "/a.tsv, line 1: expected a header with the names of the columns"
    assert error(tmp_path, "a.tsv", "\nx\ty\n") == expected
