"""What a file says of one text, or of two that are compared."""

from __future__ import annotations

from typing import Any, NamedTuple

from electra_ref.errors import UserError

MOST_DIGITS = 18  # Python refuses to read very long numbers


class TextRecord(NamedTuple):
    """A row of a file with its label, as the file has it."""

    text: str
    pair: str | None  # None: there is one text
    label: Any  # a string; a number or an array of JSON; None where there is none
    id: Any  # of JSON; None where there is none
    place: str  # file and line, for messages


def is_whole_number(label: str) -> bool:
    """Return whether ``label`` is a number of at most MOST_DIGITS digits."""
    return label.isdecimal() and len(label) <= MOST_DIGITS


def with_swapped_pairs(records: list[TextRecord]) -> list[TextRecord]:
    """Return ``records``, then the same with their two texts in the other order.

    Raises UserError if one of them is no pair.
    """
    swapped = []
    for record in records:
        if record.pair is None:
            raise UserError(f"{record.place}: one text, but swap_pairs = true needs two")
        swapped.append(record._replace(text=record.pair, pair=record.text))
    return [*records, *swapped]


def with_id(record: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return ``values`` of JSON, after the id of ``record`` if it has one."""
    return values if record.id is None else {"id": record.id, **values}
