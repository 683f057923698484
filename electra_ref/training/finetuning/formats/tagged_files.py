"""Which format a file of tagged text has, by its name or by what the user says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Protocol

from electra_ref.training.finetuning.formats.conll import read_conll
from electra_ref.training.finetuning.formats.conllu import read_conllu
from electra_ref.training.finetuning.formats.propbank import read_propbank
from electra_ref.training.finetuning.formats.sentences import Columns, Sentence, sentence_of_text
from electra_ref.training.finetuning.formats.token_lines import read_columns, read_objects
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.prediction.records import looks_like_json

AUTO, TEXT = "auto", "text"
READ_AS_TEXT = "lines that look like JSON objects and were read as text; --set data_format=jsonl"


class Format(Protocol):
    """Reads the sentences of a file; their tags only if it is ``tagged``."""

    def __call__(
        self, file: InputFile, columns: Columns, *, tagged: bool, tally: Tally
    ) -> Iterator[Sentence]: ...


def read_text(
    file: InputFile, columns: Columns, *, tagged: bool, tally: Tally
) -> Iterator[Sentence]:
    """Yield a sentence for each line. Raises UserError if tags are wanted."""
    del columns
    if tagged:
        raise file.error(1, "lines of text have no tags: choose another data_format")
    for number, line in enumerate(file.lines, start=1):
        if looks_like_json(line):
            tally.add(READ_AS_TEXT, file.place(number))
        yield sentence_of_text(file.place(number), line)


FORMATS: Mapping[str, Format] = {
    "conll": read_conll,
    "conllu": read_conllu,
    "tsv": read_columns,
    "jsonl": read_objects,
    "props": read_propbank,
    TEXT: read_text,
}
_ENDINGS = {
    ".conll": "conll",
    ".iob": "conll",
    ".bio": "conll",
    ".conllu": "conllu",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".props": "props",
}


def read_sentences(
    file: InputFile, data_format: str, columns: Columns, *, tagged: bool, tally: Tally
) -> Iterator[Sentence]:
    """Yield the sentences of ``file``, in a format of FORMATS or AUTO.

    AUTO goes by the ending of the name. Where that says nothing, a file whose first line begins
    with a brace has JSON lines. Otherwise it has CoNLL columns if it is ``tagged``, else text.
    """
    if data_format == AUTO:
        data_format = _ENDINGS.get(file.ending, "")
    if not data_format:
        first = next(file.lines, None)
        if first is not None:
            file = file._replace(lines=chain([first], file.lines))
        is_json = first is not None and first.lstrip().startswith("{")
        data_format = "jsonl" if is_json else "conll" if tagged else TEXT
    return FORMATS[data_format](file, columns, tagged=tagged, tally=tally)
