"""A fine-tuned model before its parameters are read, wherever it is stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.model.labelled import FineTuned
from electra_ref.model.parameters import FlatParameters
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.run_directory import RunDirectory


class StoredTask(NamedTuple):
    """What is known of it."""

    settings: FinetuningConfig  # the task's own table, with the size of the vocabulary
    labels: tuple[str, ...]  # in the order of the outputs; () where outputs have no names
    tokenizer: WordPiece
    model: FineTuned
    read: Callable[[FlatParameters], int]  # fill those asked for, on the host; return the step
    run: RunDirectory | None = None  # None: it comes from a Hugging Face directory
    notes: Sequence[str] = ()  # what the user should know
