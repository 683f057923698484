"""Semantic roles of PropBank: a word a line, then a column of brackets for each predicate.

    1  We        PRP  -    -      (ARG1*)          index, word, part of speech,
    2  're       VBP  be   be.01  (V*)             lemma of a predicate, its roleset
    3  at        IN   -    -      (ARG2*
    4  the       DT   -    -      *
    5  corner    NN   -    -      *)

    We      -   (A1*)                              word, lemma of a predicate
    're     be  (V*)

Both are read; which one it is, the first line tells: the former has five columns and begins with 1.
White space separates the columns. The columns of brackets are in the order of the predicates. A
blank line ends a sentence, a line of comment begins with #. Each predicate gives a sentence of its
own, tagged by the roles of its column; a sentence without predicates gives none and is counted.

The second is the form of CoNLL-2005: its columns of words and of propositions, side by side. Its
columns of syntax must be cut away.
Source: Carreras and Marquez 2005, "Introduction to the CoNLL-2005 Shared Task", section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import regex

from electra_ref.counting import counted
from electra_ref.training.finetuning.formats.schemes import Span, tags_of
from electra_ref.training.finetuning.formats.sentences import Columns, Sentence, sentence_of
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.tally import Tally

NO_PREDICATE = "-"

_BRACKETS = regex.compile(r"(?:\((?<role>[^()*\s]+))?\*(?<end>(?<closed>[^()*\s]*)\))?")


class _Layout(NamedTuple):
    """Which column holds what."""

    has_index: bool
    word: int
    predicate: int
    roles: int  # the first one


_INDEXED = _Layout(True, 1, 3, 5)
_PLAIN = _Layout(False, 0, 1, 2)


class _Line(NamedTuple):
    number: int
    cells: list[str]


def read_propbank(
    file: InputFile, columns: Columns, *, tagged: bool, tally: Tally
) -> Iterator[Sentence]:
    """Yield a sentence for each predicate of ``file``.

    Raises UserError, with its line, for columns and brackets that do not fit. Without ``tagged``
    only words and predicates are read; the columns of roles may then be missing.
    """
    del columns
    layout: _Layout | None = None
    lines: list[_Line] = []
    for number, line in enumerate(file.lines, start=1):
        cells = line.split()
        if not lines and _is_comment(cells, layout):
            continue
        if cells:
            if layout is None:
                layout = _INDEXED if cells[0] == "1" and len(cells) >= _INDEXED.roles else _PLAIN
            _check_cells(file, number, cells, lines, layout)
            lines.append(_Line(number, cells))
        elif lines and layout:
            yield from _sentences(file, lines, layout, tagged=tagged, tally=tally)
            lines = []
    if lines and layout:
        yield from _sentences(file, lines, layout, tagged=tagged, tally=tally)


def _is_comment(cells: list[str], layout: _Layout | None) -> bool:
    """Return whether a line before a sentence is one; the word # has a hyphen behind it."""
    if not cells or not cells[0].startswith("#"):
        return False
    return layout is _INDEXED or len(cells) == 1 or cells[1] != NO_PREDICATE


def _check_cells(
    file: InputFile, number: int, cells: list[str], before: list[_Line], layout: _Layout
) -> None:
    """Raise UserError if a line does not fit to those before it in the sentence."""
    if len(cells) < layout.roles:
        raise file.error(
            number,
            f"{counted(len(cells), 'column')}: there should be {layout.roles}, then one a "
            "predicate",
        )
    if before and len(cells) != len(before[0].cells):
        raise file.error(
            number,
            f"{counted(len(cells), 'column')}, but the sentence begins with {len(before[0].cells)}",
        )
    if layout.has_index and cells[0] != str(len(before) + 1):
        raise file.error(number, f"index {cells[0]!r} where {len(before) + 1} is expected")


def _sentences(
    file: InputFile, lines: list[_Line], layout: _Layout, *, tagged: bool, tally: Tally
) -> Iterator[Sentence]:
    """Yield the sentence of ``lines`` once for each predicate."""
    place = file.place(lines[0].number)
    words = [line.cells[layout.word] for line in lines]
    found = [n for n, line in enumerate(lines) if line.cells[layout.predicate] != NO_PREDICATE]
    columns = len(lines[0].cells) - layout.roles
    if columns != len(found) and (tagged or columns):
        raise file.error(
            lines[0].number,
            f"the sentence has {counted(len(found), 'predicate')}, but "
            f"{counted(columns, 'column')} of roles",
        )
    if not found:
        tally.add("sentences without a predicate, left out", place)
    for number, predicate in enumerate(found):
        tags = None
        if tagged:
            cells = [(line.number, line.cells[layout.roles + number]) for line in lines]
            tags = tags_of(_spans_of_brackets(file, cells), len(words), "iob2")
        yield sentence_of(place, words, tags, predicate)


def _spans_of_brackets(file: InputFile, cells: list[tuple[int, str]]) -> list[Span]:
    """Return the roles of a column, whose cells have the numbers of their lines."""
    spans: list[Span] = []
    opened: tuple[int, int, str] | None = None  # line, word, role
    for place, (number, cell) in enumerate(cells):
        match = _BRACKETS.fullmatch(cell)
        if match is None:
            raise file.error(number, f"{cell!r} is no role: expected *, (ROLE*, *) or (ROLE*)")
        if (role := match["role"]) is not None:
            if opened is not None:
                raise file.error(
                    number, f"{cell!r} opens a role within {opened[2]!r} of line {opened[0]}"
                )
            opened = number, place, role
        if match["end"] is not None:
            if opened is None:
                raise file.error(number, f"{cell!r} closes a role that was not opened")
            if match["closed"] not in ("", opened[2]):
                raise file.error(
                    number, f"{cell!r} closes {opened[2]!r}, opened in line {opened[0]}"
                )
            spans.append(Span(opened[1], place + 1, opened[2]))
            opened = None
    if opened is not None:
        raise file.error(opened[0], f"the role {opened[2]!r} is not closed in its sentence")
    return spans
