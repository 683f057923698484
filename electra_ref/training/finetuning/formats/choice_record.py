"""What a file says of a question with choices."""

from __future__ import annotations

from typing import Any, NamedTuple

from electra_ref.errors import UserError
from electra_ref.training.finetuning.formats.text_record import is_whole_number
from electra_ref.training.finetuning.input_file import InputFile


class ChoiceRecord(NamedTuple):
    """A question, its choices, and which one is right."""

    context: str  # may be empty
    question: str  # what all choices begin with, or have in common; may be empty
    choices: tuple[str, ...]
    label: int | None  # the number of the right one, counted from 0; None where it is not known
    id: Any  # of JSON; None where there is none
    place: str  # file and line, for messages


def checked_choices(file: InputFile, line: int, choices: list[str]) -> tuple[str, ...]:
    """Return ``choices``. Raises UserError if they are fewer than two."""
    if len(choices) < 2:
        raise file.error(line, f"a question with {len(choices)} choices; it needs two or more")
    return tuple(choices)


def checked_label(file: InputFile, line: int, label: object, choices: int) -> int:
    """Return the number of the right choice. Raises UserError if it is none."""
    number = label
    if isinstance(label, str) and is_whole_number(label.strip()):
        number = int(label)
    if isinstance(number, bool) or not isinstance(number, int):
        raise _no_label(file, line, label, choices)
    if not 0 <= number < choices:
        raise _no_label(file, line, label, choices)
    return number


def _no_label(file: InputFile, line: int, label: object, choices: int) -> UserError:
    return file.error(
        line,
        f"the label {repr(label)[:40]} is none of the {choices} choices, which are counted from 0 "
        f"to {choices - 1}",
    )
