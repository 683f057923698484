"""Folders whose every byte is checked on reading.

The index of a folder is a JSON file. It holds facts about the folder, the size and SHA-256 of each
file, and a SHA-256 of itself. Fill a folder under a temporary name, ``seal`` it, then rename it: so
it appears complete or not at all.

Reading follows no link. Use no file before ``check_file`` has compared its SHA-256; where that
would take too long, ``check_file_size`` finds at least the files that were cut short. Only one
spelling of an index is accepted, the one that ``seal`` writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

from electra_ref.files import force_to_disk, sync_folder, write_new_file

_MAX_INDEX_BYTES = 16 * 2**20  # more than any index has, so that no file can fill the memory
_FILE_NAME = re.compile(r"[\w.-]+", re.ASCII)


class DamageError(Exception):
    """Why a folder is refused, without the name of the folder."""


class Entry(NamedTuple):
    """What the index says about one file."""

    bytes: int
    sha256: str


def seal(index: Path, facts: Mapping[str, Any]) -> None:
    """Force all files beside ``index`` to the disk, then write ``index`` and force it there too.

    ``facts`` is plain JSON; its ``format`` says what kind of folder this is. Raises OSError,
    and DamageError if something beside it is not a file.
    """
    files: dict[str, Entry] = {}
    for path in sorted(index.parent.iterdir()):
        with _opened(path) as stream:
            force_to_disk(stream.fileno())
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            files[path.name] = Entry(stream.tell(), digest)
    write_index(index, facts, files)


def write_index(index: Path, facts: Mapping[str, Any], files: Mapping[str, Entry]) -> None:
    """Write ``index`` with ``facts`` and the entry of each file, and force it to the disk.

    Raises OSError.
    """
    entries = {name: entry._asdict() for name, entry in files.items()}
    write_new_file(index, _render({**facts, "files": entries}))
    sync_folder(index.parent)


def read_index(path: Path, expected_format: str) -> tuple[dict[str, Any], dict[str, Entry]]:
    """Return the facts that were given to ``seal``, and the entry of each file by its name.

    Raises OSError, and DamageError unless ``path`` is an index of the format, as it was written.
    """
    with _opened(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > _MAX_INDEX_BYTES:
            raise DamageError(f"{path.name} is {size} bytes long, which is too much")
        data = stream.read(size)
    try:
        index = json.loads(data)
        is_genuine = isinstance(index, dict) and _render(index) == data
    except (ValueError, RecursionError):  # RecursionError: lists in lists, thousands deep
        is_genuine = False
    if not is_genuine:
        raise DamageError(f"{path.name} is truncated or altered")
    found, files = index.get("format"), index.pop("files", None)
    del index["sha256"]
    if found != expected_format:
        raise DamageError(f"its format is {found!r}, and this version reads {expected_format!r}")
    if not _are_entries(files):
        raise DamageError(f"{path.name} does not describe files")
    return index, {name: Entry(**entry) for name, entry in files.items()}


def check_file(path: Path, entry: Entry) -> None:
    """Read a file a piece at a time.

    Raises OSError, and DamageError if its bytes are not those sealed.
    """
    with _opened(path, entry.bytes) as stream:
        _compare(path, hashlib.file_digest(stream, "sha256").hexdigest(), entry)


def check_file_size(path: Path, entry: Entry) -> None:
    """Raise OSError, and DamageError if a file is not as long as the one sealed."""
    with _opened(path, entry.bytes):
        pass


def _render(index: Mapping[str, Any]) -> bytes:
    """Return the bytes of ``index``; the last item is a digest of the others."""
    body = {key: value for key, value in index.items() if key != "sha256"}
    digest = _sha256(json.dumps(body, allow_nan=False).encode())
    return (json.dumps({**body, "sha256": digest}, indent=1, allow_nan=False) + "\n").encode()


def _are_entries(files: Any) -> bool:
    """Check types: anybody can compute a digest, and that must not end in a traceback."""
    return isinstance(files, dict) and all(
        _FILE_NAME.fullmatch(name)
        and isinstance(entry, dict)
        and entry.keys() == set(Entry._fields)
        and type(entry["bytes"]) is int
        for name, entry in files.items()
    )


@contextmanager
def _opened(path: Path, size: int | None = None) -> Iterator[BufferedReader]:
    """Open a regular file, of ``size`` bytes if given. Raises OSError and DamageError."""
    # O_NONBLOCK: do not wait until somebody writes to a named pipe
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise DamageError(f"{path.name} is not a file")
        if size not in (None, status.st_size):
            raise DamageError(f"{path.name} is {status.st_size} bytes long instead of {size}")
        yield stream


def _compare(path: Path, digest: str, entry: Entry) -> None:
    if digest != entry.sha256:
        raise DamageError(f"{path.name} is altered: its SHA-256 is not the one recorded")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
