"""Answer the lines of an input, in order, in memory that does not grow with it.

Lines are gathered into groups. The windows of a group are sorted by length and computed in batches;
then the answers are written in the order of the lines. The first group is one batch. Groups grow
while they take little time, so the first answers come soon and later ones pad little. A group also
ends where a pipe or a terminal pauses. No answer depends on the group it was in: see ``batches``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from electra_ref.training.prediction.batches import Row, batches_of, pad, padded_length, rows_of
from electra_ref.training.prediction.counts import Counts
from electra_ref.training.prediction.destination import Destination
from electra_ref.training.prediction.examples import Example, example_of
from electra_ref.training.prediction.predictor import Predictor
from electra_ref.training.prediction.records import Record, json_records, text_records
from electra_ref.training.prediction.source import BadLineError, Reader, Source, read_source
from electra_ref.training.prediction.view import Style
from electra_ref.training.progress import Progress
from electra_ref.training.stop_signals import StoppedError, StopSignals

LONGEST_GROUP_SECONDS = 2.0  # a group that took less may be followed by a larger one
LARGEST_GROUP = 64  # batches
MOST_LINES = 1 << 14  # of a group; empty lines have no tokens


def predict(
    predictor: Predictor,
    source: Source,
    destination: Destination,
    style: Style | None,
    stop: StopSignals,
    progress: Progress | None,
) -> Counts:
    """Answer every line of ``source``; return the counts. ``style`` draws a view instead of JSON.

    ``progress`` shows how far reading is, if it is there.

    Raises UserError for wrong input, after the lines before it are answered; StoppedError after a
    signal; ReaderGoneError.
    """
    counts = Counts()

    def check() -> None:
        if stop.requested is not None:
            raise StoppedError

    group = _Group(predictor, counts, destination, style, check)

    def tell(done: int) -> None:
        if progress is not None:
            progress.stage("bytes read", done, source.file.size)

    lines = read_source(source, Reader(group.answer, tell, check), counts)
    if source.is_json:
        records = json_records(lines, source.file.name, predictor.rules)
    else:
        records = text_records(lines, counts)
    try:
        for record in records:
            group.add(record)
    except BadLineError:
        group.answer()
        raise
    group.answer()
    return counts


class _Group:
    """The lines that are answered together."""

    def __init__(
        self,
        predictor: Predictor,
        counts: Counts,
        destination: Destination,
        style: Style | None,
        check: Callable[[], None],
    ) -> None:
        self.predictor, self.counts, self.destination = predictor, counts, destination
        self.style, self.check = style, check
        self.examples: list[Example] = []
        self.wanted: list[npt.NDArray[np.bool_]] = []  # (n) of each example
        self.size = 0  # in tokens, or in the numbers of all answers if these are more
        self.largest = predictor.limits.batch_tokens

    def add(self, record: Record) -> None:
        """Add a line; answer all if they are enough."""
        predictor = self.predictor
        example = example_of(
            record, predictor.model.tokenizer, recognizes_mask=predictor.rules.recognizes_mask
        )
        wanted = predictor.task.wanted(example, predictor.model.tokenizer)
        self.examples.append(example)
        self.wanted.append(wanted)
        numbers = int(wanted.sum()) * predictor.task.numbers(predictor.model)
        self.size += max(example.ids.size, numbers)
        if self.size >= self.largest or len(self.examples) >= MOST_LINES:
            self.answer()

    def answer(self) -> None:
        """Answer the lines so far, and begin a new group."""
        if not self.examples:
            return
        started = time.monotonic()
        answers = self._computed()
        lines = [
            line
            for example, found in zip(self.examples, answers, strict=True)
            for line in self._lines(example, found)
        ]
        encoding = "utf-8" if self.style is None else self.style.encoding
        self.destination.write("".join(lines).encode(encoding, "backslashreplace"))
        is_full = self.size >= self.largest
        self.examples, self.wanted, self.size = [], [], 0
        if is_full and time.monotonic() - started < LONGEST_GROUP_SECONDS:
            self.largest = min(2 * self.largest, LARGEST_GROUP * self.predictor.limits.batch_tokens)

    def _computed(self) -> list[list[Any]]:
        """Return the answers (examples)(n), None where none is wanted."""
        predictor, counts = self.predictor, self.counts
        answers: list[list[Any]] = [[None] * example.ids.size for example in self.examples]
        rows: list[Row] = []
        unknown = predictor.model.tokenizer.special_tokens.unknown
        for number, (example, wanted) in enumerate(zip(self.examples, self.wanted, strict=True)):
            windows = list(rows_of(number, example, wanted, predictor.limits))
            rows += windows
            counts.lines += 1
            counts.tokens += example.ids.size
            counts.unknown += int(np.count_nonzero(example.ids == unknown))
            counts.empty += not example.tokens
            if windows and example.ids.size > predictor.limits.longest:
                counts.cut += 1
                counts.windows += len(windows)
            if predictor.rules.recognizes_mask:
                counts.masks += int(wanted.sum())
                counts.without_mask += bool(example.tokens) and not wanted.any()
        for batch in batches_of(rows, predictor.limits):
            self.check()
            length = padded_length(batch[0].places.size, predictor.limits.positions)
            padded, positions = pad(batch, length, predictor.pad_id)
            found = predictor.task.answers(predictor.model, padded, positions)
            for row, values in zip(batch, found, strict=True):
                places = row.places[row.answered].tolist()
                for place, value in zip(places, values, strict=False):
                    answers[row.number][place] = value
        return answers

    def _lines(self, example: Example, answers: list[Any]) -> Iterator[str]:
        """Yield the answer to one line, with its ends of lines."""
        predictor = self.predictor
        result = predictor.task.result(predictor.model, example, answers)
        if self.style is None:
            text = json.dumps(result, ensure_ascii=False, allow_nan=False)
            if (own := example.record.id) is not None:
                text = f'{{"id": {own}, {text.removeprefix("{")}'
            yield f"{text}\n"
            return
        for line in predictor.task.view(example, result, self.style):
            yield line + "\n"
        yield "\n" if example.tokens else "(empty line)\n\n"
