"""Compressed files: whole ones give their content, all others one line."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from electra_ref.errors import UserError
from electra_ref.text import compression, corpus_file
from electra_ref.text.compression import COMPRESSIONS, DamagedError, decompress
from tests.reading import read, read_bytes

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
TEXT = os.urandom(1000).hex().encode()


@pytest.fixture
def zstd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the package: "zstd" members are those of bz2, which has the same interface."""

    class ZstdError(Exception):
        pass

    class ZstdDecompressor:
        def __init__(self) -> None:
            self.members = bz2.BZ2Decompressor()

        def decompress(self, data: bytes, max_length: int) -> bytes:
            try:
                return self.members.decompress(data, max_length)
            except OSError as error:
                raise ZstdError(str(error)) from error

        def __getattr__(self, name: str) -> Any:
            return getattr(self.members, name)

    module = types.SimpleNamespace(ZstdDecompressor=ZstdDecompressor, ZstdError=ZstdError)
    monkeypatch.setattr(compression, "_zstd_module", lambda: module)
    monkeypatch.setitem(COMPRESS, ".zst", bz2.compress)


@pytest.fixture(params=[".gz", ".bz2", ".xz", ".zst"])
def ending(request: pytest.FixtureRequest, zstd: None) -> str:
    del zstd
    name = request.param
    assert isinstance(name, str)
    return name


def test_every_compression_of_the_table_is_tested(zstd: None) -> None:
    del zstd
    assert [kind.ending for kind in COMPRESSIONS] == list(COMPRESS)


@pytest.mark.parametrize("block_bytes", [7, 1 << 20])
def test_members_are_joined(
    ending: str, block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_file, "BLOCK_BYTES", block_bytes)
    whole = COMPRESS[ending](b"one ") + COMPRESS[ending](b"") + COMPRESS[ending](b"line\n\nend")
    assert read_bytes(tmp_path, whole, "a.TXT" + ending) == [["one line"], ["end"]]
    assert read_bytes(tmp_path, whole + 8 * b"\0", "a" + ending) == [["one line"], ["end"]]
    objects = COMPRESS[ending](b'{"text": "a"}\n')
    assert read_bytes(tmp_path, objects + objects, "a.jsonl" + ending) == [["a"], ["a"]]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut in the first": lambda whole: whole[:-20],
    "cut in the second": lambda whole: whole + whole[:-20],
    "a beginning of the second": lambda whole: whole + whole[:3],
    "flip": lambda whole: whole[:500] + bytes([whole[500] ^ 0xFF]) + whole[501:],
    "flip at the start": lambda whole: whole[:16] + bytes([whole[16] ^ 0xFF]) + whole[17:],
    "not compressed": lambda _: b"plain text",
    "trailing": lambda whole: whole + b"more",
    "another kind behind": lambda whole: (
        whole + (gzip.compress if whole[:2] != b"\x1f\x8b" else lzma.compress)(b"text")
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_a_user_error(damage: str, ending: str, tmp_path: Path) -> None:
    data = DAMAGE[damage](COMPRESS[ending](TEXT))
    with pytest.raises(UserError) as caught:
        read_bytes(tmp_path, data, "a.txt" + ending)
    start = f"{tmp_path}/a.txt{ending} is a damaged or truncated {ending} file, or none: "
    assert str(caught.value).startswith(start)
    assert "\n" not in str(caught.value)


def test_an_empty_file_is_no_complete_one(tmp_path: Path) -> None:
    for ending in (".bz2", ".xz"):
        with pytest.raises(UserError, match="it ends in the middle"):
            read_bytes(tmp_path, b"", "a.txt" + ending)
    assert read_bytes(tmp_path, b"", "a.txt.gz") == []


def test_a_fault_of_the_disk_is_no_damage(ending: str) -> None:
    class Faulty(io.RawIOBase):
        def readinto(self, _: Any, /) -> int:
            raise OSError(5, "Input/output error")

        def readable(self) -> bool:
            return True

    kind = next(kind for kind in COMPRESSIONS if kind.ending == ending)
    with pytest.raises(OSError, match="Input/output error"):
        list(decompress(kind, io.BufferedReader(Faulty()), 10))


def test_the_content_is_never_held_at_once(ending: str) -> None:
    """A small file may hold gigabytes."""
    kind = next(kind for kind in COMPRESSIONS if kind.ending == ending)
    packed = COMPRESS[ending](bytes(1 << 22))
    assert len(packed) < 1 << 13
    sizes = [len(block) for block in decompress(kind, io.BytesIO(packed), 1 << 16)]
    assert sum(sizes) == 1 << 22
    assert max(sizes) == 1 << 16


def test_a_dictionary_larger_than_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = io.BytesIO(lzma.compress(TEXT, preset=6))
    kind = next(kind for kind in COMPRESSIONS if kind.ending == ".xz")
    assert compression.LARGEST_DICTIONARY == 256 << 20
    monkeypatch.setattr(compression, "LARGEST_DICTIONARY", 1 << 20)
    with pytest.raises(DamagedError, match="limit"):
        list(decompress(kind, packed, 10))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compression.zstd", "backports.zstd", "pyzstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"pip install backports\.zstd"):
        read_bytes(tmp_path, b"(\xb5/\xfd", "a.txt.zst")


@pytest.mark.parametrize("name", ["compression.zstd", "backports.zstd", "pyzstd"])
def test_any_of_the_packages_is_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("compression.zstd", "backports.zstd", "pyzstd"):
        monkeypatch.setitem(sys.modules, other, None)
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name.partition(".")[0], types.ModuleType("parent"))
    monkeypatch.setitem(sys.modules, name, module)
    assert compression._zstd_module() is module


def test_zstd_itself(tmp_path: Path) -> None:
    """The stand-in above does what the package does."""
    for name in ("compression.zstd", "backports.zstd", "pyzstd"):
        try:
            module = importlib.import_module(name)
            break
        except ImportError:
            continue
    else:
        pytest.skip("no package for zstd is installed")
    whole = module.compress(b"one ") + module.compress(b"line")
    assert read_bytes(tmp_path, whole, "a.txt.zst") == [["one line"]]
    (tmp_path / "long.txt.zst").write_bytes(module.compress(TEXT * 50))
    assert read(tmp_path / "long.txt.zst")[1].bytes == len(TEXT) * 50
    packed = module.compress(TEXT)
    for name in DAMAGE.keys() - {"flip", "flip at the start"}:  # these members have no checksum
        with pytest.raises(UserError, match=r"damaged or truncated \.zst file"):
            read_bytes(tmp_path, DAMAGE[name](packed), "a.txt.zst")
