"""Token caches for tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from electra_ref.text.cache_folder import cache_key, open_or_build
from electra_ref.text.token_cache import EncodedDocument, TokenCache, join_shards, write_tokens


def cached_shards(
    folder: Path, shards: Sequence[Iterable[EncodedDocument]], vocab_size: int, name: str = "test"
) -> TokenCache:
    """Write each of ``shards`` as one of a corpus, which ``name`` tells from others."""
    keys = [cache_key("shard", name=name, number=number) for number in range(len(shards))]
    for key, documents in zip(keys, shards, strict=True):

        def build(path: Path, documents: Iterable[EncodedDocument] = documents) -> dict[str, Any]:
            write_tokens(path, documents, vocab_size)
            return {}

        open_or_build(folder, key, build)
    key = cache_key("tokens", name=name)
    return join_shards(folder, key, keys, vocab_size, lambda _: {"documents": 0})


def cached(folder: Path, documents: Iterable[EncodedDocument], vocab_size: int) -> TokenCache:
    """Write ``documents`` as a corpus of one shard."""
    return cached_shards(folder, [documents], vocab_size)
