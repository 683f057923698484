"""Fine-tuning as a task of the loop: the batches of each step, the evaluation on dev data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from electra_ref.batch import MadeOnDemand
from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.model.labelled import FineTuned, Head, LabelledBatch
from electra_ref.model.networks import full_size_encoder
from electra_ref.model.objectives import fine_tuning
from electra_ref.model.parameters import FlatParameters
from electra_ref.processes import ALONE, Processes
from electra_ref.training.finetuning.answering import Reader, predictions
from electra_ref.training.finetuning.data import LabelledData, labelled_batch, training_features
from electra_ref.training.finetuning.task import Labels, Task
from electra_ref.training.prediction.batches import padded_length
from electra_ref.training.task import Evaluation

SHOWN = 4  # scores that the line for people has
SAMPLES = 5  # dev records that an evaluation shows with their predictions


def model_of(task: Task, settings: FinetuningConfig, labels: Labels) -> FineTuned:
    """Return the model that ``settings`` describe.

    Its loss is the mean over the examples of a batch, times ``batch_size``: the original's sum, but
    for batches that have fewer. For tags it is the mean over the words; the original sums over
    them.
    """
    head = Head(
        settings.task,
        settings.head,
        task.outputs(settings, labels),
        settings.head_dropout,
        float(settings.batch_size),
        task.options(settings),
    )
    return FineTuned(full_size_encoder(settings), head)


class Learning:
    """A task on labelled data: see ``training.task``."""

    objective = fine_tuning

    def __init__(
        self,
        reader: Reader,
        train: LabelledData,
        dev: LabelledData,
        processes: Processes = ALONE,
    ) -> None:
        """``processes`` share the dev data of an evaluation."""
        self.model, self.reader, self._processes = reader.model, reader, processes
        self._train, self._dev = train, dev
        self._lengths = train.lengths()

    def identity(self) -> dict[str, Any]:
        """Return the hashes of the data."""
        return self._digests

    @cached_property
    def _digests(self) -> dict[str, Any]:
        """What every checkpoint names; many sentences take a while, and they do not change."""
        return {"train": self._train.digest(), "dev": self._dev.digest()}

    def batches(self, step: int) -> Sequence[LabelledBatch]:
        """Return the features of a step in ``accumulate`` micro-batches.

        If there are fewer features than that, each is one. All are padded to the same length:
        attention numbers its random words by it, and these shall not depend on ``accumulate``.
        """
        reader, config = self.reader, self.reader.settings
        numbers = training_features(step, self._lengths, config)
        longest = int(self._lengths[numbers].max())
        length = padded_length(longest, config.max_position_embeddings)
        parts = np.array_split(numbers, min(config.accumulate, numbers.size))
        return MadeOnDemand(
            len(parts),
            lambda part: labelled_batch(
                reader.task,
                [self._train.features[number] for number in parts[part]],
                reader.pad,
                length,
            ),
        )

    def evaluate(self, parameters: FlatParameters, step: int) -> Evaluation:
        """Return the scores on the dev data, and some records with their predictions.

        Raises NonFiniteError if the model has diverged.
        """
        del step
        reader = self.reader
        answered = predictions(reader, parameters, self._dev, processes=self._processes)
        scores = reader.task.scores(answered, reader.settings, reader.labels)
        samples = [
            reader.task.result(one.record, one.prediction, reader.settings, reader.labels)
            for one in answered[:SAMPLES]
        ]
        return Evaluation(dict(scores), samples, summary(scores))

    def warnings(self, records: Sequence[Mapping[str, Any]]) -> Sequence[str]:
        """Return nothing: the scores say how it goes."""
        del records
        return []

    def is_best(self, records: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether the newest score is the best so far, if the best one is kept."""
        if not self.reader.settings.patience:
            return False
        scores = main_scores(records)
        return scores[-1] > max(scores[:-1], default=-np.inf)

    def why_stop(self, records: Sequence[Mapping[str, Any]]) -> str | None:
        """Return why training ends early: the score has not risen for ``patience`` evaluations."""
        patience, scores = self.reader.settings.patience, main_scores(records)
        if not patience or not scores:
            return None
        best = int(np.argmax(scores))
        if len(scores) - 1 - best < patience:
            return None
        return (
            f"no better score in {patience} evaluation{'s' * (patience > 1)}: training ends; the "
            f"model of step {records[best]['step']} is kept"
        )


def main_scores(records: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the score of each evaluation that seeds and steps are compared by: the first one."""
    scores = []
    for record in records:
        first = next(key for key in record if key not in ("step", "split"))
        scores.append(float(record[first]))
    return scores


def summary(scores: Mapping[str, float]) -> str:
    """Return the first scores as one line for people."""
    first = list(scores.items())[:SHOWN]
    return "dev " + ", ".join(f"{name} {value:.4g}" for name, value in first)
