"""A pre-training run from start to end: folder, data, model, training, last evaluation."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

from electra_ref.backends import OpenedBackend, open_backend
from electra_ref.config.pretraining import PretrainingConfig, resolve_config
from electra_ref.config.settings import to_toml
from electra_ref.errors import UserError
from electra_ref.files import write_json_atomically
from electra_ref.masking import masked_slots
from electra_ref.text.cache_folder import find_cache_dir
from electra_ref.text.prepare import PreparedData, prepare
from electra_ref.text.vocabulary import load_vocabulary, save_vocabulary
from electra_ref.training.environment import describe_environment, fingerprint_changes
from electra_ref.training.loop import Trainer
from electra_ref.training.pretraining.samples import LEGEND, format_sample
from electra_ref.training.pretraining.source import Source
from electra_ref.training.pretraining.task import PretrainingTask, initial_state
from electra_ref.training.progress import Progress, show, wants_colour
from electra_ref.training.run_directory import RunDirectory, new_run_path
from electra_ref.training.stop_signals import StopSignals

RUNS = Path("runs")  # of the runs without --output-dir


class StoppedError(Exception):
    """A signal asked to stop before the first step; the run can be resumed."""


def begin(
    path: Path | None,
    config: PretrainingConfig,
    source: Source,
    progress: Progress,
    stop: StopSignals,
) -> Trainer:
    """Create the run's folder, prepare the data, return the trainer at step 0.

    The folder is ``path``, or a new one in RUNS. Raises UserError for data or a disk that cannot
    be used; then nothing is left behind.
    """
    masked_slots(config.max_length, config.mask_probability)  # raises if nothing can be masked
    opened = open_backend(config.device, config.precision)
    progress.say(opened.reason)
    environment = describe_environment(
        device=opened.device, precision=opened.dtype, backend=opened.name
    )
    is_ours = path is None or not os.path.lexists(path)
    path = path or new_run_path(RUNS, config.preset)
    run = RunDirectory.create(path, to_toml(config), {**environment, "source": source._asdict()})
    try:
        return _trainer(run, config, opened, source, progress, stop)
    except (UserError, MemoryError):
        run.discard(folder=is_ours)
        raise
    except BaseException:
        run.close()
        raise


def resume(path: Path, device: str | None, progress: Progress, stop: StopSignals) -> Trainer:
    """Continue the run at ``path`` from its newest checkpoint, on ``device`` if given."""
    run = RunDirectory.resume(path)
    try:
        config = resolve_config(path=run.config)
        opened = open_backend(device or config.device, config.precision)
        progress.say(opened.reason)
        then = run.environment()
        now = describe_environment(
            device=opened.device, precision=opened.dtype, backend=opened.name
        )
        for change in fingerprint_changes(then, now):
            progress.say(f"not the machine this run began on, its bits may differ: {change}")
        source = _source_of(run)
        trainer = _trainer(run, config, opened, source, progress, stop)
        trainer.restore()
        progress.say(f"resumed at step {trainer.state.step:,} of {config.steps:,}")
        return trainer
    except BaseException:
        run.close()
        raise


def complete(trainer: Trainer, stop: StopSignals, max_steps: int | None) -> None:
    """Train to the end, or to ``max_steps``, or until a signal; then report the state of the run.

    Samples and figures of the held-out rows go to standard output.
    """
    last_step = min(trainer.config.steps, max_steps or trainer.config.steps)
    trainer.train(stop, last_step)
    path = trainer.run.path
    if stop.requested is not None:
        trainer.progress.say(f"saved at step {trainer.state.step}; --resume continues {path}")
        return
    evaluation = trainer.evaluate()
    columns, colour = shutil.get_terminal_size((100, 24)).columns, wants_colour(sys.stdout)
    samples = [format_sample(s, colour=colour, columns=columns) for s in evaluation.samples]
    figures = f"step {trainer.state.step}: {evaluation.summary}\nthe run is in {path}\n"
    show("\n\n".join([f"held-out samples: {LEGEND}", *samples, figures]))


def _trainer(
    run: RunDirectory,
    config: PretrainingConfig,
    opened: OpenedBackend,
    source: Source,
    progress: Progress,
    stop: StopSignals,
) -> Trainer:
    """Prepare the data, save vocabulary and report in the run's folder, return the trainer.

    Raises UserError if the vocabulary of the data has not as many entries as ``config`` asks for.
    """
    data = _prepare(run, config, source, progress, stop)
    entries = len(data.tokenizer.vocab)
    if config.vocab_size not in (0, entries):
        raise UserError(
            f"the data yield a vocabulary of {entries} entries, not of vocab_size = "
            f"{config.vocab_size}; leave vocab_size out (max_vocab_size limits it)"
        )
    config = dataclasses.replace(config, vocab_size=entries)
    if not run.data.exists():  # a resumed run may have been stopped before this
        save_vocabulary(run.vocabulary, data.tokenizer.vocab)
        write_json_atomically(run.data, {"key": data.key, **data.report})
    task = PretrainingTask(config, opened.backend, data)
    state = initial_state(config, opened.backend, task.model, opened.dtype)
    return Trainer(config, opened.backend, state, task, run, progress)


def _source_of(run: RunDirectory) -> Source:
    try:
        return Source(**run.environment()["source"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"the environment.json of {run.path} no longer names the data; start a new run"
        ) from error


def _known_key(run: RunDirectory) -> str:
    try:
        return str(json.loads(run.data.read_bytes())["key"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run.data} is damaged: remove it to prepare the data anew") from error


def _prepare(
    run: RunDirectory,
    config: PretrainingConfig,
    source: Source,
    progress: Progress,
    stop: StopSignals,
) -> PreparedData:
    """Prepare the data; a resumed run takes those of its first start."""

    def report(stage: str, done: int, total: int) -> None:
        if stop.requested is not None:
            raise StoppedError
        progress.stage(stage, done, total)

    try:
        data = prepare(
            config,
            find_cache_dir(run.path / "cache"),
            corpus=source.corpus,
            ids_path=source.tokens,
            vocabulary=load_vocabulary(run.vocabulary) if run.data.exists() else None,
            known_key=_known_key(run) if run.data.exists() else None,
            progress=report,
        )
    finally:
        progress.close()
    figures = data.report
    progress.say(
        f"data: {figures['tokens']:,} tokens, {len(data.tokenizer.vocab):,} in the vocabulary, "
        f"{data.training.count:,} rows to train on, {data.held_out.count:,} held out"
    )
    if invalid := figures.get("invalid_bytes"):  # ids have none
        progress.say(f"{invalid:,} bytes of the text were no valid UTF-8 and were left out")
    for note in figures["notes"]:
        progress.say(note)
    return data
