"""The settings of a new fine-tuning run: published recipe, model, file, ``key=value``; then data.

Each overrides the one before. The model decides about its sizes and its tokenizer, and about the
kind of random numbers of a run from scratch: the difference to it is what pre-training taught.
Steps and intervals that the user left open follow from the number of training features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from electra_ref.config.finetuning import FinetuningConfig, rates_of
from electra_ref.config.model import EncoderConfig
from electra_ref.config.settings import Value, chosen_values, part_of, resolve
from electra_ref.config.training import shared_out
from electra_ref.errors import UserError
from electra_ref.training.finetuning.data import batches_an_epoch
from electra_ref.training.finetuning.encoder_source import EncoderSource
from electra_ref.training.finetuning.table import task_of


def new_settings(
    kind: str, encoder: EncoderSource, path: Path | None, given: Sequence[str], processes: int = 1
) -> FinetuningConfig:
    """Return the settings of a new run of a ``kind`` of task, by so many ``processes``.

    Raises UserError for an unknown key, a wrong value, one that does not fit the model, and one of
    ``given`` that nothing reads.
    """
    task = task_of(kind)
    chosen = chosen_values(task.TABLE, path, given)
    decided = encoder.settings()
    _require_same(chosen, decided, encoder.path)
    if chosen.get("task", kind) != kind:
        raise UserError(f"task = {chosen['task']!r} is not the {kind!r} of --task: leave it out")
    sizes = part_of(EncoderConfig, encoder.config)
    published: dict[str, Any] = {"max_length": task.TABLE.max_length, **task.recipe(chosen, sizes)}
    published["max_length"] = min(published["max_length"], sizes.max_position_embeddings)
    base = {**rates_of(sizes), **published, **decided, "task": kind}
    if chosen.get("from_scratch"):
        base |= encoder.start()
    settings = resolve(task.TABLE, {}, path=path, settings=given, base=base)
    for misfit in settings.idle(chosen_values(task.TABLE, None, given)):
        raise UserError(misfit)
    return shared_out(settings, chosen, processes)


def with_steps(settings: FinetuningConfig, features: int) -> FinetuningConfig:
    """Return ``settings`` with steps, warm-up and intervals for so many training features."""
    batches = batches_an_epoch(features, settings.batch_size)
    steps = settings.steps or max(1, int(batches * settings.epochs))
    return dataclasses.replace(
        settings,
        steps=steps,
        warmup_steps=settings.warmup_steps or int(steps * settings.warmup_proportion),
        evaluate_every=settings.evaluate_every or batches,
        checkpoint_every=settings.checkpoint_every or batches,
    )


def _require_same(chosen: Mapping[str, Value], decided: Mapping[str, Value], path: Path) -> None:
    for key, value in decided.items():
        if chosen.get(key, value) != value:
            raise UserError(
                f"{key} = {chosen[key]!r} does not fit the model in {path}, which has {value!r}: "
                "leave it out"
            )
