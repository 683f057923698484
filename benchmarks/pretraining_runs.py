"""Pre-training runs of the benchmarks: how long they are, where they stand, how they go on.

A run that has finished is not repeated, and one that was stopped goes on, so that a benchmark can
be stopped and started again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.side_by_side import run_module
from electra_ref.config.pretraining import PretrainingConfig, resolve_config
from electra_ref.errors import UserError
from electra_ref.training.checkpoint import checkpoint_path
from electra_ref.training.pretraining.products import run_flop
from electra_ref.training.records import read_records
from electra_ref.training.run_directory import RunDirectory

HALF = "{half}"  # in a setting: half of the steps
SAME_MODEL = ("keep_checkpoints",)  # what two runs may differ in and leave the same model


class Plan(NamedTuple):
    """A variant, and how long it trains."""

    variant: str
    preset: str
    steps: int
    settings: tuple[str, ...]  # key=value
    flop_per_step: float  # of matrix products, the mean of all steps

    def config(self, seed: int) -> PretrainingConfig:
        """Return the whole configuration. Raises UserError for a setting that is wrong."""
        return resolve_config(preset=self.preset, settings=[*self.settings, f"seed={seed}"])


class Run(NamedTuple):
    """A plan with one seed, in its folder."""

    plan: Plan
    seed: int
    folder: Path
    corpus: tuple[str, ...] = ()  # files; none: the embedded corpus

    @property
    def name(self) -> str:
        """Return what people call the run."""
        return f"{self.plan.variant}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """Return the file for what the training command prints."""
        return self.folder.with_name(f"{self.folder.name}.log")


def plan_of(variant: str, preset: str, settings: Iterable[str], steps: int) -> Plan:
    """Return the plan that takes ``steps``; warm-up has the share of them that the preset gives it.

    Raises UserError.
    """
    defaults = resolve_config(preset=preset)
    warmup = round(defaults.warmup_steps / defaults.steps * steps)
    chosen = (
        *(setting.replace(HALF, str(steps // 2)) for setting in settings),
        *(f"steps={steps}", f"warmup_steps={warmup}", "device=cpu"),
    )
    return plan_with(variant, preset, chosen)


def plan_with(variant: str, preset: str, settings: Iterable[str]) -> Plan:
    """Return the plan with these settings. Raises UserError.

    The FLOP are counted for a vocabulary of ``max_vocab_size``.
    """
    settings = tuple(settings)
    config = resolve_config(preset=preset, settings=settings)
    size = f"vocab_size={config.max_vocab_size}"
    counted = resolve_config(preset=preset, settings=[*settings, size])
    return Plan(variant, preset, config.steps, settings, run_flop(counted) / config.steps)


def steps_of_equal_flop(plan: Plan, budget: float) -> int:
    """Return how many steps of ``plan`` take ``budget`` FLOP of matrix products."""
    return round(budget / plan.flop_per_step)


def check_folders(runs: Iterable[Run]) -> None:
    """Raise UserError if the folder of a run holds one with other settings, or of another text."""
    for run in runs:
        for other in _differences(run):
            raise UserError(
                f"{run.folder} holds a run with another {other}: "
                "move it elsewhere, or choose another --output-dir"
            )


def _differences(run: Run) -> Iterator[str]:
    """Yield what the run that is in the folder of ``run`` has unlike it. Raises UserError."""
    wanted, path = asdict(run.plan.config(run.seed)), run.folder / "config.toml"
    if not path.exists():
        return
    there = asdict(resolve_config(path=path))
    compared = [key for key in wanted if key not in SAME_MODEL]
    yield from (key for key in compared if there[key] != wanted[key])
    if RunDirectory.open(run.folder).environment()["source"]["corpus"] != list(run.corpus):
        yield "--corpus"


def last_record(run: Run) -> dict[str, Any] | None:
    """Return the evaluation at the end of ``run``, or None if it has not finished.

    Raises UserError if the file is damaged.
    """
    for record in reversed(read_records(run.folder / "metrics.jsonl")):
        if record.get("split") == "held_out":
            return record if record["step"] == run.plan.steps else None
    return None


def checkpoint_of(run: Run, step: int) -> Path:
    """Return where ``run`` leaves the checkpoint of ``step``."""
    return checkpoint_path(run.folder / "checkpoints", step)


def has_finished(run: Run) -> bool:
    """Return whether the last evaluation of ``run`` and its last checkpoint are there."""
    return last_record(run) is not None and checkpoint_of(run, run.plan.steps).exists()


def command_of(run: Run) -> Sequence[str]:
    """Return the arguments of ``python -m`` that begin ``run``, or continue it if it has begun."""
    command = ["electra_ref.train", "--output-dir", str(run.folder)]
    if (run.folder / "config.toml").exists():
        return [*command, "--resume"]
    if run.corpus:
        command += ["--corpus", *run.corpus]
    command += ["--preset", run.plan.preset, "--seed", str(run.seed)]
    return [*command, *(part for setting in run.plan.settings for part in ("--set", setting))]


def train(run: Run) -> None:
    """Begin or continue ``run`` and wait for its end. Raises UserError if it fails."""
    run_module(command_of(run), run.log)
