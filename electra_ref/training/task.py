"""What a kind of run tells the loop: its batches, its figures, and when it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from electra_ref.batch import Batch
from electra_ref.model.labelled import LabelledBatch
from electra_ref.model.objectives import Model, Trainable
from electra_ref.model.parameters import FlatParameters


class Evaluation(NamedTuple):
    """What a task says of itself at one step."""

    metrics: dict[str, float | None]  # for metrics.jsonl; None where a figure is undefined
    samples: list[dict[str, Any]]  # for samples.jsonl
    summary: str  # the figures as one line for people


class Task(Protocol):
    """What a kind of run tells the loop."""

    @property
    def objective(self) -> Trainable: ...
    @property
    def model(self) -> Model: ...

    def identity(self) -> dict[str, Any]:
        """Return, as JSON, what must be the same for a checkpoint to be one of this run.

        The configuration is compared besides.
        """

    def batches(self, step: int) -> Sequence[Batch] | Sequence[LabelledBatch]:
        """Return the micro-batches of the step number ``step``, counted from 0."""

    def evaluate(self, parameters: FlatParameters, step: int) -> Evaluation:
        """Return the figures of the held-out data after ``step`` steps.

        Raises FloatingPointError or NonFiniteError if the model has diverged.
        """

    def warnings(self, records: Sequence[Mapping[str, Any]]) -> Sequence[str]:
        """Return a line for each thing that has just been found to go wrong.

        ``records`` are the held-out ones of metrics.jsonl, the newest last. They alone decide, so
        that a resumed run says the same.
        """

    def is_best(self, records: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether the model of the newest of the held-out ``records`` is to be kept."""

    def why_stop(self, records: Sequence[Mapping[str, Any]]) -> str | None:
        """Return why training ends before its last step, None if it goes on."""
