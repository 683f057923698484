"""Folders of derived files appear complete or not at all, and are checked before use.

The name of a folder is a key: a hash of everything its content depends on. So a folder never has
to be brought up to date. It is a sealed folder with the index ``meta.json``. On opening, the index
and the size of each file are checked; every byte (about 1 GB/s) only where the caller asks for it,
because a large corpus would take minutes. A damaged folder is built anew. Caches can be deleted at
any time. They are data, and nothing in them is executed. Yet whoever can write to the cache folder
can change what a run trains on, as with the corpus itself; so it is created for the user alone.

While one process builds a folder, it holds a lock. A second process that needs the same folder
waits and then uses it. If the first process dies, the next one removes what it left.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.errors import UserError
from electra_ref.files import disk_errors, rename_durably
from electra_ref.locks import acquire_lock
from electra_ref.sealed_folder import DamageError, check_file, check_file_size, read_index, seal

FORMAT_VERSION = 4  # part of every key: raise it when the meaning of the files changes
_INDEX = "meta.json"
_KEY = re.compile(r"[a-z]+-[0-9a-f]{40}")


class CacheFolder(NamedTuple):
    """A folder that was checked."""

    path: Path
    key: str
    sizes: dict[str, int]  # bytes of each file
    facts: dict[str, Any]  # what ``build`` returned


def cache_key(kind: str, **facts: Any) -> str:
    """Return a hash, 40 hexadecimal digits, of a kind of data and the facts it depends on."""
    text = json.dumps([FORMAT_VERSION, kind, facts], sort_keys=True)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:40]}"


def is_key(value: object) -> bool:
    """Return whether ``value`` could be what ``cache_key`` returns."""
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def find_cache_dir(fallback: Path) -> Path:
    """Return ``$XDG_CACHE_HOME/electra_ref`` or ``~/.cache/electra_ref``; create it if missing.

    Return ``fallback`` where that cannot be written. Raises UserError if neither can be written.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    preferred = Path(home) / "electra_ref"
    try:
        return writable_folder(preferred)
    except UserError:
        return writable_folder(fallback)


def writable_folder(folder: Path) -> Path:
    """Create ``folder`` if missing; return it. Raises UserError if no file can be made in it."""
    with disk_errors(f"write to the cache folder {folder}"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder


def open_or_build(
    cache_dir: Path,
    key: str,
    build: Callable[[Path], Mapping[str, Any]],
    on_wait: Callable[[], None] = lambda: None,
    *,
    contents: bool = True,
) -> CacheFolder:
    """Open the folder ``key``; build it first if it is missing or damaged.

    ``build`` fills an empty folder with files and returns facts to keep, as plain JSON. ``on_wait``
    is called ten times a second while another process builds the same folder. ``contents`` is that
    of ``open_intact``. Raises UserError if the disk refuses, and what ``build`` raises; then
    nothing half-built stays.
    """
    found = open_intact(cache_dir, key, contents=contents)
    if found is not None:
        return found
    lock = cache_dir / f".{key}.lock"
    with (
        disk_errors(f"write to the cache folder {cache_dir}"),
        acquire_lock(lock, lambda _: on_wait()),
    ):
        # another process may have built it meanwhile
        found = open_intact(cache_dir, key, contents=contents)
        if found is not None:
            return found
        final, temporary = cache_dir / key, cache_dir / f".{key}.tmp"
        for folder in (temporary, final):  # left by a killed process; damaged
            if folder.exists():
                shutil.rmtree(folder)
        try:
            temporary.mkdir()
            seal(temporary / _INDEX, {"format": key, "facts": dict(build(temporary))})
            rename_durably(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    found = open_intact(cache_dir, key, contents=contents)
    if found is None:
        raise UserError(f"the disk changed what was just written to {final}; choose another cache")
    return found


def open_intact(cache_dir: Path, key: str, *, contents: bool = True) -> CacheFolder | None:
    """Return the folder ``key``, or None if it is missing or damaged.

    With ``contents`` every byte is compared with the SHA-256 in the index, otherwise only the size
    of each file.
    """
    folder = cache_dir / key
    try:
        facts, files = read_index(folder / _INDEX, key)
        for name, entry in files.items():
            (check_file if contents else check_file_size)(folder / name, entry)
    except (OSError, DamageError):
        return None
    if not isinstance(facts.get("facts"), dict):  # anybody can seal a folder
        return None
    return CacheFolder(folder, key, {n: e.bytes for n, e in files.items()}, facts["facts"])


def map_array(
    folder: CacheFolder, name: str, dtype: npt.DTypeLike, columns: int | None = None
) -> npt.NDArray[Any]:
    """Map a file of the folder as a read-only array, (n,) or (n, columns), without reading it.

    Raises UserError if the file no longer has its size: the process would end with SIGBUS at the
    first touch of a mapped page that is gone.
    """
    check_size(folder, name)
    shape = (-1,) if columns is None else (-1, columns)
    if folder.sizes[name] == 0:  # an empty file cannot be mapped
        return np.empty((0, *shape[1:]), dtype)
    return np.memmap(folder.path / name, dtype, "r").view(np.ndarray).reshape(shape)


def check_size(folder: CacheFolder, name: str) -> None:
    """Raise UserError if a file of the folder was cut short or removed after the check."""
    try:
        size = os.stat(folder.path / name).st_size
    except OSError as error:
        raise UserError(f"{folder.path / name} is gone; start again: {error.strerror}") from error
    if size != folder.sizes[name]:
        raise UserError(f"{folder.path / name} has changed its size; start again to rebuild it")
