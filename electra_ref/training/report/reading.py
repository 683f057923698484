"""What the folder of a run holds for its report, also while the run goes on.

Nothing is written and nothing is locked. What is missing or damaged is a line in ``notes``, and the
rest is shown. Only a folder that is no run is an error.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from electra_ref.config.pretraining import PretrainingConfig, resolve_config
from electra_ref.errors import UserError
from electra_ref.training.pretraining.collapse import all_warnings, judged
from electra_ref.training.pretraining.data_report import data_lines
from electra_ref.training.records import each_record
from electra_ref.training.report.curves import Columns
from electra_ref.training.run_data import read_vocabulary
from electra_ref.training.run_directory import PRETRAINING, RunDirectory, kind_of

TRAINING, HELD_OUT, SETTINGS = "training", "held_out", "settings"
MOST_JUDGED = 1000  # evaluations: what looks at them takes time with their square
_ROWS = ("original", "masked", "generated", "guessed")
_DETECTIONS = ("replaced", "probability")

Record = Mapping[str, Any]


class Change(NamedTuple):
    """A setting of a resumed run that is another one from ``step`` on."""

    step: int
    key: str
    before: Any
    after: Any


class Run(NamedTuple):
    """A run as far as its files tell."""

    name: str
    settings: Mapping[str, Any]  # as config.toml has them
    config: PretrainingConfig | None  # None: this version cannot read it
    environment: Mapping[str, Any]
    data: Sequence[str]  # lines about the text
    curves: Mapping[str, Columns]  # by split
    newest: Record  # of the held-out records; empty before the first
    changes: Sequence[Change]
    samples: Sequence[Record]  # of the newest evaluation
    warnings: Sequence[str]
    notes: Sequence[str]  # what is missing or damaged

    @property
    def last_step(self) -> int:
        """The last step on record; 0 without any."""
        return max(columns.last_step for columns in self.curves.values())


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Return the runs at ``paths``, each with a name of its own.

    Raises UserError if one of them is none, was fine-tuned, or is named twice.
    """
    for path in paths:
        run = RunDirectory.open(path)
        if kind_of(path) != PRETRAINING:
            raise UserError(
                f"{path} holds a fine-tuned model, and pages are of pre-training runs: its scores "
                f"are in {run.metrics}"
            )
    folders = [path.resolve() for path in paths]
    if len(set(folders)) < len(folders):
        raise UserError("a run is named twice; name each once")
    return [read_run(path, name) for path, name in zip(paths, names_of(folders), strict=True)]


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of absolute paths that differ: ["a/run", "b/run"]."""
    length = 1
    while True:
        names = ["/".join(folder.parts[1:][-length:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
        length += 1


def read_run(path: Path, name: str) -> Run:
    """Return the run at ``path`` under the name ``name``. Raises UserError if there is none."""
    run, notes = RunDirectory.open(path), list[str]()
    settings, config = _read_settings(run, notes)
    records = _read_metrics(run, notes)
    return Run(
        name=name,
        settings=settings,
        config=config,
        environment=run.environment(),
        data=_read_data(run, notes),
        curves=records.curves,
        newest=records.held_out[-1] if records.held_out else {},
        changes=records.changes,
        samples=_read_samples(run, notes),
        warnings=_warnings(records.held_out, config, run, notes),
        notes=notes,
    )


def _read_settings(
    run: RunDirectory, notes: list[str]
) -> tuple[dict[str, Any], PretrainingConfig | None]:
    """Return the settings, and the configuration: with the size of the vocabulary, if known."""
    try:
        settings = tomllib.loads(run.config.read_text(encoding="utf-8"))
        config = resolve_config(path=run.config)
    except UserError as error:
        notes.append(f"this version cannot read the settings: {error}")
        return settings, None
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"config.toml cannot be read: {error}")
        return {}, None
    if not run.vocabulary.exists():
        notes.append("there is no vocabulary yet: the data are being prepared")
        return settings, config
    try:
        return settings, dataclasses.replace(config, vocab_size=len(read_vocabulary(run)))
    except UserError as error:
        notes.append(f"the vocabulary cannot be read: {error}")
        return settings, config


class _Records(NamedTuple):
    """What ``metrics.jsonl`` holds."""

    curves: dict[str, Columns]
    held_out: list[Record]
    changes: list[Change]


def _read_metrics(run: RunDirectory, notes: list[str]) -> _Records:
    found = _Records({TRAINING: Columns(), HELD_OUT: Columns()}, [], [])
    damaged = []
    for number, record in enumerate(each_record(run.metrics), 1):
        if record is None or not _add(found, record):
            damaged.append(number)
    found.held_out.sort(key=lambda record: record["step"])
    _note_damage(run.metrics, damaged, notes)
    if not any(found.curves.values()):
        notes.append("nothing is logged yet")
    elif not found.held_out:
        notes.append("there was no evaluation on held-out rows yet")
    return found


def _add(found: _Records, record: dict[str, Any]) -> bool:
    """Add ``record`` to what is ``found``; return whether that was possible."""
    split = record.get("split")
    if not isinstance(split, str):
        return False
    if split in found.curves:
        try:
            found.curves[split].append(record)
        except OverflowError:
            return False
        if split == HELD_OUT:
            found.held_out.append(record)
    elif split == SETTINGS:
        try:
            changed = record["changed"].items()
            float(record["step"])  # it is drawn
            found.changes.extend([Change(record["step"], key, *values) for key, values in changed])
        except (KeyError, TypeError, AttributeError, OverflowError):
            return False
    return isinstance(split, str)


def _note_damage(path: Path, damaged: list[int], notes: list[str]) -> None:
    if damaged:
        lines = "line is" if len(damaged) == 1 else "lines are"
        notes.append(
            f"{len(damaged):,} damaged {lines} left out of {path.name}; the first is line "
            f"{damaged[0]:,}"
        )


def _read_samples(run: RunDirectory, notes: list[str]) -> list[Record]:
    """Return the samples of the newest evaluation."""
    newest: list[Record] = []
    damaged = []
    for number, record in enumerate(each_record(run.samples), 1):
        if record is None or not _is_sample(record):
            damaged.append(number)
        elif newest and record["step"] < newest[0]["step"]:
            continue
        elif newest and record["step"] == newest[0]["step"]:
            newest.append(record)
        else:
            newest = [record]
    _note_damage(run.samples, damaged, notes)
    return newest


def _is_sample(record: Record) -> bool:
    """Return whether ``record`` has tokens, and for each of its entries as many."""
    given = [record[key] for key in (*_ROWS, *_DETECTIONS) if key in record]
    if not all(isinstance(values, list) for values in given):
        return False
    tokens = [token for key in _ROWS for token in record.get(key, [])]
    return (
        "original" in record
        and len({len(values) for values in given}) == 1
        and sum(key in record for key in _DETECTIONS) != 1
        and all(isinstance(token, str) for token in tokens)
        and all(isinstance(flag, bool) for flag in record.get("replaced", []))
        and all(map(_is_probability, record.get("probability", [])))
    )


def _is_probability(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _read_data(run: RunDirectory, notes: list[str]) -> list[str]:
    """Return what a run said of its data; nothing before they are prepared."""
    try:
        facts = json.loads(run.data.read_bytes())
        return list(_lines_of_data(facts))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
        notes.append(f"{run.data.name} cannot be read: it is damaged")
    except RecursionError:
        notes.append(f"{run.data.name} cannot be read: it is nested too deeply")
    return []


def _lines_of_data(facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"{facts['tokens']:,} tokens"
    yield from data_lines(facts)
    yield from map(str, facts["notes"])


def _warnings(
    held_out: list[Record],
    config: PretrainingConfig | None,
    run: RunDirectory,
    notes: list[str],
) -> list[str]:
    """Return what the evaluations so far warn of, the first warning first."""
    if config is None or not held_out:
        return []
    history = judged(held_out, config)
    if len(history) > MOST_JUDGED:
        notes.append(f"warnings are those of the first {MOST_JUDGED:,} evaluations")
    source = run.environment().get("source")
    of_model = isinstance(source, dict) and source.get("init_from") is not None
    try:
        warnings = all_warnings(history[:MOST_JUDGED], config, of_model=of_model)
        return [line for _, line in sorted(warnings)]
    except (TypeError, ValueError, OverflowError) as error:
        notes.append(f"the evaluations cannot be judged: {error}")
        return []
