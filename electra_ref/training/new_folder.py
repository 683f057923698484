"""A folder that appears complete or not at all, and never in the place of anything.

It is filled under a hidden name beside the final one, ``.NAME.<8 hex digits>.tmp``, forced to the
disk, and renamed. A killed process leaves the hidden folder, which may be deleted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from electra_ref.errors import UserError
from electra_ref.files import disk_errors, rename_durably, sync_folder, temporary_name
from electra_ref.training.run_directory import is_run


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a hidden folder to fill, which becomes ``path`` when the block ends.

    Files in it must be forced to the disk by the block. If the block raises, nothing is left, the
    folders around ``path`` included. Raises UserError, before the block, unless ``path`` is missing
    or an empty folder, and if the disk refuses.
    """
    target = Path(os.path.realpath(path))
    with disk_errors(f"write {path}"):
        _require_unused(path)
        made = _make_parents(target.parent)
    temporary = target.with_name(temporary_name(target.name))
    try:
        with disk_errors(f"write {path}"):
            os.mkdir(temporary)
        yield temporary
        with disk_errors(f"write {path}"):
            for name, _, _ in os.walk(temporary):
                sync_folder(Path(name))
            rename_durably(temporary, target)  # an empty folder may be there
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            for folder in reversed(made):
                os.rmdir(folder)
        raise


def _require_unused(path: Path) -> None:
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; choose another one to write to")
    if path.samefile(os.curdir):
        raise UserError(f"{path} is the folder you are in; name a new one to write to")
    require_empty(path, "choose a new or empty folder to write to")


def require_empty(folder: Path, advice: str) -> None:
    """Raise UserError, with ``advice``, if ``folder`` holds something. Raises OSError."""
    if names := sorted(os.listdir(folder)):
        what = "a run" if is_run(folder) else f"something else ({names[0]})"
        raise UserError(f"{folder} holds {what}, which is never overwritten; {advice}")


def _make_parents(folder: Path) -> list[Path]:
    """Create ``folder`` and those above it; return those that were not there, outermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    missing.reverse()
    for new in missing:
        os.mkdir(new)
    return missing
