"""Caches are complete or absent, checked before use, and not used if they are too short."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.errors import UserError
from electra_ref.text import cache_folder, token_cache
from electra_ref.text.cache_folder import (
    CacheFolder,
    cache_key,
    check_size,
    find_cache_dir,
    map_array,
    open_intact,
    open_or_build,
)
from electra_ref.text.token_cache import (
    EncodedDocument,
    open_tokens,
    token_dtype,
)
from tests.cached_tokens import cached_shards
from tests.test_checkpoint import forge_index

KEY = cache_key("test", content="x")


def build_two_files(folder: Path) -> dict[str, Any]:
    (folder / "a.bin").write_bytes(np.arange(5, dtype=np.int64).tobytes())
    (folder / "empty.bin").write_bytes(b"")
    return {"made": "here"}


def never_build(_folder: Path) -> dict[str, Any]:
    raise AssertionError("an intact cache was built again")


def visible(folder: Path) -> list[str]:
    """Return the names in a cache folder, without locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_folder_is_built_once(tmp_path: Path) -> None:
    built = open_or_build(tmp_path, KEY, build_two_files)
    opened = open_or_build(tmp_path, KEY, never_build)
    assert built == opened == CacheFolder(tmp_path / KEY, KEY, built.sizes, {"made": "here"})
    assert opened.sizes == {"a.bin": 40, "empty.bin": 0}
    np.testing.assert_array_equal(map_array(opened, "a.bin", np.int64), np.arange(5))
    assert map_array(opened, "empty.bin", np.int64, columns=3).shape == (0, 3)
    assert visible(tmp_path) == [KEY]


def test_a_mapped_array_cannot_be_written(tmp_path: Path) -> None:
    array = map_array(open_or_build(tmp_path, KEY, build_two_files), "a.bin", np.int64)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_keys_tell_facts_apart() -> None:
    keys = {
        cache_key("tokens", corpus="a", lowercase=True),
        cache_key("tokens", corpus="a", lowercase=False),
        cache_key("tokens", corpus="b", lowercase=True),
        cache_key("vocabulary", corpus="a", lowercase=True),
    }
    assert len(keys) == 4
    assert cache_key("k", a=1, b=2) == cache_key("k", b=2, a=1)


@pytest.mark.parametrize("name", ["a.bin", "meta.json"])
def test_altered_bytes_and_truncations_are_detected(name: str, tmp_path: Path) -> None:
    whole = open_or_build(tmp_path, KEY, build_two_files)
    path = tmp_path / KEY / name
    data = path.read_bytes()
    altered = [data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :] for i in range(len(data))]
    cut_or_grown = [*(data[:i] for i in range(0, len(data), 8)), data[:-1], data + b"x"]
    for damaged in altered + cut_or_grown:
        path.write_bytes(damaged)
        assert open_intact(tmp_path, KEY) is None, damaged
    path.write_bytes(data)
    assert open_intact(tmp_path, KEY) == whole


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "[" * 100_000, '{"a":' * 100_000])
def test_hostile_json_is_damage(text: str, tmp_path: Path) -> None:
    whole = open_or_build(tmp_path, KEY, build_two_files)
    (whole.path / "meta.json").write_text(text)
    assert open_intact(tmp_path, KEY) is None
    assert open_or_build(tmp_path, KEY, build_two_files) == whole


@pytest.mark.parametrize("name", ["a.bin", "meta.json"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_files_are_read(name: str, kind: str, tmp_path: Path) -> None:
    whole = open_or_build(tmp_path, KEY, build_two_files)
    path = whole.path / name
    path.rename(tmp_path / "elsewhere")
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert open_intact(tmp_path, KEY) is None
    assert open_or_build(tmp_path, KEY, build_two_files) == whole
    assert (tmp_path / "elsewhere").is_file()


@pytest.mark.parametrize("name", ["../outside.bin", "", "..", "sub/a.bin", "a\0b", "\ud800"])
def test_an_index_names_files_of_its_own_folder_only(name: str, tmp_path: Path) -> None:
    whole = open_or_build(tmp_path, KEY, build_two_files)
    data = bytes(40)
    (whole.path / "sub").mkdir()
    for path in (tmp_path / "outside.bin", whole.path / "sub/a.bin", whole.path / "more.bin"):
        path.write_bytes(data)
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    forge_index(whole.path / "meta.json", lambda index: index["files"].update({"more.bin": entry}))
    assert open_intact(tmp_path, KEY) is not None
    forge_index(whole.path / "meta.json", lambda index: index["files"].update({name: entry}))
    assert open_intact(tmp_path, KEY) is None


@pytest.mark.parametrize("facts", [None, [], "text", 3])
def test_facts_are_a_table(facts: Any, tmp_path: Path) -> None:
    whole = open_or_build(tmp_path, KEY, build_two_files)
    forge_index(whole.path / "meta.json", lambda index: index.update(facts=facts))
    assert open_intact(tmp_path, KEY) is None
    forge_index(whole.path / "meta.json", lambda index: index.pop("facts"))
    assert open_or_build(tmp_path, KEY, build_two_files) == whole


def test_nesting_that_can_be_read_but_not_written_is_damage(tmp_path: Path) -> None:
    """Around the depth at which Python's reader or its writer gives up, whichever comes first."""
    whole = open_or_build(tmp_path, KEY, build_two_files)
    for depth in (900, 960, 990, 5_000, 50_000):
        (whole.path / "meta.json").write_text('{"facts":' * depth + "1" + "}" * depth)
        assert open_intact(tmp_path, KEY) is None


@pytest.mark.parametrize("damage", ["removed", "altered", "another key", "no folder"])
def test_a_damaged_folder_is_built_anew(damage: str, tmp_path: Path) -> None:
    whole = open_or_build(tmp_path, KEY, build_two_files)
    if damage == "removed":
        (whole.path / "a.bin").unlink()
    elif damage == "altered":
        (whole.path / "a.bin").write_bytes(bytes(40))
    elif damage == "another key":
        other = open_or_build(tmp_path, cache_key("other"), build_two_files)
        (whole.path / "meta.json").write_bytes((other.path / "meta.json").read_bytes())
    else:
        whole.path.rename(tmp_path / "elsewhere")
    assert open_intact(tmp_path, KEY) is None
    assert open_or_build(tmp_path, KEY, build_two_files) == whole
    assert open_intact(tmp_path, KEY) == whole


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build_half(folder: Path) -> dict[str, Any]:
        build_two_files(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_or_build(tmp_path, KEY, build_half)
    assert visible(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from electra_ref.text.cache_folder import cache_key, open_or_build

def build(folder):
    (folder / "a.bin").write_bytes(bytes(100))
    (folder / "stray.bin").write_bytes(bytes(100))
    os.kill(os.getpid(), signal.SIGKILL)

open_or_build(Path(sys.argv[1]), cache_key("test", content="x"), build)
"""


def test_a_build_killed_halfway_leaves_no_cache(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert open_intact(tmp_path, KEY) is None
    assert open_or_build(tmp_path, KEY, build_two_files).sizes == {"a.bin": 40, "empty.bin": 0}
    assert visible(tmp_path) == [KEY]


def test_a_second_builder_waits_for_the_first(tmp_path: Path) -> None:
    begun, waiting = threading.Event(), threading.Event()
    results: list[CacheFolder] = []

    def build_slowly(folder: Path) -> dict[str, Any]:
        begun.set()
        assert waiting.wait(30)
        return build_two_files(folder)

    first = threading.Thread(
        target=lambda: results.append(open_or_build(tmp_path, KEY, build_slowly))
    )
    first.start()
    assert begun.wait(30)
    results.append(open_or_build(tmp_path, KEY, never_build, waiting.set))
    first.join()
    assert results[0] == results[1]


@pytest.mark.parametrize("how", ["cut", "grown", "removed"])
def test_a_file_cut_short_is_not_mapped(how: str, tmp_path: Path) -> None:
    folder = open_or_build(tmp_path, KEY, build_two_files)
    path = folder.path / "a.bin"
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(bytes(39 if how == "cut" else 41))
    with pytest.raises(UserError, match=r"a\.bin"):
        map_array(folder, "a.bin", np.int64)
    with pytest.raises(UserError, match=r"a\.bin"):
        check_size(folder, "a.bin")


def test_a_mapped_array_stays_while_its_folder_is_built_anew(tmp_path: Path) -> None:
    """A second process may find the folder damaged; the first goes on with what it checked."""
    folder = open_or_build(tmp_path, KEY, build_two_files)
    array = map_array(folder, "a.bin", np.uint8)
    before = array.tobytes()
    (folder.path / "meta.json").unlink()

    def build_others(path: Path) -> dict[str, Any]:
        (path / "a.bin").write_bytes(bytes(40))
        return {}

    open_or_build(tmp_path, KEY, build_others)
    assert array.tobytes() == before != bytes(40)


def test_the_cache_folder_is_the_users_or_the_fallback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert find_cache_dir(tmp_path / "run") == tmp_path / "xdg/electra_ref"
    assert (tmp_path / "xdg/electra_ref").stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert find_cache_dir(tmp_path / "run") == tmp_path / "home/.cache/electra_ref"
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert find_cache_dir(tmp_path / "run") == tmp_path / "run"
    with pytest.raises(UserError, match="cannot write to the cache folder"):
        find_cache_dir(tmp_path / "file" / "run")


def test_a_cache_folder_that_is_gone_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        open_or_build(tmp_path / "gone", KEY, build_two_files)


def encode(documents: Sequence[Sequence[Sequence[int]]]) -> list[EncodedDocument]:
    return [
        EncodedDocument(
            np.array([i for sentence in document for i in sentence], np.int32),
            np.array([len(sentence) for sentence in document], np.int64),
        )
        for document in documents
    ]


def cached(
    folder: Path, documents: Sequence[Sequence[Sequence[int]]], vocab_size: int
) -> token_cache.TokenCache:
    return cached_shards(folder, [encode(documents)], vocab_size)


@given(
    shape=st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=40, max_size=60),
    vocab_size=st.sampled_from([100, 1 << 16, (1 << 16) + 1]),
    buffer=st.sampled_from([1, 7, 1 << 20]),
    seed=st.integers(0, 2**32 - 1),
)
def test_documents_come_back_as_written(
    shape: list[list[int]],
    vocab_size: int,
    buffer: int,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rng = np.random.default_rng(seed)
    shape = [*shape, *[[10]] * 20]  # enough tokens and documents
    documents = [[rng.integers(vocab_size, size=n).tolist() for n in lengths] for lengths in shape]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_cache, "_BUFFER_TOKENS", buffer)
        cache = cached(tmp_path_factory.mktemp("tokens"), documents, vocab_size)
    assert cache.tokens.dtype == (np.uint16 if vocab_size <= 1 << 16 else np.uint32)
    stored, sentence_ends, document_ends, _ = cache.documents(0)
    assert stored.tobytes() == cache.tokens[:].tobytes()
    ends = [0, *sentence_ends.tolist()]
    sentences = [cache.tokens[start:end].tolist() for start, end in pairwise(ends)]
    ends = [0, *document_ends.tolist()]
    expected = [[sentence for sentence in document if sentence] for document in documents]
    assert [sentences[start:end] for start, end in pairwise(ends)] == [d for d in expected if d]


def test_copies_have_the_same_digest(tmp_path: Path) -> None:
    documents = [[[1, 2], [3]], [[1], [2, 3]], [[1, 2]], [[3, 2, 1]] * 90]
    _, _, _, digests = cached(tmp_path, documents, 1000).documents(0)
    assert digests[0] == digests[1]
    assert len(set(digests.tolist())) == 3
    ids = np.array([1, 2], "<u2").tobytes()
    assert digests[2].tobytes() == hashlib.blake2b(ids, digest_size=8).digest()


def test_shards_are_read_as_one_array(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 60_000, 900)
    cuts = [(0, 300), (300, 300), (300, 301), (301, 700), (700, 900), (900, 900)]
    shards = [encode([[ids[a:b].tolist()]]) for a, b in cuts]
    cache = cached_shards(tmp_path, shards, 60_000)
    assert (cache.tokens.size, len(cache.tokens)) == (900, 900)
    np.testing.assert_array_equal(cache.tokens, ids)
    for start, end in [(0, 900), (299, 302), (300, 301), (10, 20), (650, 900), (5, 5), (900, 900)]:
        np.testing.assert_array_equal(cache.tokens[start:end], ids[start:end])
    assert cache.tokens.starts.tolist() == [0, 300, 300, 301, 700, 900, 900]
    assert cache.documents(1).document_ends.size == 0
    place = cache.shards[3].path / "tokens.bin"
    place.write_bytes(b"")
    cache.tokens.check(np.array([0, 300, 700]))
    with pytest.raises(UserError, match="has changed its size"):
        cache.tokens.check(np.array([0, 301]))


def test_sizes_are_compared_at_once_and_contents_on_request(tmp_path: Path) -> None:
    cache = cached_shards(tmp_path, [encode([[[1] * 150]]), encode([[[2] * 150]])], 10)
    key, place = cache.folder.key, cache.shards[1].path / "tokens.bin"
    told: list[tuple[int, int]] = []

    def opened(*arguments: Any) -> bool:
        return open_tokens(tmp_path, key, *arguments) is not None

    assert opened()
    assert opened(lambda *now: told.append(now))
    size = 2 * (150 * 2 + 3 * 8)
    assert told == [(0, size), (size // 2, size), (size, size)]
    whole = place.read_bytes()
    place.write_bytes(whole[:-2] + b"\1\1")
    assert opened()
    assert not opened(lambda *_: None)
    place.write_bytes(whole[:-2])
    assert not opened()
    place.unlink()
    assert not opened()


@pytest.mark.parametrize(
    "facts",
    [{}, {"shards": 1}, {"shards": ["../x"], "entries": 1, "report": {}},
     {"shards": [], "entries": "1", "report": {}}, {"shards": [], "entries": 1, "report": []}],
)  # fmt: skip
def test_a_sealed_folder_that_lists_no_shards_is_damage(
    facts: dict[str, Any], tmp_path: Path
) -> None:
    cache = cached(tmp_path, [[[1] * 300]], 10)
    forge_index(cache.folder.path / "meta.json", lambda index: index.update(facts=facts))
    assert open_tokens(tmp_path, cache.folder.key) is None


def test_ids_take_two_bytes_up_to_a_vocabulary_of_65536() -> None:
    assert token_dtype(1 << 16) is np.uint16
    assert token_dtype((1 << 16) + 1) is np.uint32


def test_tokens_are_written_when_the_buffer_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "_BUFFER_TOKENS", 4)
    stream = io.BytesIO()
    writer = token_cache._ArrayWriter(stream, np.uint16)
    written = []
    for part in ([1, 2, 3], [4], [5, 6, 7], [8, 9]):
        writer.append(part)
        written.append(np.frombuffer(stream.getvalue(), np.uint16).tolist())
    assert written == [[], [1, 2, 3, 4], [1, 2, 3, 4], list(range(1, 10))]


def test_a_large_file_is_compared_by_its_size_where_that_is_enough(tmp_path: Path) -> None:
    whole = open_or_build(tmp_path, KEY, build_two_files)
    (whole.path / "a.bin").write_bytes(bytes(40))
    assert open_intact(tmp_path, KEY, contents=False) == whole
    assert open_or_build(tmp_path, KEY, never_build, contents=False) == whole
    assert open_intact(tmp_path, KEY) is None
    (whole.path / "a.bin").write_bytes(bytes(39))
    assert open_intact(tmp_path, KEY, contents=False) is None


def test_a_disk_that_changes_what_was_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_folder, "open_intact", lambda *_, **__: None)
    with pytest.raises(UserError, match="the disk changed what was just written"):
        open_or_build(tmp_path, KEY, build_two_files)
