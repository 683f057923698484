"""A new folder appears complete or not at all, and replaces nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from electra_ref.errors import UserError
from electra_ref.files import write_new_file
from electra_ref.training.new_folder import new_folder
from tests.file_system_calls import Killed, counting, fail_at, kill_at, watching

FILES = {"a": b"one", "inner/b": b"two" * 1000}


def fill(path: Path) -> None:
    with new_folder(path) as folder:
        (folder / "inner").mkdir()
        for name, data in FILES.items():
            write_new_file(folder / name, data)


def files_in(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_missing_empty_and_linked_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for name in ("missing", "deeply/missing/folder", "empty", "link"):
        fill(tmp_path / name)
        assert files_in(tmp_path / name) == FILES
    assert (tmp_path / "link").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "deeply", "empty", "link", "missing", "real",
    ]  # fmt: skip


@pytest.mark.parametrize("content", ["file", "folder", ".hidden"])
def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, content: str) -> None:
    target = tmp_path / "target"
    (target / content).mkdir(parents=True)
    with pytest.raises(UserError, match=rf"holds something else \({content}\), which is never"):
        fill(target)
    assert os.listdir(target) == [content]
    assert os.listdir(tmp_path) == ["target"]


def test_a_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is not a folder"):
        fill(tmp_path / "file")
    assert files_in(tmp_path) == {"file": b"x"}


def fill_while_somebody_else_does(path: Path) -> None:
    with new_folder(path):
        path.mkdir()
        (path / "theirs").write_text("x")


def test_what_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not empty"):
        fill_while_somebody_else_does(tmp_path / "target")
    assert files_in(tmp_path) == {"target/theirs": b"x"}


def fill_and_raise(path: Path, error: type[BaseException]) -> None:
    with new_folder(path) as folder:
        write_new_file(folder / "a", b"x")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_where_the_block_raises(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        fill_and_raise(tmp_path / "around" / "it" / "x", error)
    assert list(tmp_path.iterdir()) == []


def calls(tmp_path: Path) -> int:
    seen: list[str] = []
    with watching(counting(seen)):
        fill(tmp_path / "count" / "x")
    return len(seen)


def test_a_kill_at_any_call_leaves_all_or_nothing(tmp_path: Path) -> None:
    outcomes = []
    for number in range(calls(tmp_path)):
        target = tmp_path / str(number) / "x"
        with pytest.raises(Killed), watching(kill_at(number)):
            fill(target)
        assert not target.exists() or files_in(target) == FILES
        outcomes.append(target.exists())
    assert outcomes == sorted(outcomes)
    assert {*outcomes} == {False, True}


def test_a_failing_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    for number in range(calls(tmp_path)):
        home = tmp_path / str(number)
        home.mkdir()
        target = home / "x"
        with watching(fail_at(number, errno.ENOSPC, kinds=("mkdir", "open", "write", "fsync"))):
            try:
                fill(target)
            except (UserError, OSError) as error:
                is_ours = isinstance(error, UserError)
            else:
                continue
        assert target.exists() == (files_in(home) != {})
        if target.exists():
            assert is_ours
            assert files_in(target) == FILES
        assert [name for name in os.listdir(home) if name != "x"] == []
