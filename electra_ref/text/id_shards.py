"""From arrays of token ids to the shards of a token cache: see ``tokenizing`` for the same of text.

The ids are read three times: checked, because the vocabulary has as many entries as the largest
needs; hashed; and copied where the cache does not have them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from electra_ref.errors import UserError
from electra_ref.text.cache_folder import CacheFolder, cache_key, open_or_build
from electra_ref.text.shards import SHARD_BYTES, hash_contents
from electra_ref.text.token_cache import TokenCache, join_shards, write_tokens
from electra_ref.text.token_ids import (
    IdFacts,
    IdPart,
    OnIds,
    check_ids,
    fit_vocabulary,
    hash_ids,
    id_documents,
    id_vocabulary,
    join_facts,
    notes_on,
    open_id_array,
    plan_parts,
)
from electra_ref.text.tokenizing import TokenizedShard
from electra_ref.text.wordpiece import WordPiece
from electra_ref.text.workers import do_all


class IdShard(NamedTuple):
    """A part of an .npy file, and what the file looked like when it was listed."""

    path: str
    part: IdPart
    size: int  # bytes of the file
    modified: int  # nanoseconds


def plan_id_shards(paths: Sequence[str]) -> tuple[list[IdShard], int]:
    """Return the parts of all files in order, and the number of ids. Raises UserError."""
    shards: list[IdShard] = []
    total = 0
    for path in paths:
        ids = open_id_array(path)
        status = os.stat(path)
        total += ids.size
        shards += [
            IdShard(path, part, status.st_size, status.st_mtime_ns)
            for part in plan_parts(ids, SHARD_BYTES)
        ]
    return shards, total


def id_checker() -> Callable[[IdShard, OnIds], IdFacts]:
    """Return a function that checks the ids of a shard."""

    def check(shard: IdShard, on_ids: OnIds) -> IdFacts:
        return check_ids(open_id_array(shard.path), shard.path, on_ids, shard.part)

    return check


def id_copier(
    cache_dir: Path, vocab_size: int, *, verify: bool = False
) -> Callable[[IdShard, OnIds], TokenizedShard]:
    """Return a function that puts the ids of a shard into the cache, or finds them there.

    It calls its second argument with the number of ids that were copied since last time. Raises
    UserError if the file has changed since it was listed.
    """

    def copy(shard: IdShard, on_ids: OnIds) -> TokenizedShard:
        ids, part = open_id_array(shard.path), shard.part
        content = hash_ids(ids, part, lambda _: on_ids(0))
        done = 0

        def advance(amount: int) -> None:
            nonlocal done
            done += amount
            on_ids(amount)

        def build(folder: Path) -> dict[str, Any]:
            write_tokens(folder, id_documents(ids, advance, part), vocab_size)
            _check_unchanged(shard)
            return {}

        _check_unchanged(shard)
        key = cache_key("ids", content=content, wide=vocab_size > 1 << 16)
        open_or_build(cache_dir, key, build, lambda: on_ids(0), contents=verify)
        columns = ids.shape[1] if ids.ndim == 2 else 1
        on_ids((part.end - part.first) * columns - done)
        return TokenizedShard(key, content)

    return copy


def _check_unchanged(shard: IdShard) -> None:
    now = os.stat(shard.path)
    if (now.st_size, now.st_mtime_ns) != (shard.size, shard.modified):
        raise UserError(f"{shard.path} has changed while it was being used; start again")


def cache_ids(
    paths: Sequence[str],
    vocabulary: Sequence[str] | None,
    cache_dir: Path,
    workers: int,
    stage: Callable[[str, int], OnIds],
    on_wait: Callable[[], None],
    *,
    verify: bool = False,
) -> tuple[WordPiece, TokenCache]:
    """Check the arrays ``paths`` and copy them into the cache, by at most ``workers`` processes.

    ``stage`` returns what is called with the number of ids read, given what is done with them and
    how many there are. With a ``vocabulary``, the ids must fit it. Raises UserError.
    """
    shards, total = plan_id_shards(paths)
    checked = do_all(id_checker, shards, workers, stage("checking the token ids", total))
    name = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    facts = join_facts(checked, name)
    names = id_vocabulary(facts.largest)
    if vocabulary is not None:
        names = fit_vocabulary(names, vocabulary, name)
    tokenizer = WordPiece(names, lowercase=False)
    begin = partial(id_copier, cache_dir, len(names), verify=verify)
    copied = do_all(begin, shards, workers, stage("copying the token ids", total))

    def report(_: Sequence[CacheFolder]) -> dict[str, Any]:
        sizes = {shard.path: shard.size for shard in shards}
        return {
            "files": len(paths),
            "bytes": sum(sizes[path] for path in paths),
            "documents": facts.documents,
            "notes": list(notes_on(facts)),
        }

    contents = hash_contents([shard.content for shard in copied])
    key = cache_key("tokens", ids=contents, entries=len(names))
    keys = [shard.key for shard in copied]
    return tokenizer, join_shards(cache_dir, key, keys, len(names), report, on_wait)
