"""What a kind of task tells the rest: its files, its examples, its targets, its scores.

    file -> records -> features -> batch -> answers of the head -> predictions -> scores, results

A record is what a file says of one thing: a sentence with its label, a question with its answers.
A feature is what is learned and answered at once: a row of tokens, or a row for each choice. A
record that is longer than the model reads has several features, its windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.config.model import EncoderConfig
from electra_ref.model.labelled import Answers, Targets
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.tally import Tally

Use = Literal["train", "dev", "predict"]  # labels are needed in all but "predict"
Settings = Any  # the task's own table, which inherits from FinetuningConfig
Record = Any  # a NamedTuple; only the task looks inside
Prediction = Any
Labels = tuple[str, ...]


class Row(NamedTuple):
    """What the model reads as one sequence of T tokens."""

    ids: npt.NDArray[np.int32]  # (T,)  [CLS] text [SEP], or [CLS] text [SEP] text [SEP]
    segments: npt.NDArray[np.int32]  # (T,)


class Feature(NamedTuple):
    """What is learned, and answered, at once."""

    record: int  # number of the record among those of its file
    rows: tuple[Row, ...]  # one; of multiple choice one for each choice
    detail: Any  # targets and places; only the task looks inside


class Answered(NamedTuple):
    """A record, and what the model says of it."""

    record: Record
    prediction: Prediction


class Output(NamedTuple):
    """A format of predict."""

    lines: Callable[[int, Answered, Settings, Labels], Iterable[str]]  # of a record; its number
    before: Sequence[str] = ()  # lines before all records
    after: Sequence[str] = ()


class Task(Protocol):
    """The functions of a kind of task; ``plain`` has those of one with nothing special to say."""

    TABLE: type[FinetuningConfig]  # the settings of the task
    OUTPUTS: Mapping[str, Output]  # formats of predict besides JSON lines, by name

    def recipe(self, settings: Mapping[str, Any], model: EncoderConfig) -> Mapping[str, Any]:
        """Return the settings for what the user asked, and for a model of this size.

        ``settings`` are those that the user gave; they override what is returned.
        """

    def records(
        self, file: InputFile, settings: Settings, use: Use, labels: Labels | None, tally: Tally
    ) -> Iterator[Record]:
        """Yield the records of ``file``, as they are read.

        ``labels`` are those of the training data, None while these are read. Raises UserError, with
        file and line, for what cannot be used, and for a label that is none of ``labels``.
        """

    def labels_of(self, records: Sequence[Record], settings: Settings) -> Labels:
        """Return the labels of the training data, in the order of the model's outputs."""

    def settled(self, records: Sequence[Record], settings: Settings) -> Settings:
        """Return ``settings`` with what only the training data tell, such as a scheme of tags."""

    def augmented(self, records: list[Record], settings: Settings) -> list[Record]:
        """Return the records that are trained on."""

    def outputs(self, settings: Settings, labels: Labels) -> int:
        """Return how many logits the head gives."""

    def options(self, settings: Settings) -> Any:
        """Return what else shapes the head, None for its defaults."""

    def features(
        self,
        number: int,
        record: Record,
        tokenizer: WordPiece,
        settings: Settings,
        labels: Labels,
        tally: Tally,
    ) -> list[Feature]:
        """Return the features of the record ``number``; count in ``tally`` what was cut."""

    def targets(self, features: Sequence[Feature], length: int) -> Targets:
        """Return the targets of ``features``, whose rows are padded to ``length``, on the host.

        Features of unlabelled records have targets without weight.
        """

    def answers(self, answers: Answers, features: Sequence[Feature]) -> list[Any]:
        """Return what the head said, on the host, of each of ``features``."""

    def predict(
        self,
        record: Record,
        features: Sequence[Feature],
        answers: Sequence[Any],
        settings: Settings,
        labels: Labels,
    ) -> Prediction:
        """Return the prediction for ``record`` from the answers to its features."""

    def scores(
        self, answered: Sequence[Answered], settings: Settings, labels: Labels
    ) -> dict[str, float]:
        """Return the scores; the first one is what seeds are compared by, and larger is better."""

    def result(
        self, record: Record, prediction: Prediction, settings: Settings, labels: Labels
    ) -> dict[str, Any]:
        """Return the prediction as an object of JSON."""
