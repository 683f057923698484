"""A line of input: one text, or two that the model reads as a pair.

    text      the line is the text
    jsonl     {"text": ..., "text_pair": ..., "id": ...}     only the first is needed

A model that was trained on token ids reads {"ids": [...], "ids_pair": [...]}, with the ids as they
were in the file of ``--tokens``. ``id`` is any value; the answer repeats it. Other keys are passed
over. A blank line is an empty text, so that every line has an answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, NoReturn

import regex

from electra_ref.batch import MASK
from electra_ref.text.decoding import replace_surrogates
from electra_ref.training.prediction.counts import Counts
from electra_ref.training.prediction.source import BadLineError

KEYS_SHOWN = 10
Text = str | list[int | str]  # ids may have "[MASK]" among them

_LIKE_JSON = regex.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:.*\}\s*', regex.DOTALL)


class Rules(NamedTuple):
    """What a model and a task ask of a line."""

    key: Literal["text", "ids"]
    needs_pair: bool
    ids: int  # how many ids there are, 0 of them first
    recognizes_mask: bool


class Record(NamedTuple):
    """What one line holds."""

    texts: tuple[Text, ...]  # one, or two of a pair
    id: str | None = None  # the JSON that its answer repeats; None if there is none


def looks_like_json(line: str) -> bool:
    """Return whether ``line`` is probably a JSON object."""
    return line.endswith("}") and _LIKE_JSON.fullmatch(line) is not None


def text_records(lines: Iterator[str], counts: Counts) -> Iterator[Record]:
    """Yield each line as a text."""
    for line in lines:
        counts.like_json += looks_like_json(line)
        yield Record((line,))


def json_records(lines: Iterator[str], name: str, rules: Rules) -> Iterator[Record]:
    """Yield what each line of JSON holds. Raises BadLineError; messages call the file ``name``."""
    for number, line in enumerate(lines, start=1):
        try:
            yield _record_of(line, rules)
        except _WrongError as error:
            raise BadLineError(f"{name}, line {number}: {error}") from error


class _WrongError(Exception):
    """What is wrong with a line, without its place."""


def _record_of(line: str, rules: Rules) -> Record:
    if not line.strip():
        return Record(("" if rules.key == "text" else [],))
    value = _object_of(line, rules.key)
    pair = f"{rules.key}_pair"
    texts = [_text_of(value, key, rules) for key in (rules.key, pair) if value.get(key) is not None]
    if rules.key in value and value[rules.key] is None:
        raise _WrongError(f"{rules.key!r} is null: leave the line empty for no text")
    if rules.key not in value:
        keys = ", ".join(repr(key)[:40] for key in list(value)[:KEYS_SHOWN]) or "none"
        raise _WrongError(f"the JSON object has no {rules.key!r}; its keys are {keys}")
    if rules.needs_pair and len(texts) == 1:
        raise _WrongError(
            f"this discriminator compares: give the original as {rules.key!r} and what is to be "
            f"checked as {pair!r}"
        )
    return Record(tuple(texts), _id_of(value))


def _object_of(line: str, key: str) -> dict[str, Any]:
    try:
        value = json.loads(line, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = f" ({error})"
        if isinstance(error, json.JSONDecodeError):
            reason = f" ({error.msg}, column {error.colno})"
        raise _WrongError(
            f"expected a JSON object with {key!r}{reason}; --input-format text takes each line as "
            "it is"
        ) from error
    if not isinstance(value, dict):
        raise _WrongError(f"expected a JSON object with {key!r}, not {kind_of(value)}")
    return value


def _id_of(value: dict[str, Any]) -> str | None:
    if "id" not in value:
        return None
    try:
        return json.dumps(value["id"], ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise _WrongError(f"the answer cannot repeat its 'id' ({error})") from error


def _text_of(value: dict[str, Any], key: str, rules: Rules) -> Text:
    text = value[key]
    if rules.key == "ids":
        return _checked_ids(text, key, rules)
    if not isinstance(text, str):
        raise _WrongError(f"expected a string {key!r}, not {kind_of(text)}")
    return replace_surrogates(text)[0]


def _checked_ids(ids: Any, key: str, rules: Rules) -> list[int | str]:
    if not isinstance(ids, list):
        raise _WrongError(f"expected a list {key!r}, not {kind_of(ids)}")
    for place, one in enumerate(ids):
        if rules.recognizes_mask and one == MASK:
            continue
        if not isinstance(one, int) or isinstance(one, bool):
            raise _WrongError(f"{key!r}, position {place}: expected an integer, not {kind_of(one)}")
        if not 0 <= one < rules.ids:
            raise _WrongError(
                f"{key!r}, position {place}: the id {one} is not in the vocabulary, which ends at "
                f"{rules.ids - 1}"
            )
    return ids


def refuse_constant(name: str) -> NoReturn:
    """Raise ValueError: ``json`` takes NaN and infinity for numbers, JSON does not."""
    raise ValueError(f"{name} is not JSON")


def kind_of(value: object) -> str:
    """Return what JSON calls ``value``."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")
