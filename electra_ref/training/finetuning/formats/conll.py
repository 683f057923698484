"""Columns separated by spaces or tabs, a word a line; a blank line ends a sentence.

    EU      NNP  I-NP  I-ORG
    rejects VBZ  I-VP  O

Two settings say which column holds the word and which one the tag: the first and the last one, if
they say nothing. All lines have as many columns. Lines that begin with -DOCSTART- and, before a
sentence, lines that begin with # and have another number of columns are no words. Nor are, there,
"# newdoc" and "# newpar" of CoNLL-U.

Source: the shared tasks of CoNLL-2000, https://www.clips.uantwerpen.be/conll2000/chunking/, and of
CoNLL-2003, Tjong Kim Sang and De Meulder 2003, arXiv:cs/0306050.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from electra_ref.counting import counted
from electra_ref.training.finetuning.formats.sentences import Columns, Sentence, sentence_of
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.tally import Tally

_CELL = re.compile(r"[^ \t\r\f\v]+")  # other white space, such as U+00A0, is part of a word
DOCUMENT = "-DOCSTART-"
COMMENTS = (["#", "newdoc"], ["#", "newpar"])  # of CoNLL-U, which look like a word and its tag


def read_conll(
    file: InputFile, columns: Columns, *, tagged: bool, tally: Tally
) -> Iterator[Sentence]:
    """Yield the sentences of ``file``. Raises UserError, with its line, for what is no word.

    Without ``tagged`` only the words are read.
    """
    rows: list[list[str]] = []
    first_line, width = 0, 0
    for number, line in enumerate(file.lines, start=1):
        row = _CELL.findall(line)
        if not row:
            if rows:
                yield _sentence(file, first_line, rows, columns, tagged=tagged)
                rows = []
            continue
        if row[0] == DOCUMENT:
            tally.add(f"lines with {DOCUMENT}, passed over", file.place(number))
            continue
        is_comment = row[0].startswith("#") and (len(row) != (width or 2) or row in COMMENTS)
        if not rows and is_comment:
            tally.add("comments, passed over", file.place(number))
            continue
        if not width:
            width = len(row)
            _check_columns(file, number, width, columns, tagged=tagged)
        if len(row) != width:
            raise file.error(
                number,
                f"{counted(len(row), 'column')}, but the lines before have {width}: make them "
                "alike",
            )
        if not rows:
            first_line = number
        rows.append(row)
    if rows:
        yield _sentence(file, first_line, rows, columns, tagged=tagged)


def _sentence(
    file: InputFile, line: int, rows: list[list[str]], columns: Columns, *, tagged: bool
) -> Sentence:
    width = len(rows[0])
    word, tag = _place(columns.word_column, width), _place(columns.tag_column, width)
    return sentence_of(
        file.place(line),
        [row[word] for row in rows],
        [row[tag] for row in rows] if tagged else None,
    )


def _place(column: int, width: int) -> int:
    """Return the place in a row of ``width`` columns of one that is counted from 1."""
    return column - 1 if column > 0 else width + column


def _check_columns(
    file: InputFile, line: int, width: int, columns: Columns, *, tagged: bool
) -> None:
    """Raise UserError if a row of ``width`` columns has no word, or no tag beside it."""
    wanted = {"word_column": columns.word_column}
    if tagged:
        wanted["tag_column"] = columns.tag_column
    for name, column in wanted.items():
        if not 0 <= _place(column, width) < width:
            raise file.error(
                line, f"{name} = {column}, but the line has {counted(width, 'column')}"
            )
    if len({_place(column, width) for column in wanted.values()}) < len(wanted):
        raise file.error(
            line, f"word and tag are the same column of {width}: set word_column and tag_column"
        )
