"""CoNLL-U, the format of Universal Dependencies: ten columns separated by tabs.

    ID FORM LEMMA UPOS XPOS FEATS HEAD DEPREL DEPS MISC

A blank line ends a sentence, a line that begins with # is a comment. The words of a sentence are
numbered from 1. Two kinds of lines are no words and are passed over: 1-2, the text of several words
that are written together, and 1.1, a word that was left out of the text. A tag "_" is not known.

Source: https://universaldependencies.org/format.html
"""

from __future__ import annotations

from collections.abc import Iterator

import regex

from electra_ref.counting import counted
from electra_ref.training.finetuning.formats.sentences import (
    UNTAGGED,
    Columns,
    Sentence,
    sentence_of,
)
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.tally import Tally

FIELDS = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
UNKNOWN = "_"

_RANGE = regex.compile(r"([1-9][0-9]*)-([1-9][0-9]*)")
_EMPTY = regex.compile(r"([0-9]+)\.[1-9][0-9]*")


def read_conllu(
    file: InputFile, columns: Columns, *, tagged: bool, tally: Tally
) -> Iterator[Sentence]:
    """Yield the sentences of ``file``. Raises UserError, with its line, for what is no CoNLL-U.

    ``columns.word_key`` and ``tag_key`` are names of FIELDS: FORM and UPOS, if they are empty.
    Without ``tagged`` only the words are read.
    """
    word, tag = columns.word_key or "FORM", (columns.tag_key if tagged else "") or "UPOS"
    for key, field in (("word_key", word), ("tag_key", tag)):
        if field not in FIELDS:
            raise file.error(1, f"{key} = {field!r} is none of {', '.join(FIELDS)}")
    words: list[str] = []
    tags: list[str] = []
    first_line = 0
    for number, line in enumerate(file.lines, start=1):
        if not line.strip():
            if words:
                yield sentence_of(file.place(first_line), words, tags if tagged else None)
                words, tags = [], []
            continue
        if line.startswith("#"):
            continue
        fields = dict(zip(FIELDS, _fields(file, number, line), strict=True))
        if not _is_word(file, number, fields["ID"], len(words), tally):
            continue
        if not words:
            first_line = number
        words.append(fields[word])
        tags.append(UNTAGGED if fields[tag] == UNKNOWN else fields[tag])
        if tagged and fields[tag] == UNKNOWN:
            tally.add(f"words without {tag}, not learned", file.place(number))
    if words:
        yield sentence_of(file.place(first_line), words, tags if tagged else None)


def _fields(file: InputFile, number: int, line: str) -> list[str]:
    fields = line.split("\t")
    if len(fields) != len(FIELDS):
        raise file.error(
            number, f"{counted(len(fields), 'column')} separated by tabs: CoNLL-U has {len(FIELDS)}"
        )
    return fields


def _is_word(file: InputFile, number: int, name: str, words: int, tally: Tally) -> bool:
    """Return whether the line with ID ``name`` is a word; ``words`` stand before it."""
    if name == str(words + 1):
        return True
    if written := _RANGE.fullmatch(name):
        first, last = map(int, written.groups())
        if first == words + 1 and last > first:
            tally.add("lines for several words together, passed over", file.place(number))
            return False
    if (left_out := _EMPTY.fullmatch(name)) and int(left_out[1]) == words:
        tally.add("words left out of the text, passed over", file.place(number))
        return False
    raise file.error(number, f"ID {name!r} where {words + 1} is expected")
