"""Folders of derived files that are there whole or not at all, and are checked before use.

A folder is named after a key, a hash of everything its content depends on, so it never has to be
brought up to date. It is built under a temporary name, forced to the disk and renamed. A lock file
beside it keeps a second process from building the same folder: it waits, then uses the result. The
kernel drops the lock of a process that dies, and the next builder removes what that one left.

``meta.json`` holds the size and SHA-256 of every file and a SHA-256 of itself. All are verified on
opening (about 1 GB/s); a folder that fails is built anew. Caches can be deleted at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.errors import UserError
from electra_ref.files import disk_errors, sync_folder, write_new_file

FORMAT_VERSION = 1  # part of every key: raise it when the meaning of the files changes
META = "meta.json"
_POLL_SECONDS = 0.1


class CacheFolder(NamedTuple):
    """A verified folder."""

    path: Path
    key: str
    sizes: dict[str, int]  # bytes of each file
    facts: dict[str, Any]  # what the builder wanted to be remembered, as JSON


def cache_key(kind: str, **facts: Any) -> str:
    """Return a hash, 40 hexadecimal digits, of a kind of data and the facts it depends on."""
    text = json.dumps([FORMAT_VERSION, kind, facts], sort_keys=True)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:40]}"


def find_cache_dir(fallback: Path) -> Path:
    """Return ``$XDG_CACHE_HOME/electra_ref`` or ``~/.cache/electra_ref``, created if need be.

    Where that cannot be written, the answer is ``fallback``. Raises UserError if neither can.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    preferred = Path(home) / "electra_ref"
    try:
        return writable_folder(preferred)
    except UserError:
        return writable_folder(fallback)


def writable_folder(folder: Path) -> Path:
    """Create ``folder`` if need be and return it. Raises UserError if no file can be made in it."""
    with disk_errors(f"write to the cache folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder


def open_or_build(
    cache_dir: Path,
    key: str,
    build: Callable[[Path], Mapping[str, Any]],
    on_wait: Callable[[], None] = lambda: None,
) -> CacheFolder:
    """Open the folder ``key``, after building it if it is missing or damaged.

    ``build`` fills an empty folder with files and returns facts to remember. ``on_wait`` is called
    ten times a second while another process builds the same folder. Raises UserError if the disk
    refuses; whatever ``build`` raises passes through, and leaves nothing behind.
    """
    found = open_intact(cache_dir, key)
    if found is not None:
        return found
    with disk_errors(f"write to the cache folder {cache_dir}"), _lock(cache_dir, key, on_wait):
        found = open_intact(cache_dir, key)  # another process may have built it meanwhile
        if found is not None:
            return found
        final, temporary = cache_dir / key, cache_dir / f".{key}.tmp"
        for folder in (temporary, final):  # left by a killed process; damaged
            if folder.exists():
                shutil.rmtree(folder)
        try:
            temporary.mkdir()
            _seal(temporary, key, dict(build(temporary)))
            os.rename(temporary, final)
            sync_folder(cache_dir)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    found = open_intact(cache_dir, key)
    if found is None:
        raise UserError(f"the disk changed what was just written to {final}; choose another cache")
    return found


@contextmanager
def _lock(cache_dir: Path, key: str, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold an exclusive lock on ``key`` for the block; the lock file itself stays."""
    with open(cache_dir / f".{key}.lock", "w") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                on_wait()
                time.sleep(_POLL_SECONDS)
        yield


def _seal(folder: Path, key: str, facts: dict[str, Any]) -> None:
    """Force the files of ``folder`` to the disk and write the meta that vouches for them."""
    files = {}
    for path in sorted(folder.iterdir()):
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            files[path.name] = [stream.tell(), digest]
    meta = {"key": key, "files": files, "facts": facts}
    text = json.dumps(meta)
    signed = json.dumps({"meta": text, "sha256": hashlib.sha256(text.encode()).hexdigest()})
    write_new_file(folder / META, signed.encode())
    sync_folder(folder)


def open_intact(cache_dir: Path, key: str) -> CacheFolder | None:
    """Return the folder ``key``, or None if it is missing or not byte for byte what was written."""
    folder = cache_dir / key
    try:
        signed = json.loads((folder / META).read_bytes())
        text = signed["meta"]
        if hashlib.sha256(text.encode()).hexdigest() != signed["sha256"]:
            return None
        meta = json.loads(text)
        if meta["key"] != key:
            return None
        for name, (size, digest) in meta["files"].items():
            with open(folder / name, "rb") as stream:
                if os.fstat(stream.fileno()).st_size != size:
                    return None
                if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                    return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    sizes = {name: size for name, (size, _) in meta["files"].items()}
    return CacheFolder(folder, key, sizes, meta["facts"])


def map_array(
    folder: CacheFolder, name: str, dtype: npt.DTypeLike, columns: int | None = None
) -> npt.NDArray[Any]:
    """Map a file of the folder as a read-only array, (n,) or (n, columns), without reading it.

    Raises UserError if the file no longer has its size: to touch a mapped page that is gone would
    end the process with SIGBUS.
    """
    check_size(folder, name)
    shape = (-1,) if columns is None else (-1, columns)
    if folder.sizes[name] == 0:  # nothing cannot be mapped
        return np.empty((0, *shape[1:]), dtype)
    return np.memmap(folder.path / name, dtype, "r").view(np.ndarray).reshape(shape)


def check_size(folder: CacheFolder, name: str) -> None:
    """Raise UserError if a file of the folder was cut short or removed after it was opened."""
    try:
        size = os.stat(folder.path / name).st_size
    except OSError as error:
        raise UserError(f"{folder.path / name} is gone; start again: {error.strerror}") from error
    if size != folder.sizes[name]:
        raise UserError(f"{folder.path / name} was cut short by someone; start again to rebuild it")
