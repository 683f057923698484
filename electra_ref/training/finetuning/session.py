"""What the command does: finds the encoder, trains one seed or several, says what came of it."""

from __future__ import annotations

import dataclasses
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.config.training import require_micro_batches
from electra_ref.errors import UserError
from electra_ref.processes import ALONE, Processes
from electra_ref.text.wordpiece import tokenizer_of
from electra_ref.training.completing import Limits
from electra_ref.training.finetuning import run
from electra_ref.training.finetuning.configuring import new_settings
from electra_ref.training.finetuning.encoder_source import EncoderSource, find_encoder
from electra_ref.training.finetuning.learning import summary
from electra_ref.training.finetuning.run import Files, Prepared
from electra_ref.training.finetuning.seeds import (
    begin_seeds,
    discard_seeds,
    first_begun,
    spread_lines,
    train_seeds,
    what_is_trained,
)
from electra_ref.training.finetuning.seeds_file import have_begun, is_of_seeds, newest_to_resume
from electra_ref.training.loop import Trainer
from electra_ref.training.progress import Progress, format_duration
from electra_ref.training.run_directory import PRETRAINING, new_run_path, newest_run, require_unused
from electra_ref.training.stop_signals import StoppedError, StopSignals

__all__ = ["Ended", "Limits", "encoder_at", "new_settings", "train_new", "train_on"]

RUNS = Path("runs")  # of the runs without --output-dir
NOTHING_DONE = "stopped before training; nothing was written"


class Ended(NamedTuple):
    """A model that was trained, or several."""

    path: Path
    scores: Mapping[str, Mapping[str, float]]  # by the seed
    lines: list[str]  # for people
    cut_at: int | None = None  # the step at which a limit ended the training of one model


def encoder_at(
    path: Path | None, progress: Progress, processes: Processes = ALONE
) -> EncoderSource:
    """Return the encoder of the model at ``path``, by default of the newest run.

    Raises UserError.
    """
    if path is None:
        path = processes.of_first(lambda: newest_run(RUNS, PRETRAINING, "fine-tune"))
        progress.say(f"--model: the newest run, {path}")
    encoder = find_encoder(Path(path).absolute())
    for note in encoder.notes:
        progress.say(note)
    return encoder


def train_new(
    path: Path | None,
    settings: FinetuningConfig,
    files: Files,
    encoder: EncoderSource,
    count: int | None,
    limits: Limits,
    progress: Progress,
    stop: StopSignals,
    processes: Processes = ALONE,
) -> Ended | None:
    """Train a new run in ``path``, or ``count`` runs; return None after a signal.

    Raises UserError; then nothing is left behind that was not there.
    """
    require_micro_batches(settings, processes.size)
    if path is not None:
        named = path
        processes.of_first(lambda: _make_usable(named))  # before all data are read
    prepared = _prepared(settings, files, encoder, progress, stop, processes)
    if prepared is None:
        return None
    is_ours = path is None
    path = path or processes.of_first(lambda: new_run_path(RUNS, settings.task))
    if count is not None:
        return _train_new_seeds(
            path, settings, files, count, (encoder, prepared), limits, progress, stop, processes,
            is_ours=is_ours,
        )  # fmt: skip
    try:
        trainer = run.begin(
            path, prepared.settings, files, encoder, prepared, progress, processes, is_ours=is_ours
        )
    except BaseException:
        with suppress(OSError):  # it is gone already, or holds something
            if is_ours and processes.rank == 0:
                path.rmdir()
        raise
    with trainer.run:
        return _ended(trainer, limits, stop)


def _make_usable(path: Path) -> None:
    """Raise UserError unless a new run may begin in ``path``.

    Delete what a process leaves that was killed before its runs of several seeds began.
    """
    if have_begun(path):
        raise UserError(
            f"{path} holds runs of several seeds, which are never overwritten; go on with "
            "--resume, or choose another --output-dir"
        )
    discard_seeds(path, folder_too=False)
    require_unused(path)


def _train_new_seeds(
    path: Path,
    settings: FinetuningConfig,
    files: Files,
    count: int,
    known: tuple[EncoderSource, Prepared],
    limits: Limits,
    progress: Progress,
    stop: StopSignals,
    processes: Processes,
    *,
    is_ours: bool,
) -> Ended | None:
    is_ours = is_ours or not os.path.lexists(path)
    processes.of_first(lambda: begin_seeds(path, settings, files, count))
    try:
        return _train_seeds(path, known, limits, progress, stop, processes)
    except BaseException:
        if processes.rank == 0:
            discard_seeds(path, folder_too=is_ours)
        raise


def train_on(
    path: Path | None,
    given: Sequence[str],
    moved: Mapping[str, str],
    limits: Limits,
    progress: Progress,
    stop: StopSignals,
    processes: Processes = ALONE,
) -> Ended | None:
    """Continue the run, or the runs, in ``path``, by default the newest in runs/.

    ``given`` are ``key=value`` of settings that are free, ``moved`` those of Files that have other
    paths now. Return None after a signal. Raises UserError.
    """
    path = path or processes.of_first(lambda: newest_to_resume(RUNS))
    if processes.of_first(lambda: is_of_seeds(path)):
        if given:
            raise UserError(
                f"{given[0]}: {path} has runs of several seeds, which are compared, so no setting "
                "can change"
            )
        return _train_seeds(path, None, limits, progress, stop, processes, moved)
    try:
        trainer = run.resume(path, given, progress, stop, processes, moved)
    except StoppedError:
        progress.say(NOTHING_DONE)
        return None
    with trainer.run:
        return _ended(trainer, limits, stop)


def _prepared(
    settings: FinetuningConfig,
    files: Files,
    encoder: EncoderSource,
    progress: Progress,
    stop: StopSignals,
    processes: Processes,
) -> Prepared | None:
    """Return the data, None after a signal. Raises UserError."""
    tokenizer = tokenizer_of(encoder.tokenizer.vocab, settings)
    try:
        return run.prepare(settings, files, tokenizer, progress, stop, processes)
    except StoppedError:
        progress.say(NOTHING_DONE)
        return None


def _ended(trainer: Trainer, limits: Limits, stop: StopSignals) -> Ended | None:
    """Train; return the scores and what is said of them, None after a signal."""
    kept = run.complete(trainer, stop, limits)
    if kept is None:
        return None
    path, seed, has_ended = trainer.run.path, str(trainer.config.seed), run.has_ended(trainer)
    best = "" if kept.step == trainer.state.step else f" (the best{'' if has_ended else ' so far'})"
    lines = [f"step {kept.step}{best}: {summary(kept.scores)}", *_how_to_use(path, limits)]
    if not has_ended:
        lines.append(
            f"a limit ended training at step {trainer.state.step:,} of "
            f"{trainer.config.steps:,}; to go on:"
        )
        lines.append(run.resume_command(path))
    return Ended(path, {seed: kept.scores}, lines, None if has_ended else trainer.state.step)


def _train_seeds(
    path: Path,
    known: tuple[EncoderSource, Prepared] | None,
    limits: Limits,
    progress: Progress,
    stop: StopSignals,
    processes: Processes,
    moved: Mapping[str, str] = MappingProxyType({}),
) -> Ended | None:
    """Train the seeds that are not done. ``known`` spares reading model and data once more."""
    settings, recorded = processes.of_first(lambda: what_is_trained(path))
    files = recorded._replace(**moved)

    def begin(folder: Path, seed: int) -> Trainer:
        nonlocal known
        if known is None:
            processes.of_first(lambda: run.require_files(files))
            encoder = find_encoder(Path(files.model))
            tokenizer = tokenizer_of(encoder.tokenizer.vocab, settings)
            known = encoder, run.prepare(settings, files, tokenizer, progress, stop, processes)
        own = dataclasses.replace(known[1].settings, seed=seed)
        like = processes.of_first(lambda: first_begun(path))
        return run.begin(folder, own, files, *known, progress, processes, like=like)

    def train(trainer: Trainer) -> Mapping[str, float] | None:
        trainer.is_one_of_several = True
        kept = run.complete(trainer, stop, limits, path)
        return None if kept is None else kept.scores

    try:
        scores = train_seeds(
            path,
            files,
            begin,
            lambda folder: run.resume(folder, (), progress, stop, processes, moved),
            train,
            progress.say,
            processes,
        )
    except StoppedError:
        progress.say(NOTHING_DONE)
        return None
    if scores is None:
        return None
    return Ended(path, scores, [*spread_lines(scores), *_how_to_use(path, limits)])


def _how_to_use(path: Path, limits: Limits) -> list[str]:
    took = format_duration(time.monotonic() - limits.started)
    return [
        f"{took}; the model is in {path}; to use it:",
        f"python -m electra_ref.predict --model {shlex.quote(str(path))} --input FILE",
    ]
