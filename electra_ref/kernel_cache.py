"""Where compiled kernels are kept between runs: numba's cache, safe to edit under and to share.

numba keeps a kernel beside the source file it stands in, in a cache folder of the user or in
NUMBA_CACHE_DIR, and compiles it again when that file changes. Three things are different here:

* A kernel also depends on what it calls and on the constants it reads, in other files. Its stamp is
  a hash of its file and of all files of this package that are imported there, directly or not.
  After an edit of any of them, it is compiled again.
* An entry is one file, named after the kernel, the types of its arguments and the processor.
  numba's entries have running numbers and an index to look them up: if two processes save at the
  same time, the index of one can name the machine code of the other. Here a file is only replaced
  as a whole, by one for the same purpose, so that old ones do not pile up.
* A folder that is full, or cannot be read or written, costs the time to compile, and so does a
  damaged entry. Neither ends the run.

Source: numba's reference manual, "Notes on Caching".
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numba
from numba.core import caching as _caching

caching: Any = _caching  # numba types it in part only

IMPORT = re.compile(r"^\s*(?:from|import) (electra_ref[\w.]*)(?: import ([\w, ]*))?", re.MULTILINE)


class KernelCache(caching.FunctionCache):  # type: ignore[misc]
    """The entries of one kernel. Raises RuntimeError where no folder can be written."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        module = function.__module__
        name = f"{module}.{function.__qualname__}-{sys.implementation.cache_tag}"
        self._cache_file = Entries(self.cache_path, name, source_stamp(module))

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep what was compiled for ``signature``, if the disk takes it."""
        with suppress(OSError):
            super().save_overload(signature, compiled)


class Entries(caching.IndexDataCacheFile):  # type: ignore[misc]
    """A file for each key: (signature, processor, hash of the kernel's bytecode)."""

    def load(self, key: Any) -> Any:
        """Return what was saved under ``key``, or None if that is missing, outdated or damaged."""
        try:
            stamp, saved_key, data = self._load_data(self._file_name(key))
        except Exception:  # damaged bytes lead to errors of many kinds
            return None
        return data if (stamp, saved_key) == (self._source_stamp, key) else None

    def save(self, key: Any, data: Any) -> None:
        """Keep ``data`` under ``key``, in the place of what an older source left."""
        self._save_data(self._file_name(key), (self._source_stamp, key, data))

    def _file_name(self, key: Any) -> str:
        signature, processor, _ = key  # an edited kernel takes the file of the one before
        digest = hashlib.sha256(repr((signature, processor)).encode()).digest()
        return str(self._data_name(int.from_bytes(digest[:8])))


class Source(NamedTuple):
    """What a stamp needs to know of a module."""

    digest: bytes
    imports: tuple[str, ...]  # modules of this package


def source_stamp(module: str) -> str:
    """Return a hash of numba's version and of all source that ``module`` is compiled from."""
    sources: dict[str, Source] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in sources:
            sources[name] = _source(name)
            waiting += sources[name].imports
    digest = hashlib.sha256(numba.__version__.encode())
    for name in sorted(sources):
        digest.update(sources[name].digest)
    return digest.hexdigest()


@functools.cache
def _source(module: str) -> Source:
    """Read the file of a module that has been imported; one without a file is empty."""
    path = getattr(sys.modules.get(module), "__file__", None)
    text = Path(path).read_bytes() if path else b""
    found = []
    for package, names in IMPORT.findall(text.decode(errors="replace")):
        found += [package, *(f"{package}.{name.strip()}" for name in names.split(","))]
    imports = tuple(name for name in found if name in sys.modules)
    return Source(hashlib.sha256(text).digest(), imports)
