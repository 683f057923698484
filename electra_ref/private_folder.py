"""Folders of the user's own: nobody else can put a file there, or change one.

Whoever can write a file that is executed when it is read can do all that its reader can. A folder
is private if it belongs to the user of this process, is no symbolic link, and neither its group nor
others may write to it; so is a file. Both are asked of the descriptor that is then used, so that
nobody can exchange what was looked at. Others may still rename the folder that holds a private one,
but what they put in its place is theirs, and is refused.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from io import FileIO
from pathlib import Path

from electra_ref.files import temporary_name, write_all

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class PrivateFolder:
    """A folder of this user's own. Its path is looked up at each call: it may be deleted."""

    def __init__(self, path: Path) -> None:
        """Create ``path`` with mode 0700 if it is missing.

        Raises OSError if the disk refuses, or if there is something that is not private.
        """
        self.path = path
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        os.close(self._open())

    def read(self, name: str) -> bytes:
        """Return the bytes of a file. Raises OSError, also if the file is not private."""
        folder = self._open()
        try:
            descriptor = os.open(name, _FILE, dir_fd=folder)
        finally:
            os.close(folder)
        with FileIO(descriptor) as file:
            _require_private(descriptor, self.path / name, stat.S_IFREG)
            return file.readall()

    def replace(self, name: str, *parts: bytes) -> None:
        """Write ``parts`` to a file with mode 0600, which appears complete or not at all.

        It is not forced to the disk: after a power cut it may be damaged. Raises OSError.
        """
        folder, temporary = self._open(), temporary_name(name)
        try:
            descriptor = os.open(temporary, _NEW_FILE, 0o600, dir_fd=folder)
            try:
                for part in parts:
                    write_all(descriptor, part)
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise
            finally:
                os.close(descriptor)
        finally:
            os.close(folder)

    def _open(self) -> int:
        descriptor = os.open(self.path, _FOLDER)
        try:
            _require_private(descriptor, self.path, stat.S_IFDIR)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _require_private(descriptor: int, path: Path, kind: int) -> None:
    status = os.fstat(descriptor)
    others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if stat.S_IFMT(status.st_mode) != kind or status.st_uid != os.geteuid() or others_write:
        raise PermissionError(errno.EACCES, "not of this user alone", str(path))
