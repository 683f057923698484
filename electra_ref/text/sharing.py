"""Shards of a corpus that several processes tokenize, each some of them, into the cache.

The first process prepares the corpus, and the others wait. Before it tokenizes, it tells them which
shards there are, and each takes every Kth. Then the first one goes on as if it were alone. It finds
in the cache what was left there by processes that share the folder with it; the rest it tokenizes
itself. Those on other nodes find their part when their turn comes. So whoever helps, and whatever
goes wrong with it, the result is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from electra_ref.process import threads_set
from electra_ref.processes import Processes
from electra_ref.text.named_files import Progress, counter
from electra_ref.text.reading import Reading, Share, nobody
from electra_ref.text.shards import Shard
from electra_ref.text.tokenizing import Recipe, shard_tokenizer
from electra_ref.text.workers import do_all

T = TypeVar("T")


def with_helpers(processes: Processes, tokenize: Share, prepare: Callable[[Share], T]) -> T:
    """Return what ``prepare`` returns, in the first of ``processes``; the others ``help_first``.

    ``prepare`` may call its argument once. Then each process calls its own ``tokenize``.
    """
    if processes.size == 1:
        return prepare(nobody)
    has_asked = False

    def share(recipe: Recipe, shards: Sequence[Shard]) -> None:
        nonlocal has_asked
        has_asked = True
        processes.of_first(lambda: (recipe, shards))
        try:
            tokenize(recipe, shards)
        finally:
            processes.meet()

    try:
        return prepare(share)
    finally:
        if not has_asked:
            processes.of_first(lambda: None)


def help_first(processes: Processes, tokenize: Share) -> None:
    """Do a share of the work, in one of ``processes`` that is not the first, if there is any."""
    given: tuple[Recipe, Sequence[Shard]] | None = processes.of_first(lambda: None)
    if given is not None:
        tokenize(*given)
        processes.meet()


def tokenize_share(
    processes: Processes,
    recipe: Recipe,
    shards: Sequence[Shard],
    cache_dir: Path,
    reading: Reading,
    progress: Progress,
) -> None:
    """Tokenize every Kth of the ``shards``, by as many workers as this process has threads.

    Raises UserError, and what ``progress`` raises.
    """
    own = shards[processes.rank :: processes.size]
    do_all(
        partial(shard_tokenizer, recipe, cache_dir, verify=reading.verify),
        own,
        min(reading.workers, threads_set()),
        counter(progress, "tokenizing", sum(shard.size for shard in own)),
    )
