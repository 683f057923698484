"""Files that are there whole or not at all, whatever moment the machine dies.

Bytes are written under a temporary name beside the final one and forced to the disk (fsync); the
rename, which POSIX makes atomic, comes after; then the folder, which holds the name, is forced to
the disk as well. Without the first fsync a power cut can leave the new name on an empty file;
without the second it can take back a file that was already announced. Source: Pillai et al. 2014,
"All File Systems Are Not Created Equal" (OSDI).
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from electra_ref.errors import UserError

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ADVICE = {
    errno.ENOSPC: "free some space on that disk, or write elsewhere",
    errno.EDQUOT: "your quota is used up: remove something, or write elsewhere",
    errno.EROFS: "choose a folder on a disk that can be written",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EIO: "the disk reports a fault: check it, or write elsewhere",
    errno.ENOENT: "it was moved or deleted meanwhile, or was never there",
}


@contextmanager
def disk_errors(action: str) -> Iterator[None]:
    """Turn an OSError of the block into a UserError: "cannot <action>: <reason>; <what to do>"."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        advice = _ADVICE.get(error.errno or 0)
        raise UserError(f"cannot {action}: {reason}" + (f"; {advice}" if advice else "")) from error


def temporary_name(name: str) -> str:
    """A hidden name beside ``name`` that no other process draws, and that TEMPORARY recognises."""
    return f".{name}.{secrets.token_hex(4)}.tmp"


def write_new_file(path: Path, data: bytes) -> None:
    """Create ``path``, which must not exist, with ``data``, and force it to the disk.

    The name itself lasts only once ``sync_folder(path.parent)`` has returned. Raises OSError.
    """
    descriptor = os.open(path, _NEW_FILE, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[
                os.write(descriptor, rest) :
            ]  # a full disk or a signal may cut a write short
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Force the names in ``folder`` to the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot, and say so this way
            raise
    finally:
        os.close(descriptor)


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` with ``data``: a reader, or the next boot, sees the old bytes or the new.

    A symbolic link at ``path`` is itself replaced, never followed. Raises UserError, and then
    leaves the old file and no temporary.
    """
    temporary = path.with_name(temporary_name(path.name))
    with disk_errors(f"write {path}"):
        try:
            write_new_file(temporary, data)
            os.replace(temporary, path)
            sync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise


def write_text_atomically(path: Path, text: str) -> None:
    """``write_bytes_atomically`` for ``text`` in UTF-8, its line ends untouched."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_json_atomically(path: Path, value: Any) -> None:
    """``write_bytes_atomically`` for ``value`` as indented JSON, keys in the order given.

    Raises ValueError for NaN and infinity, which JSON has no words for.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_text_atomically(path, text + "\n")


def remove_temporaries(folder: Path) -> None:
    """Delete the temporary files that a killed process left in ``folder``; raises OSError.

    Only for a folder that nobody else is writing to. Names are matched whole against TEMPORARY, and
    folders are left alone.
    """
    for name in os.listdir(folder):
        path = folder / name
        if TEMPORARY.fullmatch(name) and not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
