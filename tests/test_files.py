"""Atomic writes: the content, the errors, and no temporary file left in either case."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from electra_ref.errors import UserError
from electra_ref.files import (
    disk_errors,
    remove_temporaries,
    temporary_name,
    write_json_atomically,
    write_text_atomically,
)


def test_text_is_written_as_it_is(tmp_path: Path) -> None:
    for text in ("", "a\r\nb\n", "☃" * 10_000):
        write_text_atomically(tmp_path / "text", text)
        assert (tmp_path / "text").read_bytes() == text.encode()
    assert os.listdir(tmp_path) == ["text"]


def test_json_holds_a_file_name_of_another_encoding(tmp_path: Path) -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    write_json_atomically(tmp_path / "a.json", {"path": name})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"path": name}


def test_json_is_written_for_people_and_without_nan(tmp_path: Path) -> None:
    write_json_atomically(tmp_path / "a.json", {"b": "é", "a": [1]})
    text = '{\n  "b": "é",\n  "a": [\n    1\n  ]\n}\n'
    assert (tmp_path / "a.json").read_text("utf-8") == text
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomically(tmp_path / "a.json", float("nan"))
    assert (tmp_path / "a.json").read_text("utf-8") == text


def test_json_holds_names_that_are_no_utf_8(tmp_path: Path) -> None:
    value = {"corpus": [os.fsdecode(b"caf\xe9/\xff.txt"), "é \\udce9"]}
    write_json_atomically(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text("utf-8")
    assert json.loads(text) == value
    assert r"caf\udce9/" in text


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("old")
    (tmp_path / "link").symlink_to("precious")
    write_text_atomically(tmp_path / "link", "new")
    assert (tmp_path / "precious").read_text() == "old"
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(
    ("error", "word"), [(errno.EINVAL, None), (errno.ENOTSUP, None), (errno.EIO, "fault")]
)
def test_only_a_disk_that_cannot_sync_folders_is_forgiven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, word: str | None
) -> None:
    fsync = os.fsync

    def fsync_files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(error, os.strerror(error))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync_files_only)
    if word is None:
        write_text_atomically(tmp_path / "text", "new")
    else:
        with pytest.raises(UserError, match=word):
            write_text_atomically(tmp_path / "text", "new")


@pytest.mark.parametrize(
    ("action", "error", "advice"),
    [
        ("read new.tsv", errno.ENOENT, "check the path"),
        ("read new.tsv", errno.EACCES, "get the right to read it, or name another one"),
        ("read data", errno.EISDIR, "name a file, not a folder"),
        (
            "write none/new",
            errno.ENOENT,
            "its folder is missing: create it first; if that fails, write elsewhere",
        ),
        (
            "create /proc/a/b",
            errno.ENOENT,
            "its folder is missing: create it first; if that fails, write elsewhere",
        ),
        ("write locked/new", errno.EACCES, "choose a folder that you may write to"),
    ],
)
def test_an_error_says_what_to_do_about_reading_and_about_writing(
    action: str, error: int, advice: str
) -> None:
    with pytest.raises(UserError) as caught, disk_errors(action):
        raise OSError(error, os.strerror(error))
    assert str(caught.value) == f"cannot {action}: {os.strerror(error)}; {advice}"


def test_temporaries_are_told_from_everything_else(tmp_path: Path) -> None:
    left = [temporary_name("config.toml"), temporary_name(".lock")]
    mine = ["a.tmp", ".a.tmp", ".a.0123abcg.tmp", "config.toml", ".a.0123abcd.tmp.bak"]
    for name in left + mine:
        (tmp_path / name).touch()
    (tmp_path / ".folder.0123abcd.tmp").mkdir()
    remove_temporaries(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*mine, ".folder.0123abcd.tmp"])
