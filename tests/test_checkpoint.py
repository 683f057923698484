"""A checkpoint is read back exactly or is refused; only checkpoint files are deleted."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from electra_ref.arrays import Array
from electra_ref.errors import UserError
from electra_ref.training.checkpoint import (
    CheckpointError,
    NonFiniteError,
    list_checkpoints,
    load_checkpoint,
    load_newest_checkpoint,
    recover_checkpoints,
    save_checkpoint,
)
from tests.file_system_calls import watching

STATE = {"epoch": 1, "best_loss": 0.1, "hash": "é\ud800", "list": [1, None, True, {}]}


def groups_at(step: int) -> dict[str, dict[str, Array]]:
    rng = np.random.default_rng(step)
    weights = rng.standard_normal((3, 4)).astype(np.float32)
    return {"model": {"weights": weights}, "optimizer": {"m": weights.T * 2, "v": weights[:, ::2]}}


def assert_same(found: dict[str, dict[str, Array]], expected: dict[str, dict[str, Array]]) -> None:
    assert found.keys() == expected.keys()
    for group, tensors in expected.items():
        assert found[group].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[group][name].dtype == tensor.dtype
            np.testing.assert_array_equal(found[group][name], tensor, strict=True)


def steps_in(directory: Path) -> list[int]:
    return [int(path.name[-8:]) for path in list_checkpoints(directory)]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint16", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 4)])
def test_gives_back_what_was_saved(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.asarray(np.random.default_rng(0).standard_normal(shape) * 100).astype(dtype)
    saved = {"model": {"a/b.c": array, "transposed": array.T, "é": array[::-1] if shape else array}}
    path = save_checkpoint(tmp_path, 7, saved, STATE)
    assert path == tmp_path / "step-00000007"
    checkpoint = load_checkpoint(path)
    assert (checkpoint.path, checkpoint.step, checkpoint.state) == (path, 7, STATE)
    assert_same(checkpoint.groups, saved)


def test_other_programs_can_read_the_tensors(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, groups_at(1), {})
    loaded = safetensors.numpy.load_file(path / "model.safetensors")
    np.testing.assert_array_equal(loaded["weights"], groups_at(1)["model"]["weights"])
    with safetensors.safe_open(path / "model.safetensors", "np") as stream:
        assert stream.metadata() == {"format": "pt"}


INDEX = """{
 "format": "electra_ref checkpoint 1",
 "step": 1000,
 "state": {
  "epoch": 1,
  "name": "\\u00e9",
  "list": [
   0.1,
   null
  ]
 },
 "files": {
  "model.safetensors": {
   "bytes": 128,
   "sha256": "d3a2cd2ea12c4634527806a94bfcb09c9c77a4854a7ab1b848c02f3235d90a18"
  },
  "optimizer.safetensors": {
   "bytes": 208,
   "sha256": "c0ae6704a6a5449a144de7bde8e318e6d0dcfb8e1deda45a6030245579366053"
  }
 },
 "sha256": "b8946df2e9caecd41eef691dea457a82e0a564ac7aade63f78b21aa7f8d86d3a"
}
"""


def test_the_bytes_on_the_disk_are_those_of_format_1(tmp_path: Path) -> None:
    """Checkpoints that users have must stay readable: another layout needs another FORMAT."""
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    groups: dict[str, dict[str, Array]] = {
        "model": {"weights": weights},
        "optimizer": {"m": weights / 2, "v": weights.T},
    }
    state = {"epoch": 1, "name": "é", "list": [0.1, None]}
    path = save_checkpoint(tmp_path, 1000, groups, state)
    assert (path / "checkpoint.json").read_text("utf-8") == INDEX
    files = ["checkpoint.json", "model.safetensors", "optimizer.safetensors"]
    assert sorted(os.listdir(path)) == files


def test_finite_values_are_saved_even_if_their_sum_is_not(tmp_path: Path) -> None:
    saved = {"model": {"large": np.full(8, np.finfo(np.float32).max)}}
    assert_same(load_checkpoint(save_checkpoint(tmp_path, 1, saved, {})).groups, saved)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nothing_that_is_not_finite_is_saved(tmp_path: Path, value: float) -> None:
    save_checkpoint(tmp_path, 1, groups_at(1), {}, keep=1)
    before = sorted(tmp_path.rglob("*"))
    groups = groups_at(2)
    groups["optimizer"]["m"][1, 2] = value
    with pytest.raises(NonFiniteError, match="optimizer tensor 'm' has 1 NaN or infinite of 12"):
        save_checkpoint(tmp_path, 2, groups, {}, keep=1)
    with pytest.raises(NonFiniteError, match="state"):
        save_checkpoint(tmp_path, 2, groups_at(2), {"best": [value]}, keep=1)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("state", [{"a": (1, 2)}, {1: "a"}, {"a": {1: 2}}, {"a": np.float32(1)}])
def test_a_state_that_would_come_back_changed_is_a_type_error(tmp_path: Path, state: Any) -> None:
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, 1, groups_at(1), state)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_keeps_the_newest(tmp_path: Path, keep: int) -> None:
    for step in range(0, 50, 10):
        save_checkpoint(tmp_path, step, groups_at(step), {}, keep=keep)
    assert steps_in(tmp_path) == [40, 30, 20][:keep]
    assert len(os.listdir(tmp_path)) == keep


def test_a_step_saved_again_replaces_itself_and_what_came_after(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save_checkpoint(tmp_path, step, groups_at(step), {}, keep=3)
    save_checkpoint(tmp_path, 20, groups_at(99), {"again": True}, keep=3)
    assert steps_in(tmp_path) == [20, 10]
    checkpoint = load_newest_checkpoint(tmp_path, warn=pytest.fail)
    assert checkpoint.state == {"again": True}
    assert_same(checkpoint.groups, groups_at(99))


def test_deletes_nothing_but_its_own(tmp_path: Path) -> None:
    outside, directory = tmp_path / "outside", tmp_path / "checkpoints"
    for folder in (outside, directory):
        folder.mkdir()
        save_checkpoint(folder, 1, groups_at(1), {})
    (directory / "step-00000001" / "notes.txt").write_text("mine")
    (directory / "step-00000002").symlink_to(outside / "step-00000001")
    (directory / "step-00000003").mkdir()
    (directory / "step-00000003" / "model.safetensors").symlink_to(outside / "step-00000001")
    (directory / ".step-00000004.00000000.tmp").symlink_to(outside)
    (directory / ".step-00000005.00000000.old").mkdir()
    (directory / ".step-00000005.00000000.old" / "thesis.tex").write_text("mine")
    for name in ("step-0000001", "step-000000011", "step-00000009.bak", ".step-00000001.tmp"):
        (directory / name).mkdir()
    (directory / ".step-00000006.0123abcd.tmp").write_text("a file, not a folder")
    before = {*tmp_path.rglob("*")}
    for step in (11, 12, 13):
        save_checkpoint(directory, step, groups_at(step), {}, keep=1)
    recover_checkpoints(directory)
    new = {directory / "step-00000013", *(directory / "step-00000013").iterdir()}
    assert {*tmp_path.rglob("*")} == before | new


def test_never_writes_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(UserError, match="symbolic link"):
        save_checkpoint(tmp_path / "link", 1, groups_at(1), {})
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000001").symlink_to(tmp_path / "real")
    with pytest.raises(UserError, match="symbolic link"):
        save_checkpoint(tmp_path / "checkpoints", 1, groups_at(1), {})
    assert list((tmp_path / "real").iterdir()) == []


def test_a_replaced_checkpoint_with_files_of_somebody_else_stays(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, groups_at(1), {})
    (path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="files of somebody else"):
        save_checkpoint(tmp_path, 1, groups_at(2), {})
    assert os.listdir(tmp_path) == ["step-00000001"]
    assert_same(load_checkpoint(path).groups, groups_at(1))


# Reading a part


def opened_by(call: Callable[[], object]) -> set[str]:
    """Return the names of the files that ``call`` opens."""
    names = set()

    def note(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "open":
            names.add(Path(arguments[0]).name)

    with watching(note):
        call()
    return names


def test_a_group_that_is_not_asked_for_is_not_opened(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, groups_at(1), STATE)
    everything = {"checkpoint.json", "model.safetensors", "optimizer.safetensors"}
    assert opened_by(lambda: load_checkpoint(path)) == everything
    opened = opened_by(lambda: load_checkpoint(path, like=groups_at(1), groups=("model",)))
    assert opened == everything - {"optimizer.safetensors"}


@pytest.mark.parametrize("harm", ["altered", "cut", "gone"])
def test_damage_elsewhere_does_not_stop_reading_a_group(tmp_path: Path, harm: str) -> None:
    for step in (10, 20):
        path = save_checkpoint(tmp_path, step, groups_at(step), STATE)
    damaged = path / "optimizer.safetensors"
    data = damaged.read_bytes()
    damaged.unlink()
    if harm != "gone":
        damaged.write_bytes(data[:-1] + (bytes([data[-1] ^ 1]) if harm == "altered" else b""))
    checkpoint = load_newest_checkpoint(tmp_path, warn=pytest.fail, groups=["model"])
    assert (checkpoint.step, checkpoint.state) == (20, STATE)
    assert_same(checkpoint.groups, {"model": groups_at(20)["model"]})
    assert_refused(tmp_path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path, groups=["optimizer"])


def test_the_group_that_is_read_is_checked(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, groups_at(1), {})
    with pytest.raises(CheckpointError, match=r"no teacher\.safetensors"):
        load_checkpoint(path, groups=["teacher"])
    other = {"model": {"weights": np.zeros((4, 3), np.float32)}}
    with pytest.raises(CheckpointError, match="asks for"):
        load_checkpoint(path, like=other, groups=["model"])
    data = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_checkpoint(path, groups=["model"])


def test_reading_takes_little_more_memory_than_the_tensors(tmp_path: Path) -> None:
    weights = np.ones((1000, 1000), np.float32)
    saved = {"model": {"a": weights, "b": weights[:10]}, "optimizer": {"m": weights, "v": weights}}
    path = save_checkpoint(tmp_path, 1, saved, {})
    for groups, size in ((["model"], 1.01), (None, 3.01)):
        tracemalloc.start()
        checkpoint = load_checkpoint(path, groups=groups)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert weights.nbytes < peak < 1.2 * size * weights.nbytes
        assert not checkpoint.groups["model"]["a"].flags.writeable


# Damage


@pytest.fixture
def two_checkpoints(tmp_path: Path) -> Path:
    for step in (10, 20):
        save_checkpoint(tmp_path, step, groups_at(step), STATE)
    return tmp_path


def assert_refused(directory: Path, reason: str = "is refused") -> None:
    """Assert that the newest checkpoint is refused, and the one before it is used instead."""
    with pytest.raises(CheckpointError, match=reason) as error:
        load_checkpoint(directory / "step-00000020")
    assert "\n" not in str(error.value)
    warnings: list[str] = []
    checkpoint = load_newest_checkpoint(directory, warn=warnings.append)
    assert checkpoint.step == 10
    assert_same(checkpoint.groups, groups_at(10))
    assert len(warnings) == 1
    assert "step-00000020 is refused" in warnings[0]


@pytest.mark.parametrize("name", ["checkpoint.json", "model.safetensors", "optimizer.safetensors"])
def test_every_altered_byte_and_every_other_length_is_refused(
    two_checkpoints: Path, name: str
) -> None:
    path = two_checkpoints / "step-00000020" / name
    data = path.read_bytes()
    masks = np.random.default_rng(0).integers(1, 256, len(data)).tolist()
    wrong = [data[:i] + bytes([data[i] ^ masks[i]]) + data[i + 1 :] for i in range(len(data))]
    wrong += [data[:length] for length in range(len(data))]
    wrong += [data + b"\0", data + b"\n", b" " + data, b"\xef\xbb\xbf" + data, data * 2]
    wrong += [data[64:128] + data[:64] + data[128:], data[:64] + bytes(64) + data[128:]]
    for contents in wrong:
        path.write_bytes(contents)
        with pytest.raises(CheckpointError):
            load_checkpoint(path.parent)
    assert_refused(two_checkpoints)
    path.write_bytes(data)
    assert load_checkpoint(path.parent).step == 20


def swap(a: Path, b: Path) -> None:
    spare = a.with_name("spare")
    a.rename(spare)
    b.rename(a)
    spare.rename(b)


def replace_by_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_sparse(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.truncate(2**40)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda new, _: (new / "model.safetensors").unlink(), "No such file"),
        (lambda new, _: (new / "checkpoint.json").unlink(), "No such file"),
        (lambda new, _: swap(new / "model.safetensors", new / "optimizer.safetensors"), "instead"),
        (lambda new, old: shutil.copy(old / "model.safetensors", new), "SHA-256"),
        (lambda new, old: shutil.copy(old / "checkpoint.json", new), "holds step 10"),
        (lambda new, old: shutil.copytree(old, new, dirs_exist_ok=True), "holds step 10"),
        (lambda new, _: replace_by_link(new / "model.safetensors"), "symbolic links"),
        (lambda new, _: replace_by_pipe(new / "model.safetensors"), "not a file"),
        (lambda new, _: replace_by_pipe(new / "checkpoint.json"), "not a file"),
        (lambda new, _: make_sparse(new / "model.safetensors"), "instead"),
        (lambda new, _: make_sparse(new / "checkpoint.json"), "too much"),
    ],
)
def test_missing_and_exchanged_files_are_refused(
    two_checkpoints: Path, harm: Callable[[Path, Path], object], reason: str
) -> None:
    harm(two_checkpoints / "step-00000020", two_checkpoints / "step-00000010")
    assert_refused(two_checkpoints, reason)


def forge_index(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change an index and give it the digest that it should then have."""
    index = json.loads(path.read_bytes())
    change(index)
    index.pop("sha256", None)
    digest = hashlib.sha256(json.dumps(index).encode()).hexdigest()
    path.write_text(json.dumps({**index, "sha256": digest}, indent=1) + "\n")


def forge(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the index of step 20."""
    forge_index(directory / "step-00000020" / "checkpoint.json", change)


def test_the_forger_of_the_next_test_knows_the_format(two_checkpoints: Path) -> None:
    forge(two_checkpoints, lambda index: index["state"].update(forged=True))
    assert load_checkpoint(two_checkpoints / "step-00000020").state["forged"] is True


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.update(format="electra_ref checkpoint 2"),
        lambda index: index.pop("format"),
        lambda index: index.update(step=20.0),
        lambda index: index.update(step=True),
        lambda index: index.update(step=-1),
        lambda index: index.update(step=10**30),
        lambda index: index.update(step=30),
        lambda index: index.update(state=[]),
        lambda index: index.pop("state"),
        lambda index: index.update(files=[]),
        lambda index: index.update(files={"../step-00000010/model.safetensors": {}}),
        lambda index: index["files"].update({"checkpoint.json": {"bytes": 1, "sha256": ""}}),
        lambda index: index["files"]["model.safetensors"].update(bytes="160"),
        lambda index: (file := index["files"]["model.safetensors"]).update(
            bytes=float(file["bytes"])
        ),
        lambda index: index["files"]["model.safetensors"].update(bytes=-1),
        lambda index: index["files"]["model.safetensors"].update(bytes=2**62),
        lambda index: index["files"]["model.safetensors"].update(more=1),
        lambda index: index["files"]["model.safetensors"].update(sha256=None),
        lambda index: index["files"].update({"model.safetensors": 3}),
    ],
)
def test_a_forged_index_is_refused_without_a_traceback(
    two_checkpoints: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    forge(two_checkpoints, change)
    assert_refused(two_checkpoints)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "1" * 5000,
        "[" * 100_000,
        '{"step": NaN}',
        "\ud800",
        "{" + '"a":1,' * 9,
    ],
)
def test_hostile_json_is_refused_without_a_traceback(two_checkpoints: Path, text: str) -> None:
    path = two_checkpoints / "step-00000020" / "checkpoint.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert_refused(two_checkpoints, "truncated or altered")


@pytest.mark.parametrize(
    "data", [b"", b"\x80\x04N.", bytes(8), b"\xff" * 64, (2).to_bytes(8, "little") + b"{}x"]
)
def test_a_file_that_is_not_safetensors_is_refused_even_with_a_good_digest(
    two_checkpoints: Path, data: bytes
) -> None:
    (two_checkpoints / "step-00000020" / "model.safetensors").write_bytes(data)
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    forge(two_checkpoints, lambda index: index["files"].update({"model.safetensors": entry}))
    assert_refused(two_checkpoints, "not a safetensors file")


def test_forged_nan_weights_are_refused(two_checkpoints: Path) -> None:
    data = safetensors.numpy.save({"weights": np.full((3, 4), np.nan, np.float32)})
    (two_checkpoints / "step-00000020" / "model.safetensors").write_bytes(data)
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    forge(two_checkpoints, lambda index: index["files"].update({"model.safetensors": entry}))
    assert_refused(two_checkpoints, "NaN")


@pytest.mark.parametrize(
    ("like", "reason"),
    [
        (
            {"model": {"weights": np.zeros((4, 3), np.float32)}},
            r"float32 \(3, 4\), and .* \(4, 3\)",
        ),
        ({"model": {"weights": np.zeros((3, 4))}}, "asks for float64"),
        (
            {"model": {"weights": np.zeros((3, 4), np.float32), "b": np.zeros(1)}},
            "lacks tensor 'b'",
        ),
        ({"model": {}}, "unknown tensor 'weights'"),
        ({"teacher": {}}, "no teacher.safetensors"),
    ],
)
def test_tensors_of_another_configuration_are_refused(
    two_checkpoints: Path, like: dict[str, dict[str, Array]], reason: str
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(two_checkpoints / "step-00000020", like=like)
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        load_newest_checkpoint(two_checkpoints, warn=lambda _: None, like=like)


def test_tensors_of_this_configuration_are_accepted(two_checkpoints: Path) -> None:
    checkpoint = load_newest_checkpoint(two_checkpoints, warn=pytest.fail, like=groups_at(0))
    assert checkpoint.step == 20


def test_no_checkpoint_at_all_is_said(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "missing"):
        assert list_checkpoints(directory) == []
        with pytest.raises(CheckpointError, match="there is no checkpoint in"):
            load_newest_checkpoint(directory, warn=pytest.fail)
    with pytest.raises(CheckpointError, match="No such file"):
        load_checkpoint(tmp_path / "step-00000001")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot read"):
        list_checkpoints(tmp_path / "file")
    with pytest.raises(CheckpointError, match="Not a directory"):
        load_checkpoint(tmp_path / "file")


@pytest.mark.parametrize("step", [-1, 10**8])
def test_a_step_that_has_no_name_is_a_value_error(tmp_path: Path, step: int) -> None:
    with pytest.raises(ValueError, match="step"):
        save_checkpoint(tmp_path, step, groups_at(1), {})
    with pytest.raises(ValueError, match="keep"):
        save_checkpoint(tmp_path, 1, groups_at(1), {}, keep=0)
    with pytest.raises(ValueError, match="group"):
        save_checkpoint(tmp_path, 1, {"../model": {}}, {})


def test_a_checkpoint_before_the_first_step_is_one(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 0, {"model": {"a": np.ones(3)}}, {})
    assert load_checkpoint(path).step == 0


def test_a_link_is_no_checkpoint(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, {"model": {"a": np.ones(3)}}, {})
    (tmp_path / "step-00000002").symlink_to(path, target_is_directory=True)
    assert list_checkpoints(tmp_path) == [path]
