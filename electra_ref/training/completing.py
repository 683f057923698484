"""The part of a command that trains: up to the last step, a limit of steps or time, or a signal."""

from __future__ import annotations

import math
from typing import NamedTuple

from electra_ref.training.loop import Trainer
from electra_ref.training.stop_signals import StopSignals


class Limits(NamedTuple):
    """When training stops before its last step."""

    max_steps: int | None
    max_minutes: float | None
    started: float  # of ``time.monotonic``: the minutes count from there

    @property
    def given(self) -> str:
        """Return the flag of a limit that there is, "" if there is none."""
        if self.max_steps is not None:
            return "--max-steps"
        return "" if self.max_minutes is None else "--max-minutes"


def train_to_end(trainer: Trainer, stop: StopSignals, limits: Limits) -> int:
    """Train to the end, or until a limit or a signal; return the step it began at."""
    steps = trainer.config.steps
    last_step = min(steps, limits.max_steps or steps)
    first_step = trainer.state.step
    if first_step >= steps:
        trainer.progress.say(f"nothing is left to train: the run is at step {first_step:,}")
    elif first_step >= last_step:
        trainer.progress.say(
            f"--max-steps {last_step} is reached already: the run is at step {first_step:,} of "
            f"{steps:,}; it counts from the run's first step, so give a larger one"
        )
    else:
        minutes = math.inf if limits.max_minutes is None else limits.max_minutes
        trainer.train(stop, last_step, limits.started + 60 * minutes)
    return first_step
