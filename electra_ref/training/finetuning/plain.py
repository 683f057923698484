"""What a kind of task says where it has nothing special to say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from electra_ref.training.finetuning.task import Labels, Record, Settings


def labels_of(records: Sequence[Record], settings: Settings) -> Labels:
    """Return (): the outputs have no names."""
    del records, settings
    return ()


def options(settings: Settings) -> Any:
    """Return None: the head has no options."""
    del settings
    return None


def settled(records: Sequence[Record], settings: Settings) -> Settings:
    """Return ``settings``: nothing is found out from the training data."""
    del records
    return settings


def augmented(records: list[Record], settings: Settings) -> list[Record]:
    """Return ``records``: they are trained on as they are."""
    del settings
    return records
