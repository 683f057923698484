"""What an objective says of its steps if all its parameters learn from the first to the last."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TypeVar

from electra_ref.config.objective import ObjectiveConfig
from electra_ref.model.parameters import FlatParameters

C = TypeVar("C", bound=ObjectiveConfig)


def begin_step(model: object, step: int, parameters: FlatParameters) -> None:
    """Change nothing before a step."""
    del model, step, parameters


def unchanged(model: object) -> Iterator[str]:
    """Yield no parameter: all learn at every step."""
    del model
    return iter(())


def settings_at(settings: C, step: int) -> C:
    """Return ``settings`` with the sampling temperature of ``step`` and no schedule."""
    return dataclasses.replace(
        settings,
        temperature=settings.temperature_at(step),
        temperature_end=1.0,
        temperature_steps=0,
    )
