"""A file of labelled data, open: its name for messages, its lines, or all of its text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from electra_ref.errors import UserError
from electra_ref.training.prediction.counts import Counts
from electra_ref.training.prediction.source import (
    Reader,
    Source,
    open_source,
    read_blocks,
    read_source,
)


class InputFile(NamedTuple):
    """What a format reads."""

    name: str  # as messages call it
    ending: str  # of the name, in lower case, without that of the compression: ".tsv", or ""
    lines: Iterator[str]  # without their ends; read once
    blocks: Iterator[str]  # the same text in blocks, for formats that are no lines

    def place(self, line: int) -> str:
        """Return how messages name a line, counted from 1."""
        return f"{self.name}, line {line}"

    def error(self, line: int, message: str) -> UserError:
        """Return the error for what is wrong in a line, counted from 1."""
        return UserError(f"{self.place(line)}: {message}")


@contextmanager
def open_input(path: str, check: Callable[[], None], counts: Counts) -> Iterator[InputFile]:
    """Open ``path``, compressed or not, for the block. Raises UserError.

    ``check`` is called while it is read; it may raise to stop. ``counts`` counts invalid bytes. A
    file with many of them is refused. That goes before what else is wrong in the text.
    """
    with open_source(path, "jsonl") as source:  # all formats are text; the task knows which
        try:
            yield input_of(source, Reader(lambda: None, lambda _: None, check), counts)
        except UserError as error:
            _refuse_encoding(source, counts, error)
            raise
        _refuse_encoding(source, counts)


def _refuse_encoding(source: Source, counts: Counts, cause: UserError | None = None) -> None:
    if note := next(counts.encoding_notes(source.conversion()), None):
        raise UserError(f"{source.file.name}: {note}") from cause


def input_of(source: Source, reader: Reader, counts: Counts) -> InputFile:
    """Return ``source`` as a file of labelled data."""
    return InputFile(
        source.file.name,
        source.ending,
        read_source(source, reader, counts),
        read_blocks(source, reader, counts),
    )
