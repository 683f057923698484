"""What was skipped, cut or replaced, and what was found out, so that it can be said."""

from __future__ import annotations

from collections.abc import Iterator


class Tally:
    """Counts by what happened, with the first place of each."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._places: dict[str, str] = {}
        self._notes: dict[str, None] = {}  # in order

    def note(self, text: str) -> None:
        """Keep what was found out of a file, such as its columns, to be said once."""
        self._notes[text] = None

    def add(self, what: str, place: str = "") -> None:
        """Count one more ``what``, such as "sentences cut to 128 tokens"; ``place`` names it."""
        self._counts[what] = self._counts.get(what, 0) + 1
        self._places.setdefault(what, place)

    def lines(self) -> Iterator[str]:
        """Yield a line for each thing that was found out, and each kind of thing that happened."""
        yield from self._notes
        for what, count in self._counts.items():
            place = self._places[what]
            yield f"{count:,} {what}" + (f" (the first: {place})" if place else "")

    def counts(self) -> dict[str, int]:
        """Return how often each kind of thing happened."""
        return dict(self._counts)
