"""What was skipped, cut or replaced, and what was found out, so that it can be said."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from electra_ref.text.wordpiece import WordPiece

LARGEST_UNKNOWN_SHARE = 0.01  # of the pieces; more is a warning
CHARACTERS_SHOWN = 40  # of a word


class Tally:
    """Counts by what happened, with the first place of each."""

    def __init__(self) -> None:
        self.unknown = 0  # pieces that are [UNK]
        self._pieces = 0
        self._first_unknown = ""
        self._counts: dict[str, int] = {}
        self._places: dict[str, str] = {}
        self._notes: dict[str, None] = {}  # in order

    def note(self, text: str) -> None:
        """Keep what was found out of a file, such as its columns, to be said once."""
        self._notes[text] = None

    def add(self, what: str, place: str = "") -> None:
        """Count one more ``what``, in the plural: "rows cut to 128 tokens"; ``place`` names it."""
        self._counts[what] = self._counts.get(what, 0) + 1
        self._places.setdefault(what, place)

    def count_unknown(
        self, tokenizer: WordPiece, text: str, pieces: Sequence[int], place: str
    ) -> None:
        """Count the ``pieces`` of ``text``, and how many of them are [UNK]."""
        self._pieces += len(pieces)
        if unknown := pieces.count(tokenizer.special_tokens.unknown):
            if not self.unknown:
                word = tokenizer.unknown_words(text)[0]
                self._first_unknown = f"{word[:CHARACTERS_SHOWN]!r}, {place}"
            self.unknown += unknown

    def lines(self) -> Iterator[str]:
        """Yield a line for each thing that was found out, and each kind of thing that happened."""
        yield from self._notes
        for what, count in self._counts.items():
            place = self._places[what]
            named = _in_the_singular(what) if count == 1 else what
            yield f"{count:,} {named}" + (f" (the first: {place})" if place else "")
        if self.unknown:
            yield self._unknown_line()

    def _unknown_line(self) -> str:
        share = self.unknown / self._pieces
        line = (
            f"{self.unknown:,} of {self._pieces:,} pieces in all rows ({100 * share:.1f} %) are "
            f"[UNK] (the first: {self._first_unknown})"
        )
        if share <= LARGEST_UNKNOWN_SHARE:
            return line
        return (
            f"warning: {line}: the model cannot tell these words apart; choose a model whose "
            "vocabulary was made from such text"
        )

    def counts(self) -> dict[str, int]:
        """Return how often each kind of thing happened."""
        return dict(self._counts)


def _in_the_singular(what: str) -> str:
    """Return "row cut to 128 tokens" for "rows cut to 128 tokens": the noun ends in the first s."""
    return re.sub(r"s\b", "", what, count=1)
