"""Values of JSON that must have a shape; messages say where, and what was found."""

from __future__ import annotations

from typing import Any

from electra_ref.errors import UserError
from electra_ref.text.decoding import replace_surrogates
from electra_ref.training.prediction.records import kind_of

KEYS_SHOWN = 10


def object_of(value: Any, place: str) -> dict[str, Any]:
    """Return ``value``, an object. Raises UserError, as the next ones do."""
    if not isinstance(value, dict):
        raise UserError(f"{place}: expected a JSON object, not {kind_of(value)}")
    return value


def list_of(value: dict[str, Any], key: str, place: str) -> list[Any]:
    """Return the array ``key`` of an object."""
    if key not in value:
        raise UserError(f"{place} has no {key!r}; {keys_of(value)}")
    if not isinstance(value[key], list):
        raise UserError(f"{place}: {key!r} should be an array, not {kind_of(value[key])}")
    found: list[Any] = value[key]
    return found


def text_of(value: dict[str, Any], key: str, place: str) -> str:
    """Return the string ``key`` of an object; U+FFFD stands for single surrogates."""
    if key not in value:
        raise UserError(f"{place} has no {key!r}; {keys_of(value)}")
    if not isinstance(value[key], str):
        raise UserError(f"{place}: {key!r} should be a string, not {kind_of(value[key])}")
    return replace_surrogates(value[key])[0]


def keys_of(value: dict[str, Any]) -> str:
    """Return which keys an object has, as the end of a message."""
    return f"its keys are {', '.join(repr(key)[:40] for key in list(value)[:KEYS_SHOWN]) or 'none'}"
