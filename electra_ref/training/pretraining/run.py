"""A pre-training run from start to end: folder, data, model, training, last evaluation."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from electra_ref.backends import OpenedBackend
from electra_ref.config.pretraining import PretrainingConfig, resolve_config
from electra_ref.config.settings import to_toml
from electra_ref.config.training import require_micro_batches
from electra_ref.counting import counted
from electra_ref.errors import UserError
from electra_ref.masking import masked_slots
from electra_ref.model.networks import Networks
from electra_ref.processes import ALONE, Processes, require_same
from electra_ref.terminal_text import visible
from electra_ref.text.prepare import PreparedData
from electra_ref.text.reading import ONE_PROCESS, Reading
from electra_ref.training.checkpoint import list_checkpoints
from electra_ref.training.completing import Limits, train_to_end
from electra_ref.training.continuation import changed_configuration
from electra_ref.training.environment import fingerprint_changes
from electra_ref.training.loop import Trainer
from electra_ref.training.opening import open_together
from electra_ref.training.pretraining.forecast import describe, forecast, require_memory
from electra_ref.training.pretraining.initialization import initialize
from electra_ref.training.pretraining.preparing import prepare_data
from electra_ref.training.pretraining.samples import LEGEND, format_sample
from electra_ref.training.pretraining.source import Source, moved_source, recorded_source
from electra_ref.training.pretraining.task import PretrainingTask, initial_state
from electra_ref.training.progress import (
    Progress,
    fitted,
    format_duration,
    show,
    wants_colour,
)
from electra_ref.training.report.drawing import INSTALL
from electra_ref.training.run_data import record_data
from electra_ref.training.run_directory import (
    IMPORTED,
    PRETRAINING,
    RunDirectory,
    kind_of,
    new_run_path,
    opened_by_first,
)
from electra_ref.training.saved_model import find_model
from electra_ref.training.stop_signals import StopSignals

COMMAND = "python -m electra_ref.train"
REPORT = "python -m electra_ref.report"
RUNS = Path("runs")  # of the runs without --output-dir


def begin(
    path: Path | None,
    config: PretrainingConfig,
    source: Source,
    progress: Progress,
    stop: StopSignals,
    reading: Reading = ONE_PROCESS,
    processes: Processes = ALONE,
) -> Trainer:
    """Create the run's folder, prepare the data, return the trainer at step 0.

    The folder is ``path``, or a new one in RUNS. Raises UserError for data or a disk that cannot
    be used; then nothing is left behind.
    """
    masked_slots(config.row_length, config.mask_probability)  # raises if nothing can be masked
    require_micro_batches(config, processes.size)
    opened, environment, processes = open_together(config, processes)
    progress.say(opened.reason)
    is_ours = path is None or not os.path.lexists(path)
    run = opened_by_first(
        processes,
        lambda: RunDirectory.create(
            path or new_run_path(RUNS, config.preset),
            to_toml(config),
            {**environment, "source": source._asdict()},
        ),
    )
    try:
        again = resume_command(run.path)
        trainer, data = _trainer(
            run, config, opened, source, progress, stop, reading, again, processes
        )
        processes.of_first(lambda: _record(run, data))
        trainer.share_state()
        if source.init_from is not None:
            trainer.save()  # what it begins with may be gone or be another when it is resumed
        return trainer
    except (UserError, MemoryError):
        run.discard(folder=is_ours)
        raise
    except BaseException:
        run.close()
        raise


def resume(
    path: Path,
    settings: Sequence[str],
    source: Source | None,
    progress: Progress,
    stop: StopSignals,
    reading: Reading = ONE_PROCESS,
    processes: Processes = ALONE,
) -> Trainer:
    """Continue the run at ``path`` from its newest checkpoint.

    ``settings`` are ``key=value`` of settings that are free. ``source`` names where the data lie
    now, if not where they were. Both are kept in the run's folder. Raises UserError for a setting
    that cannot change, for other data, and for a run that cannot be continued.
    """
    run = opened_by_first(processes, lambda: RunDirectory.resume(path))
    try:
        then, before, config, named = processes.of_first(lambda: _recorded(run, settings, source))
        require_micro_batches(config, processes.size, resumed=True)
        opened, now, processes = open_together(config, processes)
        progress.say(opened.reason)
        for change in fingerprint_changes(then, now):
            progress.say(f"not the machine this run began on, its bits may differ: {change}")
        again = resume_command(path, settings, source)
        moved = source is not None
        begins = processes.of_first(lambda: not list_checkpoints(run.checkpoints))
        trainer, data = _trainer(
            *(run, config, opened, named, progress, stop, reading, again, processes),
            resumed=True,
            moved=moved,
        )
        trainer.restore(before)  # refuses other data: what is recorded of the first is kept
        processes.of_first(lambda: _record(run, data))
        if config != before or source is not None:
            facts = {**then, "source": named._asdict()}
            processes.of_first(lambda: run.rewrite(to_toml(config), facts))
        if begins and named.init_from is not None:
            trainer.save()  # as in ``begin``
        progress.say(f"resuming {path} at step {trainer.state.step:,} of {config.steps:,}")
        return trainer
    except BaseException:
        run.close()
        raise


def _recorded(
    run: RunDirectory, settings: Sequence[str], source: Source | None
) -> tuple[dict[str, Any], PretrainingConfig, PretrainingConfig, Source]:
    """Return environment and settings of ``run``, its settings from here on, where its data lie.

    Raises UserError if it is no run of pre-training, and for a setting that cannot change.
    """
    path, then = run.path, run.environment()
    if kind_of(path) != PRETRAINING:
        raise UserError(
            f"the run in {path} is one of fine-tuning; to go on with it: "
            f"python -m electra_ref.finetune --resume --output-dir {shlex.quote(str(path))}"
        )
    if IMPORTED in then:
        raise UserError(
            f"the model in {path} was imported and never trained, so there is nothing to "
            f"resume; to train on from its weights: --init-from {shlex.quote(str(path))}"
        )
    before = resolve_config(path=run.config)
    config = changed_configuration(
        run, before, lambda given: resolve_config(path=run.config, settings=given), settings
    )
    named = moved_source(source, then) if source else recorded_source(run)
    return then, before, config, named


def complete(trainer: Trainer, stop: StopSignals, limits: Limits) -> None:
    """Train to the end, or until a limit or a signal. Then report the state of the run.

    Samples and figures of the held-out rows go to standard output.
    """
    first_step = train_to_end(trainer, stop, limits)
    step = trainer.state.step
    if stop.agree(trainer.processes):
        trainer.progress.say(f"saved at step {step:,}; to go on:")
        trainer.progress.say(resume_command(trainer.run.path), whole=True)
        return
    evaluation = trainer.closing_evaluation()
    columns, colour = shutil.get_terminal_size((100, 24)).columns, wants_colour(sys.stdout)
    samples = [format_sample(s, colour=colour, columns=columns) for s in evaluation.samples]
    path, took = visible(str(trainer.run.path)), format_duration(time.monotonic() - limits.started)
    lines = [
        f"step {step}: {evaluation.summary}",
        f"{counted(step - first_step, 'step')} in {took}; the run is in {path}; to train on:",
    ]
    first, last = (fitted(line, sys.stdout) for line in lines)
    before = "" if find_spec("matplotlib") else f", after {INSTALL} (extra: plots)"
    report = visible(f"curves{before}: {REPORT} {shlex.quote(str(trainer.run.path))}")
    more = f" --set steps={2 * step}" if step == trainer.config.steps else ""
    again = visible(resume_command(trainer.run.path))
    figures = f"{first}\n{report}\n{last}\n{again}{more}\n"
    legend = f": {LEGEND}" if "rtd_auc" in evaluation.metrics else ""
    show("\n\n".join([fitted(f"held-out samples{legend}", sys.stdout), *samples, figures]))


def resume_command(path: Path, settings: Sequence[str] = (), source: Source | None = None) -> str:
    """Return the whole command that continues the run at ``path``."""
    words = ["--resume", "--output-dir", str(path)]
    for setting in settings:
        words += ["--set", setting]
    if source is not None:
        words += ["--tokens", *source.tokens] if source.tokens else ["--corpus", *source.corpus]
    return f"{COMMAND} {shlex.join(words)}"


def _trainer(
    run: RunDirectory,
    config: PretrainingConfig,
    opened: OpenedBackend,
    source: Source,
    progress: Progress,
    stop: StopSignals,
    reading: Reading,
    again: str,
    processes: Processes,
    *,
    resumed: bool = False,
    moved: bool = False,
) -> tuple[Trainer, PreparedData]:
    """Prepare the data; return the trainer, and what was read.

    The data of a resumed run that were ``moved`` are read again. Raises UserError if the vocabulary
    of the data has not as many entries as ``config`` asks for.
    """
    data = prepare_data(run, config, source, progress, stop, reading, again, processes, moved=moved)
    entries = len(data.tokenizer.vocab)
    if config.vocab_size not in (0, entries):
        raise UserError(
            f"the data yield a vocabulary of {entries} entries, not of vocab_size = "
            f"{config.vocab_size}; leave vocab_size out (max_vocab_size limits it)"
        )
    config = dataclasses.replace(config, vocab_size=entries)
    require_same(processes, {"vocab_size": str(entries), "data": data.key})
    of_model = source.init_from is not None
    task = PretrainingTask(config, opened.backend, data, processes, of_model=of_model)
    parameters = sum(math.prod(spec.shape) for spec in task.objective.parameter_specs(task.model))
    itemsize = np.dtype(opened.dtype).itemsize
    if opened.device != "gpu":
        require_memory(config, parameters, itemsize, processes, resumed=resumed)
    needs = forecast(config, parameters, itemsize, data.training, data.held_out)
    on_gpu = opened.device == "gpu"
    for line in describe(config, needs, processes, on_gpu=on_gpu, resumed=resumed):
        progress.say(line)
    state = initial_state(config, opened.backend, task.model, opened.dtype)
    trainer = Trainer(config, opened.backend, state, task, run, progress, processes)
    if source.init_from is not None:
        path = Path(source.init_from)
        networks = task.objective.networks_of(task.model)
        processes.of_first(lambda: _initialize(trainer, networks, path))
    return trainer, data


def _record(run: RunDirectory, data: PreparedData) -> None:
    """Record what was read, unless it is; a resumed run may have been stopped before this."""
    if not run.data.exists():
        record_data(run, data.tokenizer.vocab, {"key": data.key, **data.report})


def _initialize(trainer: Trainer, networks: Networks, path: Path) -> None:
    """Begin with the model at ``path``; a run with a checkpoint has begun already."""
    if not list_checkpoints(trainer.run.checkpoints):
        model = find_model(path)
        say = trainer.progress.say
        initialize(trainer.state, networks, trainer.backend, model, path, say)
