"""Compressed files: a line of COMPRESSIONS for each kind, and how its content is read.

A file may consist of several compressed members, one after the other; their contents are joined.
Bytes behind the last member that are no member are damage, except for NULs, with which some
programs fill a file up. Memory does not grow with the content.

Sources: RFC 1952 (gzip), RFC 8878 (zstd), the .xz format 1.2.1, and the manual of bzip2.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple, Protocol

from electra_ref.errors import UserError

LARGEST_DICTIONARY = 1 << 28  # bytes of memory for .xz; ``xz -9`` needs a quarter of it
_BYTES_AT_A_TIME = 1 << 16


class DamagedError(Exception):
    """The bytes are not those of a complete file of this kind."""


class _Decompressor(Protocol):
    """What the decompressors of bz2, lzma and zstd share; one for each member."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Compression(NamedTuple):
    """One kind of compressed file."""

    ending: str  # of its name
    magic: re.Pattern[bytes]  # how its content begins
    command: str  # prints what is in the file
    blocks: Callable[[BinaryIO, int], Iterator[bytes]]  # yields at most so many bytes at a time


def decompress(compression: Compression, stream: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the content of a compressed file in blocks of at most ``size`` bytes.

    Raises DamagedError, OSError if the disk fails, and UserError if a package is missing.
    """
    try:
        yield from compression.blocks(stream, size)
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise DamagedError(str(error)) from error
    except OSError as error:
        if error.errno is not None:  # the disk; gzip and bz2 give theirs no number
            raise
        raise DamagedError(str(error)) from error


def _gzip_blocks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    members = gzip.GzipFile(fileobj=stream)
    while block := members.read(size):
        yield block


def _bz2_blocks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    return _member_blocks(stream, size, bz2.BZ2Decompressor)


def _xz_blocks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    def new_decompressor() -> _Decompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LARGEST_DICTIONARY)

    return _member_blocks(stream, size, new_decompressor)


def _zstd_blocks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    module = _zstd_module()
    try:
        yield from _member_blocks(stream, size, module.ZstdDecompressor)
    except module.ZstdError as error:
        raise DamagedError(str(error)) from error


def _zstd_module() -> Any:
    """Return the first module that is installed; all three have the interface of Python 3.14.

    The package ``zstandard`` has another one, which takes a truncated file for a complete one.
    """
    for name in ("compression.zstd", "backports.zstd", "pyzstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            pass
    raise UserError(
        "reading .zst needs Python 3.14 or a package: pip install backports.zstd; or decompress "
        "the files with: zstd -d"
    )


def _member_blocks(
    stream: BinaryIO, size: int, new_decompressor: Callable[[], _Decompressor]
) -> Iterator[bytes]:
    decompressor = new_decompressor()
    data = b""
    while True:
        if decompressor.eof:
            data = _next_member(decompressor.unused_data, stream)
            if not data:
                return
            decompressor = new_decompressor()
        elif decompressor.needs_input:
            data = stream.read(_BYTES_AT_A_TIME)
            if not data:
                raise EOFError("it ends in the middle of its data")
        block = decompressor.decompress(data, size)
        data = b""
        if block:
            yield block


def _next_member(data: bytes, stream: BinaryIO) -> bytes:
    """Return the first bytes of the next member; nothing but NULs up to the end is none."""
    while not (data := data.lstrip(b"\0")):
        data = stream.read(_BYTES_AT_A_TIME)
        if not data:
            return b""
    return data


COMPRESSIONS = (
    Compression(".gz", re.compile(rb"\x1f\x8b\x08"), "gzip -dc", _gzip_blocks),
    Compression(".bz2", re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), "bzip2 -dc", _bz2_blocks),
    Compression(".xz", re.compile(rb"\xfd7zXZ\0"), "xz -dc", _xz_blocks),
    Compression(
        ".zst", re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), "zstd -dc", _zstd_blocks
    ),
)
