"""A fine-tuning run from start to end: settings, data, folder, model, training, last scores.

    prepare    read both files                        -> Prepared
    begin      make the folder and draw the head; _begun takes the encoder, records what was
               read, saves step 0                     -> Trainer
    resume     or: compare with what is recorded, load the newest checkpoint; a run without one
               goes through _begun again              -> Trainer
    complete   train, evaluate, choose the model      -> Kept

``session`` does this for one run, ``seeds`` for several in a row.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from electra_ref.backends import OpenedBackend
from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.config.settings import to_toml
from electra_ref.config.training import require_micro_batches
from electra_ref.errors import UserError
from electra_ref.model.objectives import fine_tuning
from electra_ref.model.parameters import initial_values
from electra_ref.processes import ALONE, Processes
from electra_ref.text.wordpiece import WordPiece, tokenizer_of
from electra_ref.training.checkpoint import checkpoint_path, list_checkpoints
from electra_ref.training.completing import Limits, train_to_end
from electra_ref.training.continuation import changed_configuration
from electra_ref.training.environment import fingerprint_changes
from electra_ref.training.finetuning.answering import Reader
from electra_ref.training.finetuning.configuring import with_steps
from electra_ref.training.finetuning.encoder_source import EncoderSource, copy_model, find_encoder
from electra_ref.training.finetuning.layerwise import with_rates
from electra_ref.training.finetuning.learning import Learning, model_of
from electra_ref.training.finetuning.reading import ReadFile, read_labelled, read_training
from electra_ref.training.finetuning.saved import LABELS, labels_of, settings_of
from electra_ref.training.finetuning.table import task_of
from electra_ref.training.finetuning.task import Labels
from electra_ref.training.loop import Trainer
from electra_ref.training.opening import open_together
from electra_ref.training.optimizer import TrainingState
from electra_ref.training.progress import Progress
from electra_ref.training.records import read_records
from electra_ref.training.run_data import read_vocabulary, record_data
from electra_ref.training.run_directory import (
    FINETUNING,
    IMPORTED,
    KIND,
    RunDirectory,
    opened_by_first,
)
from electra_ref.training.stop_signals import StoppedError, StopSignals

COMMAND = "python -m electra_ref.finetune"
DIGESTS = "digests"  # a key of data.json: of the model that was taken, and of both files


class Files(NamedTuple):
    """Where a run finds what it reads, by absolute paths."""

    model: str
    train: str
    dev: str


class Prepared(NamedTuple):
    """What a run learns from and is judged by."""

    train: ReadFile
    dev: ReadFile
    labels: Labels
    settings: FinetuningConfig  # with what only the training data tell


def prepare(
    settings: FinetuningConfig,
    files: Files,
    tokenizer: WordPiece,
    progress: Progress,
    stop: StopSignals,
    processes: Processes = ALONE,
) -> Prepared:
    """Read both files, in the first process. Raises UserError, and StoppedError after a signal."""

    def check() -> None:
        if stop.requested is not None:
            raise StoppedError

    def read() -> Prepared:
        task = task_of(settings.task)
        train, labels, settled = read_training(task, files.train, tokenizer, settings, check)
        dev = read_labelled(task, files.dev, tokenizer, settled, labels, check)
        return Prepared(train, dev, labels, settled)

    prepared = processes.of_first(read)
    for line in (*prepared.train.lines, *prepared.dev.lines):
        progress.say(line)
    return prepared


def begin(
    path: Path,
    settings: FinetuningConfig,
    files: Files,
    encoder: EncoderSource,
    prepared: Prepared,
    progress: Progress,
    processes: Processes = ALONE,
    *,
    is_ours: bool = False,
    like: Path | None = None,
) -> Trainer:
    """Create the run's folder ``path``, return the trainer at step 0, with a checkpoint of it.

    Raises UserError if the folder or the model cannot be used, and if model or data are not those
    that the run ``like`` began with; then nothing is left behind. An empty folder that was there
    before is deleted only if it ``is_ours``.
    """
    settings = with_steps(settings, len(prepared.train.data.features))
    require_micro_batches(settings, processes.size)
    opened, environment, processes = open_together(settings, processes)
    progress.say(opened.reason)
    facts = {KIND: FINETUNING, "task": settings.task, "files": files._asdict()}
    is_ours = is_ours or not os.path.lexists(path)
    run = opened_by_first(
        processes,
        lambda: RunDirectory.create(path, to_toml(settings), {**environment, **facts}),
    )
    try:
        of = RunDirectory(like or path)
        return _begun(run, settings, opened, encoder, prepared, progress, processes, of)
    except BaseException:
        run.discard(folder=is_ours)
        raise


def _begun(
    run: RunDirectory,
    settings: FinetuningConfig,
    opened: OpenedBackend,
    encoder: EncoderSource,
    prepared: Prepared,
    progress: Progress,
    processes: Processes,
    like: RunDirectory,
) -> Trainer:
    """Take the model, record what was read, and save step 0; return the trainer.

    Raises UserError if the model cannot be used, if model or data are not those that the run
    ``like`` has recorded, and if the disk refuses.
    """
    tokenizer = tokenizer_of(encoder.tokenizer.vocab, settings)
    trainer = _trainer(run, settings, opened, prepared, tokenizer, progress, processes)
    digests = {**trainer.task.identity()}
    if not settings.from_scratch:
        parameters, model = trainer.state.parameters, trainer.task.model
        taken = processes.of_first(
            lambda: copy_model(encoder, parameters, model, prepared.labels, opened.backend)
        )
        digests["model"] = taken.digest
        progress.say(f"begins with {taken.what}")
    facts = {"train": prepared.train.facts, "dev": prepared.dev.facts}
    read = {**facts, LABELS: list(prepared.labels), DIGESTS: digests}
    paths = {"model": encoder.path, **{name: facts[name]["path"] for name in facts}}

    def record() -> None:
        _require_same_digests(like, digests, paths)
        record_data(run, encoder.tokenizer.vocab, read)

    processes.of_first(record)
    trainer.share_state()
    trainer.save()  # the model it begins with may be gone or be another when it is resumed
    return trainer


def _require_same_digests(
    like: RunDirectory, digests: Mapping[str, str], paths: Mapping[str, Path | str]
) -> None:
    """Raise UserError unless what ``like`` has recorded, if anything, has the same ``digests``."""
    try:
        before = json.loads(like.data.read_bytes())[DIGESTS]
    except (FileNotFoundError, KeyError):
        return
    for name, digest in digests.items():
        if before.get(name, digest) != digest:
            raise UserError(
                f"{paths[name]} has changed since the run in {like.path} was begun: put it back, "
                "or start a new run in another --output-dir"
            )


def resume(
    path: Path,
    given: Sequence[str],
    progress: Progress,
    stop: StopSignals,
    processes: Processes = ALONE,
    moved: Mapping[str, str] = MappingProxyType({}),
) -> Trainer:
    """Continue the run at ``path`` from its newest checkpoint.

    A run that was killed before its first checkpoint takes its model again. ``given`` are
    ``key=value`` of settings that are free, ``moved`` those of Files that have other paths now.
    Raises UserError for a setting that cannot change, for other data or another model, and for a
    run that cannot be continued.
    """
    run = opened_by_first(processes, lambda: RunDirectory.resume(path))
    try:
        recorded = processes.of_first(lambda: _recorded(run, given))
        then, before, settings = recorded.environment, recorded.before, recorded.settings
        require_micro_batches(settings, processes.size, resumed=True)
        opened, now, processes = open_together(settings, processes)
        progress.say(opened.reason)
        for change in fingerprint_changes(then, now):
            progress.say(f"not the machine this run began on, its bits may differ: {change}")
        files = Files(**then["files"])._replace(**moved)
        processes.of_first(lambda: require_files(files))
        encoder = None if recorded.has_checkpoint else find_encoder(Path(files.model))
        vocabulary = encoder.tokenizer.vocab if encoder else recorded.vocabulary
        tokenizer = tokenizer_of(vocabulary, settings)
        prepared = prepare(settings, files, tokenizer, progress, stop, processes)
        settings = with_steps(settings, len(prepared.train.data.features))  # 0 counts them anew
        if encoder is not None:
            _require_same(run, recorded, encoder, prepared)
            trainer = _begun(run, settings, opened, encoder, prepared, progress, processes, run)
        else:
            prepared = prepared._replace(labels=recorded.labels)
            trainer = _trainer(run, settings, opened, prepared, tokenizer, progress, processes)
            trainer.restore(before)
        if settings != before or moved:
            there = {**then, "files": files._asdict()}
            processes.of_first(lambda: run.rewrite(to_toml(settings), there))
        progress.say(f"resuming {path} at step {trainer.state.step:,} of {settings.steps:,}")
        return trainer
    except BaseException:
        run.close()
        raise


def require_files(files: Files) -> None:
    """Raise UserError if the data of ``files`` are not there; the model may be gone."""
    for flag, path in (("--train", files.train), ("--dev", files.dev)):
        if not os.path.exists(path):
            raise UserError(f"there is no file {path} any more: {flag} names where it lies now")


class Recorded(NamedTuple):
    """What the folder of a run says, and the settings from here on."""

    environment: dict[str, Any]
    before: FinetuningConfig
    settings: FinetuningConfig
    has_checkpoint: bool
    vocabulary: list[str]  # [] if a run that has not begun did not record it
    labels: Labels  # (), in the same way


def _recorded(run: RunDirectory, given: Sequence[str]) -> Recorded:
    """Raises UserError if ``run`` cannot be continued, and for a setting that cannot change."""
    then = run.environment()
    if IMPORTED in then:
        raise UserError(
            f"the model in {run.path} was imported and not trained here, so there is nothing to "
            f"resume; to train on from its weights: --model {shlex.quote(str(run.path))}"
        )
    before = settings_of(run)
    settings = changed_configuration(run, before, lambda new: settings_of(run, new), given)
    has_checkpoint = bool(list_checkpoints(run.checkpoints))
    if not has_checkpoint and (records := read_records(run.metrics)):
        raise UserError(
            f"{run.metrics} goes to step {records[-1]['step']}, but there is no checkpoint in "
            f"{run.checkpoints} (of several seeds the best alone keeps its own): put it back, or "
            "start a new run in another --output-dir"
        )
    if not has_checkpoint and not run.data.exists():
        return Recorded(then, before, settings, has_checkpoint, [], ())
    vocabulary, labels = read_vocabulary(run), labels_of(run)
    return Recorded(then, before, settings, has_checkpoint, vocabulary, labels)


def _require_same(
    run: RunDirectory, recorded: Recorded, encoder: EncoderSource, prepared: Prepared
) -> None:
    """Raise UserError unless the model's sizes and words, and the labels, are those of ``run``."""
    elsewhere = "start a new run in another --output-dir"
    for key, value in encoder.settings().items():
        if (then := getattr(recorded.before, key)) != value:
            raise UserError(
                f"{key} of the model in {encoder.path} is {value!r}, and the run in {run.path} was "
                f"to begin with one that has {then!r}: {elsewhere}"
            )
    if recorded.vocabulary not in ([], list(encoder.tokenizer.vocab)):
        raise UserError(
            f"the model in {encoder.path} has another vocabulary than the one that the run in "
            f"{run.path} was to begin with: {elsewhere}"
        )
    if recorded.labels not in ((), prepared.labels):
        raise UserError(
            f"{prepared.train.facts['path']} has other labels than when the run in {run.path} was "
            f"begun: {elsewhere}"
        )


class Kept(NamedTuple):
    """The model that a run keeps: the newest one, or the best one with ``patience``."""

    step: int
    scores: dict[str, Any]


def complete(
    trainer: Trainer, stop: StopSignals, limits: Limits, folder: Path | None = None
) -> Kept | None:
    """Train to the end, or until a limit or a signal; return the model that is kept.

    What a limit ends is evaluated and not recorded: the evaluations on record decide when training
    ends and which model is kept, and a run that is resumed shall keep the same one. The scores of
    the present model are said here if another one is kept.

    With ``folder``, that of several seeds, a model is returned only when the run has ended. None
    before that, and after a signal: then the command that goes on was said.
    """
    train_to_end(trainer, stop, limits)
    if stop.agree(trainer.processes) or (folder is not None and not has_ended(trainer)):
        trainer.progress.say(f"saved at step {trainer.state.step:,}; to go on:")
        trainer.progress.say(resume_command(folder or trainer.run.path), whole=True)
        return None
    present = trainer.closing_evaluation() if has_ended(trainer) else trainer.evaluate()
    kept = Kept(trainer.state.step, present.metrics)
    best = trainer.processes.of_first(lambda: list_checkpoints(trainer.run.best))
    for record in trainer.held_out_records() if best else ():
        if checkpoint_path(best[0].parent, record["step"]) in best:
            scores = {key: record[key] for key in record if key not in ("step", "split")}
            kept = Kept(record["step"], scores)
    if kept.step != trainer.state.step:
        trainer.progress.say(f"step {trainer.state.step}: {present.summary}")
    return kept


def has_ended(trainer: Trainer) -> bool:
    """Return whether no step is left, or training has ended early."""
    if trainer.state.step >= trainer.config.steps:
        return True
    return trainer.task.why_stop(trainer.held_out_records()) is not None


def resume_command(path: Path) -> str:
    """Return the whole command that continues the run at ``path``."""
    return f"{COMMAND} --resume --output-dir {shlex.quote(str(path))}"


def _trainer(
    run: RunDirectory,
    settings: FinetuningConfig,
    opened: OpenedBackend,
    prepared: Prepared,
    tokenizer: WordPiece,
    progress: Progress,
    processes: Processes,
) -> Trainer:
    """Return the trainer at step 0, its parameters drawn by the seed."""
    task = task_of(settings.task)
    model = model_of(task, settings, prepared.labels)
    pad = tokenizer.special_tokens.pad
    reader = Reader(task, settings, prepared.labels, model, opened.backend, pad)
    learning = Learning(reader, prepared.train.data, prepared.dev.data, processes)
    specs = with_rates(
        fine_tuning.parameter_specs(model),
        model.encoder,
        settings.layerwise_decay,
        gap=settings.layerwise_gap,
    )
    values = initial_values(
        specs, settings.seed, settings.initializer_range, np.dtype(opened.dtype)
    )
    state = TrainingState(opened.backend, specs, values)
    return Trainer(settings, opened.backend, state, learning, run, progress, processes)
