"""Where compiled kernels are kept between runs: safe to edit under, to share and to damage.

numba keeps a kernel beside the source file it stands in, in a cache folder of the user or in
NUMBA_CACHE_DIR, and compiles it again when that file changes. Four things are different here:

* A kernel also depends on what it calls and on the constants it reads, in other files. Its stamp is
  a hash of its file and of all files of this package that are imported there, directly or not, and
  of the versions of the libraries that compile it. After a change of any of them, it is compiled
  again. Nothing is kept by a process whose files were saved after it began: what it has imported
  may be older than what it finds there.
* An entry is one file, named after the kernel, the types of its arguments and the processor.
  numba's entries have running numbers and an index to look them up: if two processes save at the
  same time, the index of one can name the machine code of the other. Here a file is only replaced
  as a whole, by one for the same purpose, so that old ones do not pile up.
* An entry is a pickle with machine code in it: to load a damaged one can crash the process or
  change results, and to load one of somebody else runs that person's program. So entries are in a
  private folder (see ``private_folder``) below the one that numba chooses, with the number of the
  user in its name, or below the user's own cache folder where the first is not private. Each begins
  with a SHA-256 of its content, its stamp and what it was compiled for; nothing is unpickled before
  that agrees. Trusted are this user, root, and nobody else.
* A folder that is full, or cannot be read or written, costs the time to compile, and so does a
  damaged entry. None of them ends the run.

Source: numba's reference manual, "Notes on Caching".
"""

from __future__ import annotations

import functools
import glob
import hashlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numba
import numpy as np
from numba.core import caching as _caching

from electra_ref import IMPORTED_AT
from electra_ref.private_folder import PrivateFolder

caching: Any = _caching  # numba types it in part only

FOLDER = "electra_ref-kernels-of-{}"  # the number of the user
SUFFIX = ".kernel"
CLOCK_TICK = 10_000_000  # ns by which the time of a file may lag behind
DIGEST_BYTES = hashlib.sha256().digest_size

IMPORT = re.compile(r"^\s*(?:from|import) (electra_ref[\w.]*)(?: import ([\w, ]*))?", re.MULTILINE)


class KernelCache(caching.FunctionCache):  # type: ignore[misc]
    """The entries of one kernel. Raises RuntimeError where no folder can be used."""

    def __init__(self, function: Callable[..., Any]) -> None:
        try:
            super().__init__(function)
        except UnicodeEncodeError as error:
            raise RuntimeError(f"cannot cache {function}: its path is no UTF-8") from error
        module = function.__module__
        name = f"{module}.{function.__qualname__}-{sys.implementation.cache_tag}"
        folder = _private_folder(self._impl.locator, function)
        self._cache_path = str(folder.path)
        self._cache_file = Entries(folder, name, source_stamp(module))

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep what was compiled for ``signature``, if the disk takes it."""
        with suppress(OSError):
            super().save_overload(signature, compiled)


def _private_folder(chosen: Any, function: Callable[..., Any]) -> PrivateFolder:
    """Return a folder of ours below the one numba has ``chosen``, or below the user's cache folder.

    The second is for disks that know no owners, such as those of another system.
    """
    with suppress(OSError):
        return _below(chosen)
    own = caching.UserWideCacheLocator.from_function(function, inspect.getfile(function))
    with suppress(OSError):
        if own is not None:
            return _below(own)
    raise RuntimeError(f"cannot cache {function}: no folder of the user's own")


def _below(locator: Any) -> PrivateFolder:
    return PrivateFolder(Path(locator.get_cache_path()) / FOLDER.format(os.geteuid()))


class Entries:
    """A file for each key: (signature, processor, hash of the kernel's bytecode)."""

    def __init__(self, folder: PrivateFolder, name: str, stamp: str) -> None:
        self._folder, self._name, self._stamp = folder, name, stamp

    def load(self, key: Any) -> Any:
        """Return what was saved under ``key``, or None if that is missing, outdated or damaged."""
        try:
            entry = memoryview(self._folder.read(self._file_name(key)))
        except OSError:
            return None
        digest, content = entry[:DIGEST_BYTES], entry[DIGEST_BYTES:]
        if digest != self._digest(key, content):
            return None
        try:
            return caching.pickle.loads(content)
        except Exception:  # of any kind: it names something that is not installed any more
            return None

    def save(self, key: Any, data: Any) -> None:
        """Keep ``data`` under ``key``, in the place of what an older source left."""
        content = caching.dumps(data)
        self._folder.replace(self._file_name(key), self._digest(key, content), content)

    def flush(self) -> None:
        """Delete all entries of the kernel."""
        for path in self._folder.path.glob(f"{glob.escape(self._name)}.*{SUFFIX}"):
            path.unlink()

    def _file_name(self, key: Any) -> str:
        signature, processor, _ = key  # an edited kernel takes the file of the one before
        digest = hashlib.sha256(repr((signature, processor)).encode())
        return f"{self._name}.{digest.hexdigest()[:16]}{SUFFIX}"

    def _digest(self, key: Any, content: bytes | memoryview) -> bytes:
        """Return a hash of ``content`` and of all that it must have been made for."""
        purpose = hashlib.sha256(repr((self._name, self._stamp, key)).encode())
        return hashlib.sha256(purpose.digest() + hashlib.sha256(content).digest()).digest()


class Source(NamedTuple):
    """What a stamp needs to know of a module."""

    digest: bytes
    imports: tuple[str, ...]  # modules of this package


def source_stamp(module: str) -> str:
    """Return a hash of all source that ``module`` is compiled from, and of what compiles it.

    Raises RuntimeError if one of the files was saved after this process began.
    """
    sources: dict[str, Source] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in sources:
            sources[name] = _source(name)
            waiting += sources[name].imports
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__} {np.__version__}".encode())
    for name in sorted(sources):
        digest.update(sources[name].digest)
    return digest.hexdigest()


@functools.cache
def _source(module: str) -> Source:
    """Read the file of a module that has been imported; one without a file is empty."""
    path = getattr(sys.modules.get(module), "__file__", None)
    text = Path(path).read_bytes() if path else b""
    if path and os.stat(path).st_mtime_ns > IMPORTED_AT - CLOCK_TICK:
        raise RuntimeError(f"cannot cache {module}: its file was saved after this process began")
    found = []
    for package, names in IMPORT.findall(text.decode(errors="replace")):
        found += [package, *(f"{package}.{name.strip()}" for name in names.split(","))]
    imports = tuple(name for name in found if name in sys.modules)
    return Source(hashlib.sha256(text).digest(), imports)
