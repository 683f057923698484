"""metrics.jsonl: complete lines, no NaN, and after a resume the lines of an unbroken run."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.errors import UserError
from electra_ref.training.checkpoint import NonFiniteError
from electra_ref.training.records import (
    RecordFile,
    read_records,
    replace_records,
    truncate_records,
)
from tests.file_system_calls import Killed, fail_at, kill_at, watching


def write(path: Path, steps: list[int]) -> None:
    with RecordFile(path) as records:
        for step in steps:
            records.append({"step": step, "text": "naïve ☃\n", "loss": step / 3})


def test_a_line_can_be_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with RecordFile(path) as records:
        for step in (1, 1, 2):
            records.append({"step": step, "loss": 0.1, "auc": None, "text": "☃\n\ud800"})
            assert read_records(path)[-1] == {
                "step": step,
                "loss": 0.1,
                "auc": None,
                "text": "☃\n\ud800",
            }
        records.sync()
    assert len(path.read_bytes().splitlines()) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
def test_what_is_not_finite_is_never_written(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "metrics.jsonl"
    with RecordFile(path) as records, pytest.raises(NonFiniteError, match="step 7"):
        records.append({"step": 7, "loss": value})
    assert path.read_bytes() == b""


@pytest.mark.parametrize("record", [{}, {"step": 1.0}, {"step": True}, {"step": None}])
def test_every_line_has_a_step(tmp_path: Path, record: dict[str, Any]) -> None:
    with (
        RecordFile(tmp_path / "metrics.jsonl") as records,
        pytest.raises(ValueError, match="integer step"),
    ):
        records.append(record)


@given(
    steps=st.lists(st.integers(0, 30), max_size=12).map(sorted),
    resumed=st.integers(0, 30),
    torn=st.integers(1, 200),
)
def test_a_resumed_file_equals_the_unbroken_one(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], resumed: int, torn: int
) -> None:
    folder = tmp_path_factory.mktemp("records")
    unbroken, broken = folder / "unbroken.jsonl", folder / "broken.jsonl"
    write(unbroken, steps)
    write(broken, [*steps, 31])
    lines = broken.read_bytes().splitlines(keepends=True)
    synced = sum(len(line) for line, step in zip(lines, steps, strict=False) if step <= resumed)
    broken.write_bytes(broken.read_bytes()[: max(synced, len(broken.read_bytes()) - torn)])
    truncate_records(broken, resumed)
    write(broken, [step for step in steps if step > resumed])
    assert broken.read_bytes() == unbroken.read_bytes()


def test_a_torn_line_is_dropped_and_a_whole_one_without_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2])
    data = path.read_bytes()
    for end in range(len(data) + 1):
        path.write_bytes(data[:end])
        truncate_records(path, 2)
        kept = (end >= data.index(b"\n")) + (end >= len(data) - 1)
        assert path.read_bytes() == b"".join(data.splitlines(keepends=True)[:kept])
    path.write_bytes(data + bytes(100) + b"\n\xff\n")  # a power cut can leave this after a sync
    truncate_records(path, 2)
    assert path.read_bytes() == data


def test_a_file_that_is_damaged_before_the_step_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2, 3])
    damaged = path.read_bytes().replace(b'"step": 2', b'"step" 2')
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="damaged before line 3"):
        truncate_records(path, 3)
    with pytest.raises(UserError, match="line 2"):
        read_records(path)
    assert path.read_bytes() == damaged


def test_a_missing_file_is_an_empty_one(tmp_path: Path) -> None:
    truncate_records(tmp_path / "missing", 3)
    assert read_records(tmp_path / "missing") == []
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, [1])
    before = path.read_bytes()
    real_write = os.write

    def write_half(descriptor: int, data: memoryview) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_write(descriptor, data[: len(data) - 10])

    with RecordFile(path) as records, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", write_half)
        with pytest.raises(UserError, match="No space left"):
            records.append({"step": 2, "text": "a line that is long enough"})
    assert path.read_bytes() == before


def test_cutting_back_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2, 3])
    before = path.read_bytes()
    for failure, error in ((kill_at, Killed), (lambda n: fail_at(n, errno.EIO), UserError)):
        for number in range(3):  # open, write, fsync: before the rename
            with pytest.raises(error), watching(failure(number)):
                truncate_records(path, 2)
            assert path.read_bytes() == before
    truncate_records(path, 2)
    assert [json.loads(line)["step"] for line in path.read_bytes().splitlines()] == [1, 2]


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / "metrics.jsonl").symlink_to("elsewhere")
    with pytest.raises(UserError, match="cannot write"):
        RecordFile(tmp_path / "metrics.jsonl")


def test_a_closed_file_is_closed(tmp_path: Path) -> None:
    with RecordFile(tmp_path / "metrics.jsonl") as records:
        records.append({"step": 1})
    with pytest.raises(UserError, match="Bad file descriptor"):
        records.append({"step": 2})


def test_a_record_takes_the_place_of_those_of_its_step_and_split(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"step": 1, "split": "settings", "rate": 1},
        {"step": 2, "split": "training"},
        {"step": 2, "split": "settings", "rate": 2},
        {"step": 2, "split": "settings", "rate": 3},
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    new = {"step": 2, "split": "settings", "rate": 4}
    for _ in range(2):
        replace_records(path, 2, "settings", new)
        assert read_records(path) == [*lines[:2], new]
    replace_records(path, 2, "settings", None)
    assert read_records(path) == lines[:2]
    replace_records(tmp_path / "missing", 2, "settings", None)
    assert not (tmp_path / "missing").exists()
