"""Reads tensors of a safetensors file one by one, each into memory that is already there.

It also writes such a file, one tensor at a time.

    8 bytes       length n of the header, little-endian
    n bytes       JSON: {name: {"dtype": "F32", "shape": [...], "data_offsets": [first, end]}, ...}
    the rest      the bytes of the tensors; offsets count from here

So a model takes the memory of its parameters and not that of its file as well. The file is read and
never mapped: if a mapped file shrinks, the process ends with SIGBUS. Numbers of another type become
those of the target, a piece at a time. bfloat16 has no type in NumPy: its 16 bits are the upper
half of a float32.
Source: the format's description, https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from electra_ref.arrays import Array
from electra_ref.files import force_to_disk, write_all

BFLOAT16 = "BF16"
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", BFLOAT16: "<u2", "BOOL": "|b1",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1",
}  # fmt: skip
PIECE = 1 << 17  # numbers that are converted at a time, 1 MiB at most
_LARGEST_HEADER = 100 * 2**20  # bytes, the library's own limit
_MOST_AXES, _MOST_NUMBERS = 64, (2**63 - 1) // 8  # of an array, also where one axis is empty
_NAMED = 5  # tensors that a message names
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a named pipe must not be waited for


class TensorFileError(Exception):
    """Why a file is not read, without its name."""


class Entry(NamedTuple):
    """What the header says of one tensor."""

    dtype: str  # the format's name, such as F32
    shape: tuple[int, ...]
    first: int  # byte of the file at which it begins
    bytes: int


class TensorFile:
    """An opened file; a context manager. ``entries`` are its tensors in the order of their bytes.

    Raises OSError, and TensorFileError if it is not a safetensors file. Every byte after the header
    belongs to one tensor.
    """

    def __init__(self, path: Path, *, follow_links: bool = True) -> None:
        flags = _FLAGS | (0 if follow_links else os.O_NOFOLLOW)
        self._stream: FileIO = open(  # noqa: SIM115  (closed by ``close``)
            path, "rb", buffering=0, opener=lambda name, _: os.open(name, flags)
        )
        try:
            status = os.fstat(self._stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise TensorFileError("it is not a file")
            self.size = status.st_size  # bytes
            self.entries = self._read_header()
        except BaseException:
            self.close()
            raise

    def dtype_of(self, name: str) -> str:
        """Return NumPy's name of the type of the tensor ``name``. Raises TensorFileError."""
        kind = self.entries[name].dtype
        if kind not in DTYPES or kind == BFLOAT16:
            raise TensorFileError(f"NumPy has no numbers of type {kind}, which {name!r} has")
        return DTYPES[kind]

    def read_into(self, name: str, target: Array) -> None:
        """Read the tensor ``name`` into ``target``, of the same number of entries, in C order.

        Raises OSError, and TensorFileError if the file is shorter than its header says.
        """
        entry = self.entries[name]
        if entry.dtype not in DTYPES:
            raise TensorFileError(f"tensor {name!r} has numbers of type {entry.dtype}")
        if target.size != math.prod(entry.shape):
            raise ValueError(f"{name!r} {entry.shape} does not fit {target.shape}")
        is_same = target.dtype == DTYPES[entry.dtype] and entry.dtype != BFLOAT16
        if is_same and target.flags.c_contiguous:
            self._stream.seek(entry.first)
            self._fill(target)
            return
        flat = (
            target.reshape(-1) if target.flags.c_contiguous else np.empty(target.size, target.dtype)
        )
        self._convert(name, flat)
        if not target.flags.c_contiguous:
            target[...] = flat.reshape(target.shape)

    def pieces(self, name: str) -> Iterator[Array]:
        """Yield the numbers of the tensor ``name`` in order, flat, ``PIECE`` at a time.

        They are in memory that is used again for the next piece; bfloat16 becomes float32. Raises
        OSError, and TensorFileError if the file is shorter than its header says.
        """
        entry = self.entries[name]
        if entry.dtype not in DTYPES:
            raise TensorFileError(f"tensor {name!r} has numbers of type {entry.dtype}")
        stored, size = np.dtype(DTYPES[entry.dtype]), math.prod(entry.shape)
        buffer = np.empty(min(size, PIECE), stored)
        for start in range(0, size, PIECE):
            piece = buffer[: size - start]
            self._stream.seek(entry.first + start * stored.itemsize)
            self._fill(piece)
            is_bfloat16 = entry.dtype == BFLOAT16
            yield (piece.astype(np.uint32) << 16).view(np.float32) if is_bfloat16 else piece

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _convert(self, name: str, flat: Array) -> None:
        """Fill ``flat`` with the numbers of the tensor ``name``, rounded to its type."""
        for number, piece in enumerate(self.pieces(name)):
            start = number * PIECE
            with np.errstate(over="ignore"):  # what is too large becomes infinite
                flat[start : start + piece.size] = piece

    def _fill(self, target: Array) -> None:
        """Fill the bytes of ``target``, C contiguous, from where the stream stands."""
        rest = memoryview(target.reshape(-1).view(np.uint8).data)
        while rest:
            read = self._stream.readinto(rest)
            if not read:
                raise TensorFileError("it is shorter than its header says")
            rest = rest[read:]

    def _read_header(self) -> dict[str, Entry]:
        length = int.from_bytes(self._stream.read(8), "little")
        start = 8 + length
        if not 0 < length <= min(_LARGEST_HEADER, self.size - 8):
            raise TensorFileError("it is truncated, or no safetensors file")
        text = np.empty(length, np.uint8)
        self._fill(text)
        try:
            header = json.loads(text.tobytes())
            header.pop("__metadata__", None)
            found = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
            entries = {name: _entry(facts, start) for name, facts in found}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise TensorFileError("its header is not that of a safetensors file") from error
        end = start
        for entry in entries.values():
            if entry.first != end:
                raise TensorFileError("its tensors overlap or leave bytes between them")
            end += entry.bytes
        if end != self.size:
            raise TensorFileError(f"it is {self.size} bytes long, and its header describes {end}")
        return entries


def write_tensor_file(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    tensor_of: Callable[[str], Array],
    metadata: Mapping[str, str],
) -> None:
    """Create ``path``, which must not exist, with float32 tensors, and force it to the disk.

    ``tensor_of`` returns the tensor of a name in its shape; one is held at a time. A power cut can
    still remove the name of the file until its folder is synced. Raises OSError.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned
    descriptor = os.open(path, _NEW_FILE, 0o666)
    try:
        write_all(descriptor, len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            tensor = np.asarray(tensor_of(name), "<f4", order="C")
            if tensor.shape != shape:
                raise ValueError(f"{name} is {tensor.shape} and not {shape}")
            write_all(descriptor, tensor.reshape(-1).view(np.uint8).data)
        force_to_disk(descriptor)
    finally:
        os.close(descriptor)


def unlike(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> str:
    """Return how the names and shapes ``found`` differ from those ``expected``, or ""."""
    misshapen = [
        f"{name} {found[name]} and not {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    parts = (
        ("it lacks", [name for name in expected if name not in found]),
        ("it has the unknown", [name for name in found if name not in expected]),
        ("wrong are the shapes of", misshapen),
    )
    return "; ".join(f"{words} {listed(names)}" for words, names in parts if names)


def listed(names: Sequence[str]) -> str:
    """Return the first of ``names``, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _entry(facts: Mapping[str, Any], start: int) -> Entry:
    """Return one entry of the header, checked by itself. Raises errors of several kinds."""
    dtype, shape, (first, end) = facts["dtype"], facts["shape"], facts["data_offsets"]
    numbers = [first, end, *shape]
    if not isinstance(dtype, str) or any(
        type(number) is not int or number < 0 for number in numbers
    ):
        raise ValueError("its numbers are no sizes")
    if len(shape) > _MOST_AXES or math.prod(filter(None, shape)) > _MOST_NUMBERS:
        raise ValueError("its shape is none of an array")
    if dtype in DTYPES and math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize != end - first:
        raise ValueError("a shape does not fit its bytes")
    return Entry(dtype, tuple(shape), start + first, end - first)
