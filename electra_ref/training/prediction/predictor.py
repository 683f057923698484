"""A model that is opened for a task: which network answers, what it can read, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from electra_ref.batch import SPECIAL_TOKENS
from electra_ref.errors import UserError
from electra_ref.model.networks import Network
from electra_ref.model.passes import ForwardPass
from electra_ref.text.token_ids import names_ids
from electra_ref.training.prediction.batches import Limits
from electra_ref.training.prediction.records import Rules
from electra_ref.training.prediction.source import Source
from electra_ref.training.prediction.table import TASKS, task_of
from electra_ref.training.prediction.task import Model, Task
from electra_ref.training.prediction.windows import SHORTEST
from electra_ref.training.saved_model import SavedModel, find_model, open_model


class Options(NamedTuple):
    """How lines are answered."""

    task: str  # a name of TASKS
    max_length: int | None  # tokens of a window; None: as in training
    stride: int | None  # None: half of what a window shows
    batch_tokens: int
    top_k: int


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
    task = task_of(options.task)
    _refuse_task(path, options.task)
    saved = open_model(path, device, precision, part=task.PART)
    network: Network = getattr(saved.networks, task.PART)
    config, vocabulary = saved.config, saved.tokenizer.vocab
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
        "ids" if names_ids(vocabulary) else "text",
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
        f"{task.PART} of {path}, step {saved.step:,}; {saved.opened.reason}; "
        f"reads {limits.longest} tokens at a time",
    )


def _refuse_task(path: Path, name: str) -> None:
    """Raise UserError, with what it can do, if the model at ``path`` has no network for a task."""
    stored = find_model(path)
    able = [other for other in TASKS if getattr(stored.networks, task_of(other).PART) is not None]
    if name not in able:
        raise UserError(
            f"{path} cannot do --task {name}: {stored.why_without(task_of(name).PART)}; it can do "
            f"--task {' and --task '.join(able)}"
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
