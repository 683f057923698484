"""A sentence a line: columns with a header separated by tabs, or JSON objects.

    intent      tokens                    slots
    GetWeather  will it snow in mt        O O B-condition O B-state

    {"tokens": ["will", "it", "snow"], "tags": ["O", "O", "B-condition"]}

In columns a space separates words and tags. A JSON object may have ``predicate``, the number of the
word (from 0) whose semantic roles the tags are, and ``id``, which the answer repeats. Where no tags
are read, it may have ``text`` in place of words. A file that ends in .json may have objects over
several lines, one after the other or in an array.

Two settings name the column or key of words and tags; without them it is the one that WORD_KEYS and
TAG_KEYS have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from electra_ref.counting import counted
from electra_ref.training.finetuning.formats.json_lines import (
    JsonObject,
    id_of,
    json_objects,
    text_of,
    texts_of,
)
from electra_ref.training.finetuning.formats.sentences import (
    UNTAGGED,
    Columns,
    Sentence,
    sentence_of,
    sentence_of_text,
)
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.tally import Tally

WORD_KEYS = ("tokens", "words")
TAG_KEYS = ("tags", "slots", "labels", "ner_tags", "ner", "pos_tags", "pos", "upos", "chunk_tags")


def read_columns(
    file: InputFile, columns: Columns, *, tagged: bool, tally: Tally
) -> Iterator[Sentence]:
    """Yield the sentences of ``file``. Raises UserError, with its line, for what does not fit.

    Without ``tagged`` only the words are read.
    """
    lines = enumerate(file.lines, start=1)
    header = next(lines, (1, ""))[1].split("\t")
    word, tag = _keys(columns, header, file, 1, tagged=tagged)
    for number, line in lines:
        if not line.strip():
            tally.add("blank lines left out", file.place(number))
            continue
        cells = line.split("\t")
        if len(cells) != len(header):
            raise file.error(
                number, f"{counted(len(cells), 'column')}, but the header has {len(header)}"
            )
        row = dict(zip(header, cells, strict=True))
        words = row[word].split()
        tags = None if tag is None else row[tag].split()
        _check_count(file, number, words, tags)
        yield sentence_of(file.place(number), words, tags)


def read_objects(
    file: InputFile, columns: Columns, *, tagged: bool, tally: Tally
) -> Iterator[Sentence]:
    """Yield the sentences of ``file``. Raises UserError, with its line, for what does not fit.

    Without ``tagged`` only the words are read, and an empty line is a sentence without words.
    """
    blank: dict[str, Any] | None = None if tagged else {columns.word_key or WORD_KEYS[0]: []}
    for found in json_objects(file, tally, blank):
        sentence = _sentence(file, found, columns, tagged=tagged)
        for _ in range((sentence.tags or ()).count(UNTAGGED)):
            tally.add("words without a tag, not learned", sentence.place)
        yield sentence


def _sentence(file: InputFile, found: JsonObject, columns: Columns, *, tagged: bool) -> Sentence:
    number, value = found
    place, name = file.place(number), id_of(file, found)
    keys = list(value)
    if not tagged and not columns.word_key and isinstance(value.get("text"), str):
        return sentence_of_text(place, text_of(file, found, "text"), name)
    word, tag = _keys(columns, keys, file, number, tagged=tagged)
    words = texts_of(file, found, word)
    tags = None if tag is None else texts_of(file, found, tag)
    _check_count(file, number, words, tags)
    predicate = value.get("predicate")
    if predicate is not None and (type(predicate) is not int or not 0 <= predicate < len(words)):
        raise file.error(
            number, f"predicate = {predicate!r} is no number of a word from 0 to {len(words) - 1}"
        )
    return sentence_of(place, words, tags, predicate, name)


def _keys(
    columns: Columns, keys: list[str], file: InputFile, line: int, *, tagged: bool
) -> tuple[str, str | None]:
    """Return those of ``keys`` that words and tags have; None in place of tags not to be read.

    Raises UserError, which names all that is missing.
    """
    asked: list[tuple[str, str, Sequence[str]]] = [("word", columns.word_key, WORD_KEYS)]
    if tagged:
        asked.append(("tag", columns.tag_key, TAG_KEYS))
    found = [
        [key for key in keys if key == wanted] if wanted else [k for k in usual if k in keys]
        for _, wanted, usual in asked
    ]
    wrong = [each for each in zip(asked, found, strict=True) if len(each[1]) != 1]
    if wrong:
        problems = " and ".join(_problem(*each, those) for each, those in wrong)
        choose = " ".join(f"--set {what}_key=NAME" for (what, *_), _ in wrong)
        have = ", ".join(map(repr, keys))
        raise file.error(line, f"of the columns or keys {have}, {problems}; choose: {choose}")
    return found[0][0], found[1][0] if tagged else None


def _problem(what: str, wanted: str, usual: Sequence[str], found: list[str]) -> str:
    if found:
        return f"{' and '.join(map(repr, found))} could be the {what}s"
    if wanted:
        return f"none is {wanted!r} ({what}_key)"
    return f"none has a usual name of {what}s ({', '.join(usual)})"


def _check_count(file: InputFile, number: int, words: list[str], tags: list[str] | None) -> None:
    if tags is not None and len(tags) != len(words):
        raise file.error(
            number,
            f"{counted(len(words), 'word')}, but {counted(len(tags), 'tag')}: one a word is needed",
        )
