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
from pathlib import Path
from typing import Any, NamedTuple

from electra_ref.batch import SPECIAL_TOKENS
from electra_ref.errors import UserError
from electra_ref.model.networks import Network
from electra_ref.model.passes import ForwardPass
from electra_ref.text.token_ids import id_vocabulary
from electra_ref.training.prediction.batches import (
    Limits,
    Row,
    batches_of,
    pad,
    padded_length,
    rows_of,
)
from electra_ref.training.prediction.counts import Counts
from electra_ref.training.prediction.destination import Destination
from electra_ref.training.prediction.examples import Example, example_of
from electra_ref.training.prediction.records import (
    NO_ID,
    Record,
    Rules,
    json_records,
    text_records,
)
from electra_ref.training.prediction.source import BadLineError, Reader, Source, read_source
from electra_ref.training.prediction.tasks import Model, Task
from electra_ref.training.prediction.tasks.table import TASKS
from electra_ref.training.prediction.view import Style
from electra_ref.training.prediction.windows import SHORTEST
from electra_ref.training.progress import Progress
from electra_ref.training.saved_model import SavedModel, find_model, open_model
from electra_ref.training.stop_signals import StopSignals

LONGEST_GROUP_SECONDS = 2.0  # a group that took less may be followed by a larger one
LARGEST_GROUP = 64  # batches
MOST_LINES = 1 << 14  # of a group; empty lines have no tokens


class Options(NamedTuple):
    """How lines are answered."""

    task: str  # a name of TASKS
    max_length: int | None  # tokens of a window; None: as in training
    stride: int | None  # None: half of what a window shows
    batch_tokens: int
    top_k: int


class StoppedError(Exception):
    """A signal came; what was written are whole lines."""


class Predictor(NamedTuple):
    """A model with a task, ready to answer."""

    task: Task
    model: Model
    limits: Limits
    rules: Rules
    pad_id: int
    description: str  # of the model, one line for people


def open_predictor(path: Path, device: str, precision: str, options: Options) -> Predictor:
    """Open the model at ``path`` for the task of ``options``.

    Raises UserError if it cannot be opened, cannot do the task, or cannot read rows of
    ``max_length``.
    """
    task = TASKS[options.task]
    _refuse_task(path, options.task)
    saved = open_model(path, device, precision, part=task.PART)
    network: Network = getattr(saved.networks, task.PART)
    config, vocabulary = saved.config, saved.tokenizer.vocab
    reads_ids = vocabulary == tuple(id_vocabulary(len(vocabulary) - len(SPECIAL_TOKENS) - 1))
    limits = Limits(
        longest=_checked_length(options.max_length, saved),
        positions=config.max_position_embeddings,
        stride=options.stride,
        batch_tokens=options.batch_tokens,
        batch_answers=task.MOST_ANSWERS,
    )
    if options.stride is not None and not 1 <= options.stride <= limits.longest - 2:
        raise UserError(
            f"--stride {options.stride}: a window shows {limits.longest - 2} tokens of a text and "
            f"moves on by 1 to {limits.longest - 2} of them"
        )
    rules = Rules(
        "ids" if reads_ids else "text",
        needs_pair=options.task == "rtd" and config.reads_pairs,
        ids=len(vocabulary) - len(SPECIAL_TOKENS),
        recognizes_mask=task.RECOGNIZES_MASK,
    )
    run = ForwardPass(saved.opened.backend, saved.parameters, None)
    return Predictor(
        task,
        Model(run, network, saved.tokenizer, options.top_k),
        limits,
        rules,
        saved.tokenizer.special_tokens.pad,
        f"{network.name} of {path}, step {saved.step:,}; {saved.opened.reason}; "
        f"reads {limits.longest} tokens at a time",
    )


def _refuse_task(path: Path, name: str) -> None:
    """Raise UserError, with what it can do, if the model at ``path`` has no network for a task."""
    stored = find_model(path)
    networks = stored.objective.networks_of(stored.model)
    able = [other for other, task in TASKS.items() if getattr(networks, task.PART) is not None]
    if name not in able:
        config = stored.config
        why = "uniform_generator" if config.uniform_generator else f"objective {config.objective!r}"
        raise UserError(
            f"{path} cannot do --task {name}: its run had {why}, which trains no {TASKS[name].PART}"
            f"; it can do --task {' and --task '.join(able)}"
        )


def _checked_length(length: int | None, saved: SavedModel) -> int:
    config = saved.config
    if length is None:
        return min(config.max_length, config.max_position_embeddings)
    if not SHORTEST <= length <= config.max_position_embeddings:
        raise UserError(
            f"--max-length {length}: the model reads {SHORTEST} to "
            f"{config.max_position_embeddings} tokens (max_position_embeddings)"
        )
    return length


def check_input(predictor: Predictor, source: Source) -> None:
    """Raise UserError if lines of text mean nothing to the model."""
    if source.is_json:
        return
    if predictor.rules.key == "ids":
        raise UserError(
            'this model was trained on token ids, not on text: give JSON lines, {"ids": [...]}, '
            "in a file that ends in .jsonl or with --input-format jsonl"
        )
    if predictor.rules.needs_pair:
        raise UserError(
            "this discriminator was trained to compare (discriminator_input = 'paired'): give "
            'JSON lines, {"text": original, "text_pair": what is to be checked}, in a file that '
            "ends in .jsonl or with --input-format jsonl"
        )


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
        self.tokens = 0
        self.largest = predictor.limits.batch_tokens

    def add(self, record: Record) -> None:
        """Add a line; answer all if they are enough."""
        predictor = self.predictor
        example = example_of(
            record, predictor.model.tokenizer, recognizes_mask=predictor.rules.recognizes_mask
        )
        self.examples.append(example)
        self.tokens += example.ids.size
        if self.tokens >= self.largest or len(self.examples) >= MOST_LINES:
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
        self.destination.write("".join(lines).encode("utf-8", "backslashreplace"))
        self.examples, self.tokens = [], 0
        if time.monotonic() - started < LONGEST_GROUP_SECONDS:
            self.largest = min(2 * self.largest, LARGEST_GROUP * self.predictor.limits.batch_tokens)

    def _computed(self) -> list[list[Any]]:
        """Return the answers (examples)(n), None where none is wanted."""
        predictor, counts = self.predictor, self.counts
        answers: list[list[Any]] = [[None] * example.ids.size for example in self.examples]
        rows: list[Row] = []
        for number, example in enumerate(self.examples):
            wanted = predictor.task.wanted(example, predictor.model.tokenizer)
            windows = list(rows_of(number, example, wanted, predictor.limits))
            rows += windows
            counts.lines += 1
            counts.tokens += example.ids.size
            counts.empty += not example.tokens
            if example.ids.size > predictor.limits.longest:
                counts.cut += 1
                counts.windows += len(windows)
            if predictor.rules.recognizes_mask:
                counts.masks += int(wanted.sum())
                counts.without_mask += bool(example.tokens) and not wanted.any()
        for batch in batches_of(rows, predictor.limits):
            self.check()
            padded, positions = pad(
                batch, padded_length(batch[0], predictor.limits), predictor.pad_id
            )
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
            if example.record.id is not NO_ID:
                result = {"id": example.record.id, **result}
            yield json.dumps(result, ensure_ascii=False, allow_nan=False) + "\n"
            return
        for line in predictor.task.view(example, result, self.style):
            yield line + "\n"
        yield "\n" if example.tokens else "(empty line)\n\n"
