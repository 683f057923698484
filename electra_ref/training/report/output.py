"""Where a report may be written: a new file, or one that is a report of ours."""

from __future__ import annotations

import os
from pathlib import Path

from electra_ref.errors import UserError
from electra_ref.files import disk_errors, write_bytes_atomically
from electra_ref.training.report.page import MARKER

NAME = "report.html"
_BEGINNING = 2048  # bytes, in which the marker stands


def require_replaceable(path: Path) -> None:
    """Raise UserError if ``path`` is something else than a report, or is in no folder."""
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is no folder; create it, or choose another --output")
    if not os.path.lexists(path):
        return
    if not path.is_file():
        raise UserError(f"{path} is not a file; choose another --output")
    with disk_errors(f"read {path}"), open(path, "rb") as file:
        beginning = file.read(_BEGINNING)
    if MARKER.encode() not in beginning:
        raise UserError(f"{path} is no report, and is never overwritten; choose another --output")


def write_report(path: Path, page: str) -> None:
    """Write ``page`` to ``path``, complete or not at all. Raises UserError."""
    require_replaceable(path)
    write_bytes_atomically(path, page.encode("utf-8"))
