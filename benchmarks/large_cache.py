"""A token cache of any size whose files are sparse: to see what opening one takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from electra_ref.sealed_folder import Entry, write_index
from electra_ref.text.cache_folder import cache_key
from electra_ref.text.example_index import LONGEST_RUN
from electra_ref.text.examples import HELD_OUT, TRAINING, ExampleSource, open_examples
from electra_ref.text.packing import PackingRules
from electra_ref.text.token_cache import open_tokens

RULES = PackingRules(128, 0.1, 0.05, 0)
SHARD_TOKENS = 14_000_000  # of 64 MB of English text
SENTENCE_TOKENS, DOCUMENT_TOKENS, EXAMPLE_TOKENS = 25, 600, 110
HELD_OUT_SHARE = 0.05
ENTRIES = 30522

_NOBODY_COMPARES = "0" * 64


def make_cache(cache_dir: Path, tokens: int) -> str:
    """Make a corpus of ``tokens`` tokens and its examples; return its key.

    The SHA-256 of the sparse files is not theirs.
    """
    shards = []
    for number, start in enumerate(range(0, tokens, SHARD_TOKENS)):
        count = min(SHARD_TOKENS, tokens - start)
        key = cache_key("shard", number=number)
        sizes = {
            "tokens.bin": 2 * count,
            "sentence_ends.bin": 8 * (count // SENTENCE_TOKENS),
            "document_ends.bin": 8 * (count // DOCUMENT_TOKENS),
            "digests.bin": 8 * (count // DOCUMENT_TOKENS),
        }
        _make_folder(cache_dir, key, sizes, {})
        shards.append(key)
    corpus = cache_key("tokens", tokens=tokens)
    facts = {"shards": shards, "entries": ENTRIES, "report": {"documents": 0}}
    _make_folder(cache_dir, corpus, {}, facts)
    parts, sizes = {}, {}
    for name, share in ((TRAINING, 1 - HELD_OUT_SHARE), (HELD_OUT, HELD_OUT_SHARE)):
        examples = int(share * tokens / EXAMPLE_TOKENS)
        runs = [
            (int(examples * start / tokens), start)
            for start in range(0, tokens - EXAMPLE_TOKENS, LONGEST_RUN)
        ]
        documents = int(share * tokens / DOCUMENT_TOKENS)
        parts[name] = {"tokens": int(share * tokens), "runs": runs, "documents": documents}
        sizes[name] = 12 * examples
    key = cache_key("examples", tokens=corpus, held_out=HELD_OUT_SHARE, rules=RULES)
    _make_folder(cache_dir, key, sizes, parts)
    return corpus


def open_cache(cache_dir: Path, key: str) -> tuple[ExampleSource, ExampleSource]:
    """Open a corpus that ``make_cache`` made, as a run does; return both parts of its examples."""
    cache = open_tokens(cache_dir, key)
    assert cache is not None
    return open_examples(cache_dir, cache, RULES, HELD_OUT_SHARE, contents=False)


def _make_folder(
    cache_dir: Path, key: str, sizes: Mapping[str, int], facts: Mapping[str, Any]
) -> None:
    folder = cache_dir / key
    folder.mkdir()
    for name, size in sizes.items():
        with open(folder / name, "wb") as stream:
            stream.truncate(size)
    entries = {name: Entry(size, _NOBODY_COMPARES) for name, size in sizes.items()}
    write_index(folder / "meta.json", {"format": key, "facts": dict(facts)}, entries)
