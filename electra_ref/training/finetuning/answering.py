"""From features to predictions: what the head says of each, and what a task makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from electra_ref.backends import Backend
from electra_ref.model.labelled import Answers, FineTuned
from electra_ref.model.objectives import fine_tuning
from electra_ref.model.parameters import FlatParameters
from electra_ref.model.passes import ForwardPass
from electra_ref.processes import ALONE, Processes, divided
from electra_ref.training.finetuning.data import (
    BATCH_TOKENS,
    LabelledData,
    labelled_batch,
    longest_row,
    reading_batches,
)
from electra_ref.training.finetuning.task import Answered, Feature, Labels, Settings, Task
from electra_ref.training.prediction.batches import padded_length
from electra_ref.training.prediction.task import check_finite


class Reader(NamedTuple):
    """A fine-tuned model with its task, ready to read."""

    task: Task
    settings: Settings
    labels: Labels
    model: FineTuned
    backend: Backend
    pad: int  # id of [PAD]


def predictions(
    reader: Reader,
    parameters: FlatParameters,
    data: LabelledData,
    check: Callable[[], None] = lambda: None,
    batch_tokens: int = BATCH_TOKENS,
    processes: Processes = ALONE,
) -> list[Answered]:
    """Return each record of ``data`` with its prediction, in their order.

    ``check`` is called before each batch; it may raise to stop. The ``processes`` share the
    batches. Raises NonFiniteError if the model answers NaN or infinity.
    """
    answers: list[Any] = [None] * len(data.features)
    longest = reader.settings.max_position_embeddings
    batches = list(reading_batches(data.features, longest, batch_tokens))

    def said_of(batch: int) -> Sequence[Any]:
        check()
        return _answers(reader, parameters, [data.features[number] for number in batches[batch]])

    for numbers, said in zip(batches, divided(processes, len(batches), said_of), strict=True):
        for number, one in zip(numbers, said, strict=True):
            answers[number] = one
    own: list[list[int]] = [[] for _ in data.records]
    for number, feature in enumerate(data.features):
        own[feature.record].append(number)
    return [
        Answered(
            record,
            reader.task.predict(
                record,
                [data.features[i] for i in numbers],
                [answers[i] for i in numbers],
                reader.settings,
                reader.labels,
            ),
        )
        for record, numbers in zip(data.records, own, strict=True)
    ]


def _answers(
    reader: Reader, parameters: FlatParameters, features: Sequence[Feature]
) -> Sequence[Any]:
    longest = max(map(longest_row, features))
    length = padded_length(longest, reader.settings.max_position_embeddings)
    batch = labelled_batch(reader.task, features, reader.pad, length)
    run = ForwardPass(reader.backend, parameters, None)
    with np.errstate(over="ignore", invalid="ignore"):  # looked for below
        said = _on_host(reader.backend, fine_tuning.answer(run, reader.model, batch))
    return reader.task.answers(said, features)


def _on_host(backend: Backend, answers: Answers) -> Answers:
    """Return an array, or a NamedTuple of them, on the host.

    Raises NonFiniteError for NaN and infinity.
    """
    if isinstance(answers, tuple):
        return type(answers)(*(_on_host(backend, part) for part in answers))
    host = backend.to_host(answers)
    check_finite(host)
    return host
