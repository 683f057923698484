"""Tokenizing in shards: the same cache whoever tokenizes what, and nothing done twice."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref.errors import UserError
from electra_ref.text import corpus_file, id_shards, shards, tokenizing
from electra_ref.text.cache_folder import open_or_build
from electra_ref.text.corpus import hash_files
from electra_ref.text.listing import list_files
from electra_ref.text.prepare import PreparedData, prepare
from electra_ref.text.reading import ONE_PROCESS, Reading
from electra_ref.text.tokenizing import Recipe, join_text, shard_tokenizer
from electra_ref.text.vocabulary import train_vocabulary
from tests.small_runs import small_config

TWO = Reading(workers=2)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (shards, id_shards, tokenizing):
        monkeypatch.setattr(module, "SHARD_BYTES", 8000)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A file of five shards, with unknown characters and invalid bytes in some of them."""
    random = np.random.default_rng(0)
    words = [f"word{i}" for i in range(40)]
    documents = ["\n".join(" ".join(random.choice(words, 6)) for _ in range(9)) for _ in range(100)]
    documents[3] += "\n\u4f60 \u4f60"
    documents[80] += "\n\u597d \u597d \u4f60"
    data = "\n\n".join(documents).encode().replace(b"word39", b"word39\xff", 2)
    (tmp_path / "a.txt").write_bytes(data)
    return tmp_path / "a.txt"


def new_folder(path: Path, name: str) -> Path:
    (path / name).mkdir()
    return path / name


def prepared(
    cache: Path, *paths: Path, reading: Reading = ONE_PROCESS, stages: list[str] | None = None
) -> PreparedData:
    return prepare(
        small_config(),
        cache,
        corpus=[str(path) for path in paths],
        reading=reading,
        progress=lambda stage, *_: None if stages is None else stages.append(stage),
    )


def assert_the_same(one: PreparedData, other: PreparedData) -> None:
    assert (one.key, one.report) == (other.key, other.report)
    np.testing.assert_array_equal(one.training.cache.tokens, other.training.cache.tokens)
    for ours, theirs in ((one.training, other.training), (one.held_out, other.held_out)):
        numbers = np.arange(theirs.count)
        np.testing.assert_array_equal(ours.index.rows(numbers), theirs.index.rows(numbers))


def test_any_number_of_processes_and_of_shards_give_the_same(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = prepared(new_folder(tmp_path, "one"), text)
    assert len(one.training.cache.shards) == 5
    assert (one.report["unknown_tokens"], one.report["missing_characters"]) == (2, ["\u597d"])
    assert (one.report["files"], one.report["documents"]) == (1, 100)
    assert one.report["invalid_bytes"] == 2
    stages: list[str] = []
    two = prepared(new_folder(tmp_path, "two"), text, reading=TWO, stages=stages)
    assert_the_same(two, one)
    assert "tokenizing" in stages
    monkeypatch.setattr(shards, "SHARD_BYTES", 1 << 20)
    whole = prepared(new_folder(tmp_path, "whole"), text)
    assert len(whole.training.cache.shards) == 1
    assert whole.report == one.report
    assert_the_same(whole._replace(key=one.key), one)


def test_shards_may_be_tokenized_in_any_order_and_then_joined(text: Path, tmp_path: Path) -> None:
    vocabulary = train_vocabulary(text.read_text(errors="ignore").split("\n"), 60)
    recipe = Recipe(tuple(vocabulary), lowercase=True, strip_accents=True)
    files = list_files([str(text)]).files
    planned = shards.plan_shards(files)
    caches = []
    for name, order in (("a", [0, 1, 2, 3, 4]), ("b", [4, 2, 0, 3, 1])):
        folder = new_folder(tmp_path, name)
        found: dict[int, Any] = {}
        for number in order:  # each by a tokenizer of its own, as on several machines
            found[number] = shard_tokenizer(recipe, folder)(planned[number], lambda _: None)
        caches.append(join_text(folder, recipe, [found[number] for number in range(5)]))
    assert caches[0].folder.key == caches[1].folder.key
    np.testing.assert_array_equal(caches[0].tokens, caches[1].tokens)


def built(monkeypatch: pytest.MonkeyPatch, *, ending_after: int = 1000) -> list[str]:
    """Return the keys of what is built from now on; the build after so many is interrupted."""
    keys: list[str] = []

    def recording(cache: Path, key: str, build: Any, *rest: Any, **options: Any) -> Any:
        def noting(folder: Path) -> Any:
            if len(keys) == ending_after:
                raise KeyboardInterrupt
            result = build(folder)
            keys.append(key.partition("-")[0])
            return result

        return open_or_build(cache, key, noting, *rest, **options)

    monkeypatch.setattr(tokenizing, "open_or_build", recording)
    return keys


def test_an_interrupted_run_goes_on_where_it_was(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = new_folder(tmp_path, "cache")
    built(monkeypatch, ending_after=3)
    with pytest.raises(KeyboardInterrupt):
        prepared(cache, text)
    keys = built(monkeypatch)
    data = prepared(cache, text)
    assert keys == ["shard"] * 2
    assert_the_same(data, prepared(new_folder(tmp_path, "other"), text))


def test_a_corpus_that_grows_is_tokenized_from_there_on(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = new_folder(tmp_path, "cache")
    first = prepared(cache, text)
    vocabulary = first.tokenizer.vocab
    keys = built(monkeypatch)
    more = tmp_path / "b.txt"
    more.write_text("".join(f"word1 {i}\n" for i in range(1000)))
    data = prepare(small_config(), cache, corpus=[str(text), str(more)], vocabulary=vocabulary)
    assert keys == ["shard"] * 2
    assert data.report["tokens"] > first.report["tokens"]


def test_a_corpus_that_has_not_changed_is_not_read(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, sizes and dates tell, as for make; --verify does not rely on them."""
    cache = new_folder(tmp_path, "cache")
    vocabulary = prepared(cache, text).tokenizer.vocab
    before = time.time() - 100
    os.utime(text, (before, before))

    def again(reading: Reading = ONE_PROCESS) -> PreparedData:
        return prepare(
            small_config(), cache, corpus=[str(text)], vocabulary=vocabulary, reading=reading
        )

    first = again()
    read: list[Sequence[Any]] = []

    def noting(files: Sequence[Any], *rest: Any) -> str:
        read.append(files)
        return hash_files(files, *rest)

    monkeypatch.setattr(tokenizing, "hash_files", noting)
    assert_the_same(again(), first)
    assert not read
    assert_the_same(again(Reading(verify=True)), first)
    assert len(read) == 5
    content = text.read_bytes()
    text.write_bytes(content.replace(b"word1 ", b"word2 "))  # of the same size, now
    assert again().key != first.key
    assert len(read) == 10
    os.utime(text, (before, before))  # somebody hides the change: only --verify finds it
    assert again().key == first.key
    assert again(Reading(verify=True)).key != first.key


def test_damage_is_found_on_request_and_repaired(text: Path, tmp_path: Path) -> None:
    cache = new_folder(tmp_path, "cache")
    first = prepared(cache, text)
    whole = np.asarray(first.training.cache.tokens).copy()
    place = first.training.cache.shards[2].path / "tokens.bin"
    place.write_bytes(bytes(place.stat().st_size))
    known: dict[str, Any] = {"vocabulary": first.tokenizer.vocab, "known_key": first.key}

    def tokens(reading: Reading) -> Any:
        data = prepare(small_config(), cache, corpus=[str(text)], reading=reading, **known)
        return data.training.cache.tokens

    assert (np.asarray(tokens(ONE_PROCESS)) != whole).any()
    np.testing.assert_array_equal(tokens(Reading(workers=2, verify=True)), whole)


def test_standard_input_is_shared_among_processes(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = prepared(new_folder(tmp_path, "one"), text)
    with open(text, encoding="utf-8") as stream:
        monkeypatch.setattr("sys.stdin", stream)
        piped = prepare(
            small_config(), new_folder(tmp_path, "two"), corpus=["-"], reading=Reading(workers=2)
        )
    assert_the_same(piped, one)


def test_an_error_in_another_process_is_one_line(text: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"word{i % 30} and more"}) for i in range(900)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*lines[:700], "{}", *lines[700:]]))
    cache = new_folder(tmp_path, "cache")
    with pytest.raises(UserError, match=r"a\.jsonl, line 701: the JSON object has no 'text'"):
        prepare(
            *(small_config(), cache),
            corpus=[str(path)],
            vocabulary=train_vocabulary(text.read_text(errors="ignore").split("\n"), 60),
            reading=TWO,
        )
    assert not list(cache.glob(".*.tmp"))


def test_a_file_that_changes_meanwhile_is_refused(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_file, "BLOCK_BYTES", 1000)
    vocabulary = train_vocabulary(text.read_text(errors="ignore").split("\n"), 60)

    def change(stage: str, done: int, _total: int) -> None:
        if stage == "tokenizing" and done:
            os.utime(text, (1, 1))

    with pytest.raises(UserError, match="has changed while it was being used"):
        prepare(
            *(small_config(), new_folder(tmp_path, "cache")),
            corpus=[str(text)],
            vocabulary=vocabulary,
            progress=change,
        )


@pytest.mark.parametrize("workers", [1, 2])
def test_several_arrays_of_ids_follow_each_other(workers: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    stream, rows = random.integers(0, 90, 5000), random.integers(0, 300, (300, 20))
    rows[7] = -1
    for name, array in (("a", stream), ("b", rows)):
        np.save(tmp_path / f"{name}.npy", array.astype(np.int32))
    paths = [str(tmp_path / f"{name}.npy") for name in "ab"]
    cache = new_folder(tmp_path, "cache")
    data = prepare(small_config(), cache, ids_paths=paths, reading=Reading(workers=workers))
    expected = np.concatenate([stream, rows[rows >= 0]]) + 5
    np.testing.assert_array_equal(data.training.cache.tokens, expected)
    assert len(data.training.cache.shards) == 1 + 3
    assert len(data.tokenizer.vocab) == 305
    assert data.report["files"] == 2
    assert data.report["documents"] == 1 + 299
    assert data.report["bytes"] == sum(os.path.getsize(path) for path in paths)
    (note,) = data.report["notes"]
    assert note.startswith("1 of 301 rows of")
    other = prepare(small_config(), cache, ids_paths=paths[::-1])
    assert other.key != data.key
