"""Which column, or key, of a file is the text, the second text, the label: chosen, or guessed.

The guess goes by names that are common in published data sets, whatever their case. If no name of
a text is known and one column remains beside the label and an identifier, that one is the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("text", "text_pair"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("sentence_a", "sentence_b"),
    ("#1 string", "#2 string"),
    ("query", "passage"),
)
TEXTS = ("sentence", "text", "review", "utterance", "tokens", "content", "question", "headline")
LABELS = ("label", "labels", "gold_label", "class", "category", "intent", "sentiment", "topic",
          "is_duplicate", "quality", "target")  # fmt: skip
SCORES = ("score", "similarity", "relatedness_score", "rating", "gold", "label", "target")
IDS = ("id", "index", "idx", "guid")


class Names(NamedTuple):
    """The names that the user chose; "" where none was."""

    text: str = ""
    pair: str = ""
    label: str = ""


class Columns(NamedTuple):
    """The names as the file has them; None where there is no such column."""

    text: str
    pair: str | None
    label: str | None
    id: str | None

    def __str__(self) -> str:
        """Return the columns and what they are, for people."""
        parts = {"text": self.text, "second text": self.pair, "label": self.label}
        return ", ".join(f"{part} = {name!r}" for part, name in parts.items() if name is not None)


class NoColumnError(Exception):
    """A column that is not there, without the place of the header."""


def find_columns(
    there: Sequence[str], chosen: Names, *, label_names: Sequence[str], needs_label: bool
) -> Columns:
    """Return the columns to read among those that are ``there``. Raises NoColumnError.

    A second text is guessed only where the first one is.
    """
    names = _by_case(there)
    label = _chosen(there, chosen.label, "label_column")
    if label is None:
        label = next((names[name] for name in label_names if name in names), None)
    if label is None and needs_label:
        raise NoColumnError(
            f"no column has a usual name of a label ({', '.join(label_names)}); {_those(there)}; "
            "choose one: --set label_column=NAME"
        )
    identifier = _identifier(names)
    text = _chosen(there, chosen.text, "text_column")
    pair = _chosen(there, chosen.pair, "text_pair_column")
    if text is None:
        left = {key: name for key, name in names.items() if name not in (label, pair)}
        text, guessed = _guess(left, identifier)
        pair = pair or guessed
    if text is None:
        raise NoColumnError(
            f"no column has a usual name of a text ({', '.join(TEXTS)}, {PAIRS[0][0]}, ...); "
            f"{_those(there)}; choose one: --set text_column=NAME"
        )
    return Columns(text, pair, label, None if identifier in (text, pair, label) else identifier)


def completed(columns: Columns, there: Sequence[str], chosen: Names) -> Columns:
    """Return ``columns`` with a second text and an identifier that are only ``there``.

    A second text is looked for where none was ``chosen`` and the first one was not.
    """
    names = _by_case(there)
    text, pair, label, identifier = columns
    if pair not in there and not chosen.text and not chosen.pair:
        pairs = (names[two] for one, two in PAIRS if one == text.casefold() and two in names)
        pair = next(pairs, pair)
    if identifier not in there:
        found = _identifier(names)
        identifier = identifier if found in (text, pair, label) else found
    return Columns(text, pair, label, identifier)


def _by_case(there: Sequence[str]) -> dict[str, str]:
    """Return the names without their case, and those that the file has; the first counts."""
    return {name.casefold(): name for name in reversed(there)}


def _identifier(names: dict[str, str]) -> str | None:
    return next((names[name] for name in IDS if name in names), None)


def _chosen(there: Sequence[str], name: str, setting: str) -> str | None:
    if name and there.count(name) != 1:
        count = "two columns" if name in there else "no column"
        raise NoColumnError(f"{count} {name!r} ({setting}); {_those(there)}")
    return name or None


def _guess(names: dict[str, str], identifier: str | None) -> tuple[str | None, str | None]:
    """Return the first and the second text among ``names``, None where there is none."""
    for first, second in PAIRS:
        if first in names and second in names:
            return names[first], names[second]
    for text in TEXTS:
        if text in names:
            return names[text], None
    left = [name for name in names.values() if name != identifier]
    return (left[0] if len(left) == 1 else None), None


def _those(there: Sequence[str]) -> str:
    return f"those there are {', '.join(map(repr, there))}"
