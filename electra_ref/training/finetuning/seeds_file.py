"""``seeds.json``: the marker of a folder with a run for each seed, and which of them is the best.

    seeds.json     {"format": ..., "seeds": [0, 1, 2], "scores": {"0": {...}, ...}, "best": 1, ...}
    config.toml    the settings that all have in common; where it is missing, no run has begun
    seed-0/ ...    the runs

``scores`` has the seeds that are done, ``best`` is there when all are. ``task`` and ``files`` say
what is trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from electra_ref.errors import UserError
from electra_ref.files import disk_errors, write_json_atomically
from electra_ref.training.run_directory import FINETUNING, last_used, newest_run, runs_in

FORMAT = "electra_ref seeds 1"
CONFIG = "config.toml"
_NAME = "seeds.json"


class Seeds(NamedTuple):
    """What the file holds."""

    seeds: Sequence[int]
    scores: Mapping[str, Mapping[str, float]]  # by the seed: the scores of its model
    best: int | None
    task: str  # the kind
    files: Mapping[str, str]  # what all seeds read


def run_of(folder: Path, seed: int) -> Path:
    """Return the folder of the run of ``seed``."""
    return folder / f"seed-{seed}"


def write_seeds(folder: Path, seeds: Seeds) -> None:
    """Write the file. Raises UserError if the disk refuses."""
    write_json_atomically(folder / _NAME, {"format": FORMAT, **seeds._asdict()})


def remove_seeds(folder: Path) -> None:
    """Delete the file. Raises OSError."""
    (folder / _NAME).unlink()


def read_seeds(folder: Path) -> Seeds | None:
    """Return what the file holds, None if it is not ours."""
    try:
        facts: dict[str, Any] = json.loads((folder / _NAME).read_bytes())
        if facts["format"] != FORMAT:
            return None
        seeds = [int(seed) for seed in facts["seeds"]]
        rest = (facts[key] for key in Seeds._fields[1:])
        return Seeds(seeds, *rest)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def is_of_seeds(folder: Path) -> bool:
    """Return whether ``folder`` has a run for each seed."""
    return read_seeds(folder) is not None


def have_begun(folder: Path) -> bool:
    """Return whether ``folder`` has runs of several seeds that are to be resumed, not begun again.

    It has ``config.toml``, or runs and has lost it.
    """
    seeds = read_seeds(folder)
    if seeds is None:
        return False
    return (folder / CONFIG).exists() or any(run_of(folder, seed).exists() for seed in seeds.seeds)


def newest_to_resume(root: Path) -> Path:
    """Return the fine-tuning run in ``root``, or the folder of several, that was used last.

    Raises UserError if there is none.
    """
    used = {path: last_used(path) for path in runs_in(root, FINETUNING)}
    if root.is_dir():
        with disk_errors(f"read {root}"):
            folders = [path for path in sorted(root.iterdir()) if have_begun(path)]
            used |= {path: _last_used(path) for path in folders}
    return max(used, key=used.__getitem__) if used else newest_run(root, FINETUNING)


def _last_used(folder: Path) -> int:
    """Return nanoseconds since the epoch: when one of the runs was locked, or the file written."""
    seeds = read_seeds(folder)
    numbers = () if seeds is None else seeds.seeds
    written = (folder / _NAME).stat().st_mtime_ns
    return max([written, *(last_used(run_of(folder, seed)) for seed in numbers)])


def best_of(folder: Path) -> Path:
    """Return the run whose model is the best. Raises UserError while some are not done."""
    seeds = read_seeds(folder)
    if seeds is None or seeds.best is None:
        raise UserError(
            f"not all seeds in {folder} are done, so none is the best yet: train them to the end "
            "with finetune --resume, or name the folder of one seed"
        )
    return run_of(folder, seeds.best)
