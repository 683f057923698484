"""Evaluates a saved model: on the held-out rows of its run, or on rows of another corpus.

On the rows of its run, in the run's precision, the figures are those that the run has logged: masks
and samples belong to the rows and to the seed.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.errors import UserError
from electra_ref.masking import masked_slots
from electra_ref.text.cache_folder import find_cache_dir
from electra_ref.text.examples import open_all_examples
from electra_ref.text.prepare import PreparedData, packing_rules, prepare, tokenize
from electra_ref.text.reading import ONE_PROCESS, Reading
from electra_ref.training.pretraining.data_report import data_lines
from electra_ref.training.pretraining.source import Source, recorded_source
from electra_ref.training.pretraining.task import PretrainingTask
from electra_ref.training.progress import Progress
from electra_ref.training.run_data import read_key
from electra_ref.training.run_directory import IMPORTED
from electra_ref.training.saved_model import StoredModel, find_model, open_model
from electra_ref.training.stop_signals import StoppedError, StopSignals


def evaluate(
    path: Path,
    source: Source | None,
    batches: int | None,
    device: str | None,
    precision: str | None,
    progress: Progress,
    stop: StopSignals,
    reading: Reading = ONE_PROCESS,
) -> dict[str, Any]:
    """Return what was read and the figures of the model at ``path``, as metrics.jsonl names them.

    Without a ``source`` the rows are those that its run holds out. At most ``batches`` are read, or
    as many as the run's own evaluations; ``device`` and ``precision`` are the run's, too, if they
    are not given. Raises UserError, and StoppedError after a signal.
    """
    stored = find_model(path)
    config = stored.config
    if batches is not None:
        config = dataclasses.replace(config, evaluation_batches=batches)
    masked_slots(config.row_length, config.mask_probability)  # raises if nothing can be masked
    saved = open_model(path, device or config.device, precision or config.precision)
    progress.say(saved.opened.reason)

    def report(stage: str, done: int, total: int) -> None:
        if stop.requested is not None:
            raise StoppedError
        progress.stage(stage, done, total)

    def on_rows(done: int) -> None:
        if done:  # the first batch waits for the compiler
            report("evaluating", done, numbers.size)

    with tempfile.TemporaryDirectory() as scratch:
        try:
            data = _data(path, stored, config, source, Path(scratch), report, reading)
            task = PretrainingTask(config, saved.opened.backend, data)
            numbers = task.held_out_rows()
            progress.close()
            for line in _about(data, numbers.size):
                progress.say(line)
            evaluation = task.evaluate(saved.parameters, saved.step, on_rows)
        except FloatingPointError as error:
            raise UserError(
                f"the model in {path} has diverged ({error}): name an earlier checkpoint of its "
                "run, or train it again at a lower rate"
            ) from error
        finally:
            progress.close()
    progress.say(evaluation.summary)
    rows = data.held_out.index.rows(numbers)
    return {
        "model": str(path),
        "step": saved.step,
        "objective": config.objective,
        **_replacements(config),
        "rows": numbers.size,
        "rows_available": data.held_out.count,
        "tokens": int(np.sum(rows[:, 2] - rows[:, 0])),
        **evaluation.metrics,
    }


def _data(
    path: Path,
    stored: StoredModel,
    config: PretrainingConfig,
    source: Source | None,
    scratch: Path,
    report: Callable[[str, int, int], None],
    reading: Reading,
) -> PreparedData:
    """Return the rows to evaluate as those held out; ``scratch`` is for a cache, if need be."""
    vocabulary = stored.tokenizer.vocab
    if source is None:
        run = stored.run
        if run is None or IMPORTED in run.environment():
            raise UserError(f"the model in {path} came without data: name some with --corpus")
        own = recorded_source(run)
        return prepare(
            config,
            find_cache_dir(run.path / "cache"),
            corpus=own.corpus,
            text_key=own.text_key,
            ids_paths=own.tokens,
            vocabulary=vocabulary,
            known_key=read_key(run),
            progress=report,
            reading=reading,
        )
    cache_dir = find_cache_dir(scratch / "cache")
    tokenizer, cache, facts = tokenize(
        config,
        cache_dir,
        corpus=source.corpus,
        text_key=source.text_key,
        ids_paths=source.tokens,
        vocabulary=vocabulary,
        progress=report,
        reading=reading,
    )
    rows = open_all_examples(
        cache_dir,
        cache,
        packing_rules(config),
        lambda: report("waiting", 0, 0),
        partial(report, "packing"),
    )
    return PreparedData(tokenizer, rows, rows, cache.folder.key, facts)


def _replacements(config: PretrainingConfig) -> dict[str, str]:
    """Return where the tokens come from that are put in the place of others, if any are."""
    if config.objective == "mlm":
        return {}
    return {"replacements": "uniform" if config.uniform_generator else "generator"}


def _about(data: PreparedData, rows: int) -> list[str]:
    """Return lines about what is read."""
    count = data.held_out.count
    left = "" if rows == count else f" of {count:,}; --batches reads more"
    return [*data_lines(data.report), f"evaluating {rows:,} rows{left}"]
