"""Files appear complete or not at all, whenever the machine stops.

Bytes are written under a temporary name beside the final one and forced to the disk (fsync). Then
the file is renamed; POSIX makes a rename atomic. Then the folder, which holds the name, is forced
to the disk. Without the first fsync a power cut can leave the new name on an empty file. Without
the second it can undo a rename that was already reported. On macOS, fsync leaves the bytes in the
memory of the disk; another call forces them out. Source: Pillai et al. 2014, "All File Systems Are
Not Created Equal" (OSDI); Apple's manual page fsync(2).
"""

from __future__ import annotations

import errno
import fcntl
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
    errno.ENOENT: "its folder is missing: create it first; if that fails, write elsewhere",
    errno.EISDIR: "name a file, not a folder",
}
_ADVICE_TO_READ = {
    **_ADVICE,
    errno.EACCES: "get the right to read it, or name another one",
    errno.EPERM: "get the right to read it, or name another one",
    errno.ENOENT: "check the path",
}


@contextmanager
def disk_errors(action: str) -> Iterator[None]:
    """Turn an OSError of the block into a UserError: "cannot <action>: <reason>; <what to do>".

    What to do is that for reading if <action> begins with "read".
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        advices = _ADVICE_TO_READ if action.startswith("read ") else _ADVICE
        advice = advices.get(error.errno or 0)
        raise UserError(f"cannot {action}: {reason}" + (f"; {advice}" if advice else "")) from error


def temporary_name(name: str, kind: str = "tmp") -> str:
    """Return a hidden name for ``name`` that no other process draws; TEMPORARY matches "tmp"."""
    return f".{name}.{secrets.token_hex(4)}.{kind}"


def force_to_disk(descriptor: int) -> None:
    """Wait until the bytes of a file, or the names of a folder, would survive a power cut.

    Raises OSError.
    """
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)  # macOS only
    if full_sync is not None:
        with suppress(OSError):  # file systems of other machines do not know it
            fcntl.fcntl(descriptor, full_sync)
            return
    os.fsync(descriptor)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write ``data``, in several calls where a signal or a full disk cuts one short.

    Raises OSError.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_new_file(path: Path, data: bytes) -> None:
    """Create ``path``, which must not exist, with ``data``, and force it to the disk.

    A power cut can still remove the name until ``sync_folder(path.parent)``. Raises OSError.
    """
    descriptor = os.open(path, _NEW_FILE, 0o666)
    try:
        write_all(descriptor, data)
        force_to_disk(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Force the names in ``folder`` to the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        force_to_disk(descriptor)
    except OSError as error:
        # the answers of network file systems that cannot do this
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def rename_durably(old: Path, new: Path) -> None:
    """Rename ``old`` to ``new``, a name in the same folder, and force that to the disk.

    Raises OSError.
    """
    os.rename(old, new)
    sync_folder(new.parent)


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` with ``data``: a reader, or the next boot, sees the old bytes or the new.

    A symbolic link at ``path`` is replaced, never followed. Raises UserError, and then leaves no
    temporary.
    """
    temporary = path.with_name(temporary_name(path.name))
    with disk_errors(f"write {path}"):
        try:
            write_new_file(temporary, data)
            rename_durably(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` in UTF-8 with ``write_bytes_atomically``; line ends stay as they are."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_json_atomically(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with ``write_bytes_atomically``; keys keep their order.

    The name of a file may be no UTF-8; Python then puts lone surrogates into it. JSON can hold them
    as escapes. Raises ValueError for NaN and infinity, which JSON does not have.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes_atomically(path, text.encode("utf-8", "backslashreplace"))


def remove_temporaries(folder: Path) -> None:
    """Delete the temporary files that a killed process left in ``folder``. Raises OSError.

    Nobody else may be writing to the folder. A name must match TEMPORARY in full. Folders stay.
    """
    for name in os.listdir(folder):
        path = folder / name
        if TEMPORARY.fullmatch(name) and not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
