"""JSON: an object a line, or, in a file whose name ends in .json, objects one after the other.

Between the objects of a .json file may stand white space, commas and the brackets of an array. Such
a file is held in memory; one of lines is read as it comes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from electra_ref.errors import UserError
from electra_ref.text.decoding import replace_surrogates
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.prediction.records import kind_of, refuse_constant

ENDINGS = (".jsonl", ".ndjson", ".json")
_BETWEEN = re.compile(r"[\s,\[\]]*")


class JsonObject(NamedTuple):
    """An object, and where it stands."""

    line: int  # where it begins, counted from 1
    values: dict[str, Any]


def json_objects(
    file: InputFile, tally: Tally, blank: dict[str, Any] | None = None
) -> Iterator[JsonObject]:
    """Yield the objects of ``file``. Raises UserError for what is none.

    A blank line is the object ``blank``. Without one it is left out and counted in ``tally``.
    """
    if file.ending == ".json":
        return _objects_of_text(file)
    return _objects_of_lines(file, tally, blank)


def text_of(file: InputFile, found: JsonObject, key: str) -> str:
    """Return the string ``key`` of an object. Raises UserError if there is none."""
    if key not in found.values:
        raise file.error(found.line, f"no {key!r}; the keys are {', '.join(found.values)}")
    value = found.values[key]
    if not isinstance(value, str):
        raise file.error(found.line, f"expected a string {key!r}, not {kind_of(value)}")
    return replace_surrogates(value)[0]


def texts_of(file: InputFile, found: JsonObject, key: str) -> list[str]:
    """Return the strings in the array ``key`` of an object. Raises UserError if there is none."""
    values = found.values.get(key)
    if not isinstance(values, list):
        raise file.error(found.line, f"expected an array {key!r}, not {kind_of(values)}")
    return [text_of(file, JsonObject(found.line, {key: value}), key) for value in values]


def id_of(file: InputFile, found: JsonObject, key: str = "id") -> Any:
    """Return what ``key`` of an object is, None if it is not there; the answer repeats it.

    Raises UserError if JSON cannot write it, such as a number that is read as infinity.
    """
    value = found.values.get(key)
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise file.error(found.line, f"the answer cannot repeat its {key!r} ({error})") from error
    return value


def _objects_of_lines(
    file: InputFile, tally: Tally, blank: dict[str, Any] | None
) -> Iterator[JsonObject]:
    for number, line in enumerate(file.lines, start=1):
        if line.strip():
            try:
                value = json.loads(line, parse_constant=refuse_constant)
            except (ValueError, RecursionError) as error:
                raise _no_object(file, number, error) from error
            yield _object(file, number, value)
        elif blank is not None:
            yield JsonObject(number, blank)
        else:
            tally.add("blank lines left out", file.place(number))


def _objects_of_text(file: InputFile) -> Iterator[JsonObject]:
    text = "".join(file.blocks)
    decoder = json.JSONDecoder(parse_constant=refuse_constant)
    end, line = 0, 1
    while True:
        start = _end_of_gap(text, end)
        line += text.count("\n", end, start)
        if start == len(text):
            return
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            raise _no_object(file, line, error) from error
        yield _object(file, line, value)
        line += text.count("\n", start, end)


def _end_of_gap(text: str, start: int) -> int:
    found = _BETWEEN.match(text, start)
    return found.end() if found else start


def _object(file: InputFile, line: int, value: Any) -> JsonObject:
    if not isinstance(value, dict):
        raise file.error(line, f"expected a JSON object, not {kind_of(value)}")
    return JsonObject(line, value)


def _no_object(file: InputFile, line: int, error: Exception) -> UserError:
    if isinstance(error, json.JSONDecodeError):
        line = error.lineno if file.ending == ".json" else line
        return file.error(line, f"expected a JSON object ({error.msg}, column {error.colno})")
    return file.error(line, f"expected a JSON object ({error})")
