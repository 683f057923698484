"""A pre-training run from start to end: folder, data, model, training, last evaluation."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

from electra_ref.backends import open_backend
from electra_ref.config import Config, resolve_config, to_toml
from electra_ref.files import write_json_atomically, write_text_atomically
from electra_ref.masking import masked_slots
from electra_ref.text.cache_folder import find_cache_dir
from electra_ref.text.prepare import PreparedData, prepare
from electra_ref.text.vocabulary import load_vocabulary, save_vocabulary
from electra_ref.training.environment import describe_environment, fingerprint_changes
from electra_ref.training.loop import Trainer, summary
from electra_ref.training.progress import Progress, wants_colour
from electra_ref.training.run_directory import RunDirectory
from electra_ref.training.samples import LEGEND, format_sample
from electra_ref.training.source import Source
from electra_ref.training.stop_signals import StopSignals


class StoppedError(Exception):
    """A signal asked to stop before the first step; the run can be resumed."""


def begin(
    path: Path, config: Config, source: Source, progress: Progress, stop: StopSignals
) -> Trainer:
    """Create the run's folder at ``path``, prepare the data, return the trainer at step 0."""
    masked_slots(config.max_length, config.mask_probability)  # refuses what cannot be masked
    opened = open_backend(config.device, config.precision)
    progress.say(opened.reason)
    environment = describe_environment(
        device=opened.device, precision=opened.dtype, backend=opened.name
    )
    run = RunDirectory.create(path, to_toml(config), {**environment, "source": source._asdict()})
    try:
        data = _prepare(run, config, source, progress, stop)
        config = dataclasses.replace(config, vocab_size=len(data.tokenizer.vocab))
        save_vocabulary(run.vocabulary, data.tokenizer.vocab)
        write_text_atomically(run.config, to_toml(config))
        write_json_atomically(run.path / "data.json", {"key": data.key, **data.report})
        return Trainer(config, opened.backend, opened.dtype, data, run, progress)
    except BaseException:
        run.close()
        raise


def resume(path: Path, device: str | None, progress: Progress, stop: StopSignals) -> Trainer:
    """Take up the run at ``path`` where its newest checkpoint left it, on ``device`` if given."""
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
        source = Source(**then["source"])
        data = _prepare(run, config, source, progress, stop)
        config = dataclasses.replace(config, vocab_size=len(data.tokenizer.vocab))
        trainer = Trainer(config, opened.backend, opened.dtype, data, run, progress)
        trainer.restore()
        return trainer
    except BaseException:
        run.close()
        raise


def complete(trainer: Trainer, stop: StopSignals, max_steps: int | None) -> None:
    """Train to the end, or to ``max_steps``, or until a signal; then say how the run stands.

    Samples and figures of the held-out rows go to standard output.
    """
    last_step = min(trainer.config.steps, max_steps or trainer.config.steps)
    trainer.train(stop, last_step)
    path = trainer.run.path
    if stop.requested is not None:
        trainer.progress.say(f"saved at step {trainer.state.step}; --resume continues {path}")
        return
    if trainer.evaluated_step != trainer.state.step:
        trainer.evaluate()
    columns, colour = shutil.get_terminal_size((100, 24)).columns, wants_colour(sys.stdout)
    print(f"held-out samples: {LEGEND}\n")
    for sample in trainer.samples:
        print(format_sample(sample, colour=colour, columns=columns), end="\n\n")
    print(f"step {trainer.state.step}: {summary(trainer.metrics)}")
    print(f"the run is in {path}")


def _prepare(
    run: RunDirectory, config: Config, source: Source, progress: Progress, stop: StopSignals
) -> PreparedData:
    """Prepare the data, those of the run's first start if it had come so far."""

    def report(stage: str, done: int, total: int) -> None:
        if stop.requested is not None:
            raise StoppedError
        progress.stage(stage, done, total)

    record = run.path / "data.json"
    try:
        data = prepare(
            config,
            find_cache_dir(run.path / "cache"),
            corpus=source.corpus,
            ids_path=source.tokens,
            vocabulary=load_vocabulary(run.vocabulary) if record.exists() else None,
            known_key=json.loads(record.read_text())["key"] if record.exists() else None,
            progress=report,
        )
    finally:
        progress.close()
    figures = data.report
    progress.say(
        f"data: {figures['tokens']:,} tokens, {len(data.tokenizer.vocab):,} in the vocabulary, "
        f"{data.training.count:,} rows to train on, {data.held_out.count:,} held out"
    )
    return data
