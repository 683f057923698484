"""From text to the shards of a token cache, by as many processes as there are.

    plan_shards -> shard_tokenizer(...)(shard) for each shard, anywhere, in any order -> join_text

``shard_tokenizer`` gets all it needs as arguments, and leaves its result in the cache folder under
a key that depends on the text alone. So the shards may be shared among processes, or machines with
one file system, in any way. ``join_text`` needs only what each shard returned, in order.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from electra_ref.config.normalization import NormalizationConfig
from electra_ref.text.cache_folder import CacheFolder, cache_key, is_key, open_intact, open_or_build
from electra_ref.text.corpus import hash_files, read_documents
from electra_ref.text.corpus_file import BytesRead, CorpusFile, CorpusReport
from electra_ref.text.reading import Share, nobody
from electra_ref.text.shards import SHARD_BYTES, Shard, hash_contents, open_to_others, plan_shards
from electra_ref.text.token_cache import EncodedDocument, TokenCache, join_shards, write_tokens
from electra_ref.text.unknown_words import UnknownWords, joined_facts
from electra_ref.text.wordpiece import WordPiece
from electra_ref.text.workers import do_all

SETTLED_NANOSECONDS = 2_000_000_000  # a file that was written later may change without a new date


class Recipe(NamedTuple):
    """How text becomes ids."""

    vocabulary: tuple[str, ...]
    lowercase: bool
    strip_accents: bool

    def key(self, kind: str, content: str) -> str:
        """Return the key of the ids of the text with the hash ``content``."""
        digest = hashlib.sha256("\n".join(self.vocabulary).encode()).hexdigest()
        return cache_key(kind, content=content, **{**self._asdict(), "vocabulary": digest})


class TokenizedShard(NamedTuple):
    """A shard that is in the cache."""

    key: str  # of its folder
    content: str  # hash of its text


def recipe_of(vocabulary: Sequence[str], config: NormalizationConfig) -> Recipe:
    """Return how ``vocabulary`` and ``config`` make ids of text."""
    return Recipe(tuple(vocabulary), config.lowercase, config.strips_accents)


def shard_tokenizer(
    recipe: Recipe, cache_dir: Path, *, verify: bool = False
) -> Callable[[Shard, BytesRead], TokenizedShard]:
    """Return a function that tokenizes a shard, or finds it in the cache.

    It hashes the text first. It calls its second argument with the bytes on disk that it has
    tokenized since last time, and raises UserError for text that cannot be used. With ``verify``,
    every byte in the cache is compared with its SHA-256 before it is used.
    """
    tokenizer = WordPiece(
        recipe.vocabulary, lowercase=recipe.lowercase, strip_accents=recipe.strip_accents
    )

    def tokenize_shard(shard: Shard, on_bytes: BytesRead) -> TokenizedShard:
        content = hash_files(shard.files, lambda _: on_bytes(0))
        done = 0

        def build(folder: Path) -> dict[str, Any]:
            report, unknown = CorpusReport(), UnknownWords(tokenizer)

            def advance(amount: int) -> None:
                nonlocal done
                done += amount
                on_bytes(amount)

            def encode(document: list[str]) -> EncodedDocument:
                encoded = tokenizer.encode_lines(document)
                unknown.count(document, encoded)
                return EncodedDocument(*encoded)

            documents = read_documents(shard.files, report, advance)
            write_tokens(folder, map(encode, documents), len(tokenizer.vocab))
            return {**dataclasses.asdict(report), **unknown.facts()}

        key = recipe.key("shard", content)
        open_or_build(cache_dir, key, build, lambda: on_bytes(0), contents=verify)
        on_bytes(shard.size - done)
        return TokenizedShard(key, content)

    return tokenize_shard


def join_text(
    cache_dir: Path,
    recipe: Recipe,
    shards: Sequence[TokenizedShard],
    on_wait: Callable[[], None] = lambda: None,
) -> TokenCache:
    """Return the corpus that consists of ``shards``, in order. Raises UserError."""
    key = recipe.key("tokens", hash_contents([shard.content for shard in shards]))
    keys = [shard.key for shard in shards]
    return join_shards(cache_dir, key, keys, len(recipe.vocabulary), _joined_report, on_wait)


def _joined_report(folders: Sequence[CacheFolder]) -> dict[str, Any]:
    """Return the counts of CorpusReport and UnknownWords over all shards."""
    facts: list[Mapping[str, Any]] = [folder.facts for folder in folders]
    names = [field.name for field in dataclasses.fields(CorpusReport)]
    return {**{name: sum(each[name] for each in facts) for name in names}, **joined_facts(facts)}


def tokenize_files(
    files: Sequence[CorpusFile],
    recipe: Recipe,
    cache_dir: Path,
    workers: int,
    on_bytes: BytesRead,
    on_wait: Callable[[], None] = lambda: None,
    share: Share = nobody,
    *,
    verify: bool = False,
) -> TokenCache:
    """Return the files as token ids, tokenized by at most ``workers`` processes.

    ``share`` is called before that, if others can open the files.

    ``on_bytes`` is called with the bytes on disk that were tokenized since last time; it may raise
    to stop. What is in the cache is not tokenized again; nor is it hashed again if no file has
    changed its size or date since, unless ``verify`` asks for it. Raises UserError.
    """
    remembered = None if verify else _remembered(cache_dir, files, recipe)
    if remembered is not None:
        return join_text(cache_dir, recipe, remembered, on_wait)
    started = time.time_ns()
    shards = plan_shards(files)
    named = open_to_others(shards)
    have_names = all(isinstance(file.path, str) for file in files)
    if have_names:
        share(recipe, shards)
    begin = partial(shard_tokenizer, recipe, cache_dir, verify=verify)
    found = do_all(begin, named or shards, workers if named else 1, on_bytes)
    settled = started - SETTLED_NANOSECONDS
    if have_names and all(file.modified < settled for file in files):
        _remember(cache_dir, files, recipe, found)
    return join_text(cache_dir, recipe, found, on_wait)


def _remembered(
    cache_dir: Path, files: Sequence[CorpusFile], recipe: Recipe
) -> list[TokenizedShard] | None:
    """Return the shards of files whose names, sizes and dates are those of an earlier run.

    Return None if there are none, or if one of them is no longer in the cache.
    """
    folder = open_intact(cache_dir, _key_of(files, recipe))
    found = [] if folder is None else folder.facts.get("shards", [])
    try:
        shards = [TokenizedShard(str(key), str(content)) for key, content in found]
    except (TypeError, ValueError):  # anybody can seal a folder
        return None
    if not shards or not all(is_key(shard.key) for shard in shards):
        return None
    whole = all(open_intact(cache_dir, shard.key, contents=False) for shard in shards)
    return shards if whole else None


def _remember(
    cache_dir: Path,
    files: Sequence[CorpusFile],
    recipe: Recipe,
    shards: Sequence[TokenizedShard],
) -> None:
    open_or_build(cache_dir, _key_of(files, recipe), lambda _: {"shards": list(shards)})


def _key_of(files: Sequence[CorpusFile], recipe: Recipe) -> str:
    """Return the key of what is remembered about files: their names, sizes and dates."""
    states = [
        [file.path, file.size, file.modified, file.format, file.text_key, SHARD_BYTES]
        for file in files
    ]
    return recipe.key("listing", hashlib.sha256(repr(states).encode()).hexdigest())
