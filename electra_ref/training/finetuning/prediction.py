"""Answers files by a fine-tuned model, in order, in memory that does not grow with their number.

Records are gathered into groups. The rows of a group are sorted by length and computed in batches;
then the predictions are written in the order of the records. The first group is one batch, so that
the first answers come soon. A group also ends where a pipe or a terminal pauses; but of tables the
first thousand lines are read together, to find out how they are written. No prediction depends on
the group it was in: see ``data``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from electra_ref.backends import open_backend
from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.config.settings import chosen_values
from electra_ref.counting import counted
from electra_ref.errors import UserError
from electra_ref.model.objectives import fine_tuning
from electra_ref.model.parameters import FlatParameters
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.finetuning.answering import Reader, predictions
from electra_ref.training.finetuning.data import LabelledData
from electra_ref.training.finetuning.input_file import input_of
from electra_ref.training.finetuning.kinds import SETTABLE
from electra_ref.training.finetuning.learning import model_of
from electra_ref.training.finetuning.saved import find_fine_tuned
from electra_ref.training.finetuning.table import task_of
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import (
    Answered,
    Feature,
    Labels,
    Output,
    Record,
    Settings,
    Task,
)
from electra_ref.training.prediction.counts import Counts
from electra_ref.training.prediction.destination import Destination
from electra_ref.training.prediction.source import Reader as SourceReader
from electra_ref.training.prediction.source import Source
from electra_ref.training.progress import Progress
from electra_ref.training.saved_model import read_parameters
from electra_ref.training.stop_signals import StoppedError, StopSignals

JSON = "json"
LARGEST_GROUP = 64  # batches


class Opened(NamedTuple):
    """A fine-tuned model, ready to answer."""

    reader: Reader
    parameters: FlatParameters
    tokenizer: WordPiece
    description: str  # one line for people


class Counted(NamedTuple):
    """What was read."""

    records: int
    tokens: int
    lines: list[str]  # what was skipped, cut or replaced

    def summary(self, seconds: float) -> str:
        """Return one line with the counts and the rate."""
        rate = self.tokens / max(seconds, 1e-9)
        return (
            f"{self.records:,} answered, {counted(self.tokens, 'token')} in {seconds:.1f} s "
            f"({rate:,.0f} tokens/s)"
        )


def open_fine_tuned(
    path: Path,
    kind: str | None,
    device: str,
    precision: str,
    given: Sequence[str],
    say: Callable[[str], object],
) -> Opened:
    """Open the fine-tuned model at ``path``; ``given`` are settings of SETTABLE.

    Raises UserError if there is none, if its task is another one than ``kind``, and for another
    setting.
    """
    stored = find_fine_tuned(path)
    for note in stored.notes:
        say(note)
    if kind not in (None, stored.settings.task):
        raise UserError(
            f"the model in {path} was fine-tuned for --task {stored.settings.task}, not for {kind}"
        )
    task = task_of(stored.settings.task)
    settings = _with_own(stored.settings, given)
    opened = open_backend(device, precision)
    model = model_of(task, settings, stored.labels)
    specs = fine_tuning.parameter_specs(model)
    values, step = read_parameters(stored, specs, opened.dtype, path)
    parameters = FlatParameters(specs, opened.backend.to_device(values.vector))
    pad = stored.tokenizer.special_tokens.pad
    reader = Reader(task, settings, stored.labels, model, opened.backend, pad)
    return Opened(
        reader,
        parameters,
        stored.tokenizer,
        f"{settings.task} by {path}, step {step:,}; {opened.reason}",
    )


def predict(
    opened: Opened,
    source: Source,
    destination: Destination,
    form: str,
    batch_tokens: int,
    stop: StopSignals,
    progress: Progress,
) -> Counted:
    """Write the predictions for the records of ``source``; return the counts.

    ``form`` is JSON or a name of the task's OUTPUTS. Raises UserError, StoppedError after a signal,
    ReaderGoneError.
    """

    def check() -> None:
        if stop.requested is not None:
            raise StoppedError

    def tell(done: int) -> None:
        progress.stage("bytes read", done, source.file.size)

    reader, tally, counts = opened.reader, Tally(), Counts()
    output = Output(_json_lines(reader.task)) if form == JSON else reader.task.OUTPUTS[form]
    group = _Group(opened, output, destination, batch_tokens, check, tally)
    file = input_of(source, SourceReader(group.answer, tell, check), counts)
    for record in reader.task.records(file, reader.settings, "predict", reader.labels, tally):
        group.add(record)
    group.answer()
    group.write(output.after)
    notes = [*counts.invalid_notes(), *counts.encoding_notes(source.conversion())]
    return Counted(group.answered, group.tokens, [*tally.lines(), *notes])


def check_form(opened: Opened, form: str) -> None:
    """Raise UserError if predictions of the task cannot be written in ``form``."""
    forms = [JSON, *opened.reader.task.OUTPUTS]
    if form not in forms:
        raise UserError(
            f"--format {form}: predictions of {opened.reader.settings.task} are written as "
            f"{', '.join(forms)}"
        )


def _with_own(settings: FinetuningConfig, given: Sequence[str]) -> FinetuningConfig:
    """Return ``settings`` with ``key=value`` of keys that may be set. Raises UserError."""
    chosen, settable = chosen_values(type(settings), None, given), [*SETTABLE[settings.task]]
    if settings.task == "span-extraction" and settings.head == "huggingface":
        settable.remove("beam_size")  # that head has no beam
    for key in chosen:
        if key not in settable:
            raise UserError(
                f"--set {key}: a trained model has it already, or does without it; these can be "
                f"set: {', '.join(settable)}"
            )
    return dataclasses.replace(settings, **chosen)  # type: ignore[arg-type]


class _Group:
    """The records that are answered together."""

    def __init__(
        self,
        opened: Opened,
        output: Output,
        destination: Destination,
        batch_tokens: int,
        check: Callable[[], None],
        tally: Tally,
    ) -> None:
        self.opened, self.output, self.destination = opened, output, destination
        self.batch_tokens, self.check, self.tally = batch_tokens, check, tally
        self.records: list[Record] = []
        self.features: list[Feature] = []
        self.size, self.largest = 0, batch_tokens  # in tokens
        self.answered, self.tokens = 0, 0  # in all groups
        self.before = [*output.before]  # not yet written

    def add(self, record: Record) -> None:
        """Add a record; answer all if they are enough."""
        reader = self.opened.reader
        own = reader.task.features(
            len(self.records),
            record,
            self.opened.tokenizer,
            reader.settings,
            reader.labels,
            self.tally,
        )
        self.records.append(record)
        self.features += own
        self.size += sum(row.ids.size for feature in own for row in feature.rows)
        if max(self.size, len(self.records)) >= self.largest:
            self.answer()
            self.largest = min(2 * self.largest, LARGEST_GROUP * self.batch_tokens)

    def answer(self) -> None:
        """Answer the records so far, and begin a new group."""
        reader = self.opened.reader
        data = LabelledData(self.records, self.features)
        found = predictions(reader, self.opened.parameters, data, self.check, self.batch_tokens)
        lines = [
            line
            for number, one in enumerate(found, start=self.answered)
            for line in self.output.lines(number, one, reader.settings, reader.labels)
        ]
        self.write([*self.before, *lines])  # nothing at all if a line cannot be written so
        self.before = []
        self.answered, self.tokens = self.answered + len(found), self.tokens + self.size
        self.records, self.features, self.size = [], [], 0

    def write(self, lines: Iterable[str]) -> None:
        """Write ``lines``, if there are any."""
        if text := "".join(f"{line}\n" for line in lines):
            self.destination.write(text.encode("utf-8", "backslashreplace"))


def _json_lines(task: Task) -> Callable[[int, Answered, Settings, Labels], Iterable[str]]:
    def lines(number: int, one: Answered, settings: Settings, labels: Labels) -> list[str]:
        del number
        result = task.result(one.record, one.prediction, settings, labels)
        return [json.dumps(result, ensure_ascii=False, allow_nan=False)]

    return lines
