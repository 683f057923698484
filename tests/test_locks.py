"""A lock is held by one process, follows no link, and is released when its file is closed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from electra_ref.errors import UserError
from electra_ref.locks import acquire_lock


class GaveUpError(Exception):
    """What a caller raises that does not want to wait."""


def give_up(holder: str) -> None:
    raise GaveUpError(holder)


def test_the_holder_is_named_and_the_lock_can_be_had_after_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("99999999999\n")  # of an earlier holder
    with acquire_lock(path, give_up), pytest.raises(GaveUpError, match=rf"^{os.getpid()}$"):
        acquire_lock(path, give_up)
    acquire_lock(path, give_up).close()
    assert path.read_text() == f"{os.getpid()}\n"


def test_waiting_ends_when_the_lock_is_released(tmp_path: Path) -> None:
    holders: list[str] = []
    held = acquire_lock(tmp_path / "lock", give_up)
    (tmp_path / "lock").write_text("")  # killed after it had the lock

    def release_at_the_second_call(holder: str) -> None:
        holders.append(holder)
        if len(holders) == 2:
            held.close()

    acquire_lock(tmp_path / "lock", release_at_the_second_call).close()
    assert holders == ["unknown", "unknown"]


def test_what_is_not_a_file_is_not_locked(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is not a file; move it elsewhere"):
        acquire_lock(tmp_path / "pipe", give_up)
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "link").symlink_to("precious")
    for name in ("link", ".", "missing/lock"):
        with pytest.raises(OSError, match=name):
            acquire_lock(tmp_path / name, give_up)
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_lock_that_its_holder_deletes_is_held_by_nobody(tmp_path: Path) -> None:
    """Another process may wait for the deleted file, while a third one creates it anew."""
    path = tmp_path / ".lock"
    first = acquire_lock(path, give_up)

    def delete(_: str) -> None:
        path.unlink()
        first.close()

    second = acquire_lock(path, delete)
    with second, pytest.raises(GaveUpError, match=rf"^{os.getpid()}$"):
        acquire_lock(path, give_up)
