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

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import regex

from electra_ref.text.decoding import replace_surrogates
from electra_ref.training.finetuning.formats.sentences import (
    Columns,
    Sentence,
    sentence_of,
    sentence_of_text,
)
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.tally import Tally

WORD_KEYS = ("tokens", "words")
TAG_KEYS = ("tags", "slots", "labels", "ner_tags", "ner", "pos_tags", "pos", "upos", "chunk_tags")

_SPACE = regex.compile(r"\s*")


def read_columns(
    file: InputFile, columns: Columns, *, tagged: bool, tally: Tally
) -> Iterator[Sentence]:
    """Yield the sentences of ``file``. Raises UserError, with its line, for what does not fit.

    Without ``tagged`` only the words are read.
    """
    lines = enumerate(file.lines, start=1)
    header = next(lines, (1, ""))[1].split("\t")
    word = _key("word_key", columns.word_key, header, WORD_KEYS, file, 1)
    tag = _key("tag_key", columns.tag_key, header, TAG_KEYS, file, 1) if tagged else None
    for number, line in lines:
        if not line.strip():
            tally.add("empty lines, passed over", file.place(number))
            continue
        cells = line.split("\t")
        if len(cells) != len(header):
            raise file.error(number, f"{len(cells)} columns, but the header has {len(header)}")
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
    objects = _whole_objects(file) if file.ending == ".json" else _line_objects(file)
    for number, value in objects:
        if value is None:
            if tagged:
                tally.add("empty lines, passed over", file.place(number))
            else:
                yield sentence_of(file.place(number), (), None)
            continue
        if not isinstance(value, dict):
            raise file.error(number, "expected a JSON object with words")
        yield _sentence(file, number, value, columns, tagged=tagged)


def _sentence(
    file: InputFile, number: int, value: dict[str, Any], columns: Columns, *, tagged: bool
) -> Sentence:
    place, name = file.place(number), value.get("id")
    keys = list(value)
    if not tagged and not columns.word_key and isinstance(value.get("text"), str):
        return sentence_of_text(place, replace_surrogates(value["text"])[0], name)
    word = _key("word_key", columns.word_key, keys, WORD_KEYS, file, number)
    words = [replace_surrogates(one)[0] for one in _strings(file, number, value, word)]
    tags = None
    if tagged:
        tag = _key("tag_key", columns.tag_key, keys, TAG_KEYS, file, number)
        tags = _strings(file, number, value, tag)
    _check_count(file, number, words, tags)
    predicate = value.get("predicate")
    if predicate is not None and (type(predicate) is not int or not 0 <= predicate < len(words)):
        raise file.error(
            number, f"predicate = {predicate!r} is no number of a word from 0 to {len(words) - 1}"
        )
    return sentence_of(place, words, tags, predicate, name)


def _key(
    setting: str, wanted: str, keys: list[str], known: Iterable[str], file: InputFile, line: int
) -> str:
    """Return the one of ``keys`` that is ``wanted``, or ``known`` if nothing is."""
    found = [key for key in keys if key == wanted] if wanted else [k for k in known if k in keys]
    if len(found) == 1:
        return found[0]
    have = ", ".join(map(repr, keys))
    what = f"{wanted!r} is missing" if wanted else "none of them is known"
    if len(found) > 1:
        what = f"{' and '.join(map(repr, found))} could be meant"
    raise file.error(line, f"of the columns or keys {have}, {what}: set {setting} to one of them")


def _strings(file: InputFile, number: int, value: Mapping[str, Any], key: str) -> list[str]:
    strings = value[key]
    if not isinstance(strings, list) or not all(isinstance(one, str) for one in strings):
        raise file.error(number, f"{key!r} should be an array of strings")
    return strings


def _check_count(file: InputFile, number: int, words: list[str], tags: list[str] | None) -> None:
    if tags is not None and len(tags) != len(words):
        raise file.error(number, f"{len(words)} words, but {len(tags)} tags: one a word is needed")


def _line_objects(file: InputFile) -> Iterator[tuple[int, Any]]:
    """Yield the value of each line, with its number; None for an empty line."""
    for number, line in enumerate(file.lines, start=1):
        try:
            yield number, json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            raise file.error(number, f"expected a JSON object ({error})") from error


def _whole_objects(file: InputFile) -> Iterator[tuple[int, Any]]:
    """Yield the values of a file, one after the other or in one array, with their lines."""
    text = "".join(file.blocks)
    decoder, line, start = json.JSONDecoder(), 1, 0
    while (begin := _SPACE.match(text, start).end()) < len(text):
        line += text.count("\n", start, begin)
        try:
            value, start = decoder.raw_decode(text, begin)
        except (ValueError, RecursionError) as error:
            raise file.error(line, f"expected a JSON object ({error})") from error
        for one in value if isinstance(value, list) else [value]:
            yield line, one
        line += text.count("\n", begin, start)
