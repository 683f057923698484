"""Locks held with flock(2): the kernel releases them when their process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from electra_ref.errors import UserError

_POLL_SECONDS = 0.1


def acquire_lock(path: Path, on_held: Callable[[str], object]) -> FileIO:
    """Lock the file ``path`` for this process; return it open. Closing it releases the lock.

    While another process holds the lock, ``on_held`` is called ten times a second with the number
    of that process. It may raise to give up. The file is created if it is missing; it holds the
    number of the process that locked it last. If its holder deletes it before it releases it, the
    file that is there next is locked. A forked child would share the lock and keep it after its
    parent's death: the file is closed on exec, and nothing here forks. Raises OSError, and
    UserError if ``path`` is not a regular file.
    """
    while True:
        lock = _open(path)
        try:
            _wait_for(lock, on_held)
            if _is_at(path, lock):
                os.ftruncate(lock.fileno(), 0)
                os.pwrite(lock.fileno(), f"{os.getpid()}\n".encode(), 0)
                return lock
        except BaseException:
            lock.close()
            raise
        lock.close()


def _open(path: Path) -> FileIO:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    lock = FileIO(os.open(path, flags, 0o666), "r+")
    if not stat.S_ISREG(os.fstat(lock.fileno()).st_mode):
        lock.close()
        raise UserError(f"{path} is not a file; move it elsewhere")
    return lock


def _wait_for(lock: FileIO, on_held: Callable[[str], object]) -> None:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = os.pread(lock.fileno(), 20, 0).decode(errors="replace").strip()
            on_held(holder or "unknown")
            time.sleep(_POLL_SECONDS)


def _is_at(path: Path, lock: FileIO) -> bool:
    """Tell whether ``lock`` is the file that others will find."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
