"""What any run needs, whatever it trains: steps and optimizer, device, intervals.

Source of the optimizer's defaults: google-research/electra configure_pretraining.py and
model/optimization.py; Clark et al. 2020, arXiv:2003.10555, table 6.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterator
from typing import TypeVar

from electra_ref.config.settings import Settings, count, setting
from electra_ref.errors import UserError

DEVICES = ("auto", "cpu", "gpu", "reference")
PRECISIONS = ("auto", "float32", "bfloat16", "float64")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Settings):
    """How often, and by how much, the parameters move."""

    steps: int = count(1_000_000, "optimizer steps of the whole run", resumed="free")
    batch_size: int = count(128, "sequences an optimizer step")
    accumulate: int = count(1, "micro-batches a step is split into; same result, less memory")
    learning_rate: float = setting(5e-4, "peak of the schedule", above=0.0, resumed="free")
    warmup_steps: int = count(10_000, "steps of linear warm-up", at_least=0, resumed="free")
    lr_decay_power: float = setting(
        1.0, "power of the decay to zero; 1 is linear", at_least=0.0, resumed="free"
    )
    weight_decay: float = setting(
        0.01, "decoupled decay of all but biases and layer norms", at_least=0.0
    )
    adam_beta1: float = setting(
        0.9, "decay of Adam's first moment", at_least=0.0, at_most=0.9999999
    )
    adam_beta2: float = setting(
        0.999, "decay of Adam's second moment", at_least=0.0, at_most=0.9999999
    )
    adam_epsilon: float = setting(1e-6, "added to the root of Adam's second moment", above=0.0)
    gradient_clip: float = setting(1.0, "largest norm of all gradients taken together", above=0.0)

    def _misfits(self) -> Iterator[str]:
        if self.batch_size % self.accumulate:
            yield f"batch_size = {self.batch_size} is no multiple of accumulate = {self.accumulate}"


@dataclasses.dataclass(frozen=True)
class RunConfig(Settings):
    """Where a run computes, and how often it reports."""

    seed: int = setting(0, "names every random number of the run", at_least=0, at_most=2**63 - 1)
    device: str = setting("auto", "auto, cpu, gpu or reference", choices=DEVICES, resumed="free")
    precision: str = setting("auto", "auto, float32, bfloat16 or float64", choices=PRECISIONS)
    log_every: int = count(100, "steps between two lines of metrics.jsonl", resumed="free")
    evaluate_every: int = count(
        10_000, "steps between two evaluations on held-out rows", resumed="free"
    )
    checkpoint_every: int = count(1_000, "steps between two checkpoints", resumed="free")
    keep_checkpoints: int = count(3, "newest checkpoints that are kept", resumed="free")


@dataclasses.dataclass(frozen=True)
class TrainingConfig(RunConfig, OptimizerConfig):
    """What the training loop reads."""


C = TypeVar("C", bound=TrainingConfig)


def shared_out(config: C, chosen: Container[str], processes: int) -> C:
    """Return ``config`` for a new run of several ``processes``: with a micro-batch for each.

    Where ``accumulate`` was ``chosen``, or ``batch_size`` is no multiple, it stays as it is.
    """
    if processes == 1 or "accumulate" in chosen or config.batch_size % processes:
        return config
    return dataclasses.replace(config, accumulate=processes)


def require_micro_batches(config: TrainingConfig, processes: int, *, resumed: bool = False) -> None:
    """Raise UserError if there are more ``processes`` than micro-batches in a step."""
    if processes <= config.accumulate:
        return
    few = f"accumulate = {config.accumulate} makes as many micro-batches a step"
    if resumed:
        raise UserError(
            f"{few}, too few for {processes} processes, and cannot change in a run that has begun: "
            f"start {config.accumulate} at most"
        )
    if config.batch_size < processes:
        raise UserError(
            f"batch_size = {config.batch_size} is too small for {processes} processes: start "
            f"{config.batch_size} at most, or set a larger batch_size"
        )
    divisors = [n for n in range(processes, config.batch_size + 1) if config.batch_size % n == 0]
    even = [n for n in divisors if n % processes == 0]
    advice = f"--set accumulate={(even or divisors)[0]}"
    if not even:
        advice += f", or a batch_size that {processes} divides, for an equal share each"
    raise UserError(f"{few}, too few for {processes} processes: {advice}")
