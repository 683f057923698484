"""How data are read. It changes how long that takes, not what comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # they import what takes a Reading
    from electra_ref.text.shards import Shard
    from electra_ref.text.tokenizing import Recipe

Share = Callable[["Recipe", Sequence["Shard"]], object]
"""Is called with shards that are about to be tokenized, and may let others tokenize some."""


def nobody(_recipe: Recipe, _shards: Sequence[Shard]) -> None:
    """Let nobody help."""


class Reading(NamedTuple):
    """Options of reading a corpus."""

    workers: int = 1  # processes that tokenize, at most
    verify: bool = False  # compare every byte in the cache with its SHA-256, and hash every file
    share: Share = nobody


ONE_PROCESS = Reading()
