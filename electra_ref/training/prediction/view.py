"""Texts on a terminal: tokens marked below and coloured, wrapped to its width.

Colour alone tells nothing: what is coloured has a mark below it. What a text holds is made harmless
first (``terminal_text``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from electra_ref.terminal_text import cell, columns_of, visible
from electra_ref.training.prediction.examples import Example

RED, GREEN, _DIM, _PLAIN = "\33[31m", "\33[32m", "\33[2m", "\33[0m"
NARROWEST = 20  # columns; a narrower terminal wraps by itself


class Style(NamedTuple):
    """How wide the terminal is, whether it has colours, and which characters."""

    columns: int
    colour: bool
    encoding: str = "utf-8"  # characters that it lacks are written as escapes


class Cell(NamedTuple):
    """A token, or a part of one."""

    text: str
    mark: str  # one character, below each column of it; a space marks nothing
    colour: str
    follows: bool  # whether it stands behind the cell before it without a space


def shown_texts(example: Example) -> Iterator[list[tuple[int, str, bool]]]:
    """Yield the tokens of each text: place, spelling in the text, and whether it follows.

    Token ids are spelled as the vocabulary names them.
    """
    for number, text in enumerate(example.record.texts):
        shown = []
        before = 0  # where the token before ends
        for place, offset in enumerate(example.offsets):
            if offset is None or example.segments[place] != number:
                continue
            start, end = offset
            if isinstance(text, str):
                gap = text[before:start]
                shown.append((place, text[start:end], not gap or not any(map(str.isspace, gap))))
            else:
                shown.append((place, example.tokens[place], False))
            before = end
        yield shown


def wrapped(cells: Sequence[Cell], style: Style, indent: int = 0) -> Iterator[str]:
    """Yield the cells in lines; a line with marks has the marks below it.

    Lines end between words. A word that is longer than a line is broken. There is room left for an
    ``indent`` of so many columns.
    """
    width = max(style.columns, NARROWEST) - indent
    line: list[Cell] = []
    used = 0
    for word in _words(cells, width):
        taken = sum(_columns(one) for one in word)
        if line and used + 1 + taken > width:
            yield from _drawn(line, style)
            line, used = [], 0
        for one in word:
            columns = _columns(one) + (1 if line and not one.follows else 0)
            if line and used + columns > width:
                yield from _drawn(line, style)
                line, used, columns = [], 0, _columns(one)
            line.append(one)
            used += columns
    if line:
        yield from _drawn(line, style)


def dimmed(line: str, style: Style) -> Iterator[str]:
    """Yield a line of visible text that is less important, indented and wrapped."""
    cells = [Cell(word, " ", "", follows=False) for word in line.split(" ")]
    for part in wrapped(cells, style, indent=2):
        yield f"{_DIM}  {part}{_PLAIN}" if style.colour else f"  {part}"


def shown_words(words: Sequence[tuple[str, float]], most: int | None = None) -> str:
    """Return words with their probabilities, and how many more there are than ``most``."""
    shown = ", ".join(f"{visible(word)} {probability:.2f}" for word, probability in words[:most])
    return shown if most is None or len(words) <= most else f"{shown} and {len(words) - most} more"


def _words(cells: Sequence[Cell], width: int) -> Iterator[list[Cell]]:
    """Yield the cells word by word, those that are wider than a line in parts."""
    word: list[Cell] = []
    for one in cells:
        if word and not one.follows:
            yield word
            word = []
        word += _parts(one, width)
    if word:
        yield word


def _parts(one: Cell, width: int) -> Iterator[Cell]:
    text = visible(one.text)
    if columns_of(cell(text)) <= width:
        yield one._replace(text=cell(text))
        return
    follows = one.follows
    while text:
        size = len(text)
        while size > 1 and columns_of(cell(text[:size])) > width:
            size = min(size - 1, max(width, size // 2))
        yield one._replace(text=cell(text[:size]), follows=follows)
        text, follows = text[size:], True


def _columns(one: Cell) -> int:
    return columns_of(one.text)


def _drawn(line: Sequence[Cell], style: Style) -> Iterator[str]:
    """Yield a line, and the line of its marks if it has any."""
    texts, marks = [], []
    runs = groupby(enumerate(line), key=lambda pair: (pair[1].colour, pair[1].mark))
    for (colour, mark), run in runs:
        text = under = ""
        for number, one in run:
            gap = "" if number == 0 or one.follows else " "
            if not text:  # the space before a run is not coloured
                texts.append(gap)
                marks.append(gap)
                gap = ""
            text += gap + one.text
            under += gap + mark * _columns(one)
        painted = bool(colour) and style.colour
        texts.append(f"{colour}{text}{_PLAIN}" if painted else text)
        marks.append(f"{colour}{under}{_PLAIN}" if painted else under)
    yield "".join(texts)
    if any(one.mark != " " for one in line):
        yield "".join(marks).rstrip()
