"""Tensors are read one by one, as the library wrote them, into memory that is already there."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_ref.tensor_file import (
    DTYPES,
    PIECE,
    TensorFile,
    TensorFileError,
    unlike,
    write_tensor_file,
)


def write(path: Path, header: Any, data: bytes, *, length: int | None = None) -> Path:
    """Write a file by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    path.write_bytes(length.to_bytes(8, "little") + text + data)
    return path


@settings(max_examples=20)
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=4),
    kind=st.sampled_from([name for name in DTYPES if name != "BF16"]),
    seed=st.integers(0, 2**20),
)
def test_every_type_comes_back_as_the_library_wrote_it(
    shapes: list[list[int]], kind: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    random = np.random.default_rng(seed)
    tensors = {
        f"t{i}": np.asarray(100 * random.standard_normal(shape)).astype(DTYPES[kind])
        for i, shape in enumerate(shapes)
    }
    path = tmp_path_factory.mktemp("file") / "model.safetensors"
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"format": "pt"}))
    with TensorFile(path) as file:
        assert {name: entry.shape for name, entry in file.entries.items()} == {
            name: tensor.shape for name, tensor in tensors.items()
        }
        for name, tensor in tensors.items():
            target = np.full(tensor.shape, 7, file.dtype_of(name))
            file.read_into(name, target)
            assert target.tobytes() == tensor.tobytes()


def test_numbers_become_those_of_the_target(tmp_path: Path) -> None:
    """Float types by NumPy's own rounding; bfloat16 by its definition; a transposed target."""
    values = np.array([[1.0, -2.5, 3.1415927], [65504.0, 1e-3, 0.0]])
    upper = (values.astype("<f4").view("<u4") >> 16).astype("<u2")  # cut, not rounded
    for kind, stored in (
        ("F64", values),
        ("F32", values.astype("<f4")),
        ("F16", values.astype("<f2")),
        ("BF16", upper),
    ):
        entry = {"dtype": kind, "shape": [2, 3], "data_offsets": [0, stored.nbytes]}
        path = write(tmp_path / kind, {"w": entry}, stored.tobytes())
        exact = stored.astype(np.float64)
        if kind == "BF16":
            exact = np.array([[1.0, -2.5, 3.140625], [65280.0, 0.00099945068359375, 0.0]])
        with TensorFile(path) as file:
            for dtype in ("float32", "float64"):
                target = np.empty((2, 3), dtype)
                file.read_into("w", target)
                np.testing.assert_array_equal(target, exact.astype(dtype))
                transposed = np.empty((3, 2), dtype)
                file.read_into("w", transposed.T)
                np.testing.assert_array_equal(transposed, exact.astype(dtype).T)


def test_a_large_tensor_is_read_in_pieces(tmp_path: Path) -> None:
    """More than two pieces of 1 MiB, and the memory of one."""
    random = np.random.default_rng(0)
    tensor = random.standard_normal(700_001).astype("<f4")
    (tmp_path / "w").write_bytes(safetensors.numpy.save({"w": tensor}))
    target = np.empty(tensor.shape)
    tracemalloc.start()
    with TensorFile(tmp_path / "w") as file:
        file.read_into("w", target)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(target, tensor)
    assert peak < 1.2 * 2**20


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data", "reason"),
    [
        (b"", b"", "truncated, or no safetensors"),
        (b"{", b"", "no safetensors file|not that of"),
        (b"[1]", b"", "header"),
        (b"[" * 5000, b"", "header"),
        ({"w": ENTRY}, bytes(7), "describes"),
        ({"w": ENTRY}, bytes(9), "describes"),
        ({"w": {**ENTRY, "data_offsets": [1, 9]}}, bytes(9), "overlap or leave"),
        ({"w": ENTRY, "v": ENTRY}, bytes(8), "overlap or leave"),
        ({"w": {**ENTRY, "shape": [3]}}, bytes(8), "header"),
        ({"w": {**ENTRY, "shape": [-2]}}, bytes(8), "header"),
        ({"w": {**ENTRY, "shape": [2.0]}}, bytes(8), "header"),
        ({"w": {**ENTRY, "shape": [True, 2]}}, bytes(8), "header"),
        ({"w": {**ENTRY, "shape": [1] * 64 + [2]}}, bytes(8), "header"),
        ({"w": {**ENTRY, "shape": [0, 10**30], "data_offsets": [0, 0]}}, b"", "header"),
        ({"w": {**ENTRY, "dtype": 4}}, bytes(8), "header"),
        ({"w": {"dtype": "F32"}}, bytes(8), "header"),
        ({"w": 3}, bytes(8), "header"),
        ({"__metadata__": {}, "w": {**ENTRY, "data_offsets": "08"}}, bytes(8), "header"),
    ],
)
def test_what_is_no_such_file_is_refused(
    header: Any, data: bytes, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(TensorFileError, match=reason):
        TensorFile(write(tmp_path / "file", header, data))


def test_a_length_that_lies_takes_no_memory(tmp_path: Path) -> None:
    with pytest.raises(TensorFileError, match="truncated"):
        TensorFile(write(tmp_path / "file", {}, b"", length=2**40))


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(write(tmp_path / "file", {"w": ENTRY}, bytes(8)))
    with pytest.raises(TensorFileError, match="not a file"):
        TensorFile(tmp_path / "pipe")
    with pytest.raises(IsADirectoryError):
        TensorFile(tmp_path)
    with pytest.raises(OSError, match="symbolic links"):
        TensorFile(tmp_path / "link", follow_links=False)
    TensorFile(tmp_path / "link").close()


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    with TensorFile(write(tmp_path / "file", {"w": ENTRY}, bytes(8))) as file:
        os.truncate(tmp_path / "file", file.size - 1)
        with pytest.raises(TensorFileError, match="shorter"):
            file.read_into("w", np.empty(2, np.float32))


def test_numbers_that_numpy_does_not_have_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "file", {"w": {**ENTRY, "dtype": "F8_E4M3"}}, bytes(8))
    with TensorFile(path) as file:
        with pytest.raises(TensorFileError, match=r"'w' .* F8_E4M3"):
            file.read_into("w", np.empty(2, np.float32))
        with pytest.raises(TensorFileError, match="F8_E4M3"):
            file.dtype_of("w")


def test_differences_are_named() -> None:
    shapes = {f"t{i}": (i, 2) for i in range(8)}
    assert unlike(shapes, shapes) == ""
    assert unlike({**shapes, "t3": (2, 3), "more": ()}, {**shapes, "less": (1,)}) == (
        "it lacks less; it has the unknown more; wrong are the shapes of t3 (2, 3) and not (3, 2)"
    )
    assert unlike({}, shapes) == "it lacks t0, t1, t2, t3, t4 and 3 more"


@pytest.mark.parametrize("kind", ["F64", "F32", "F16", "BF16"])
def test_pieces_are_the_numbers_in_order(kind: str, tmp_path: Path) -> None:
    """Two tensors of one file at the same time, each longer than a piece."""
    count = PIECE + 5
    numbers = np.arange(count) % 128 - 64.0  # all types have these
    stored = numbers.astype("<f4").view("<u4") >> 16 if kind == "BF16" else numbers
    data = stored.astype(DTYPES[kind]).tobytes()
    header = {
        name: {
            "dtype": kind,
            "shape": [count],
            "data_offsets": [i * len(data), (i + 1) * len(data)],
        }
        for i, name in enumerate("ab")
    }
    with TensorFile(write(tmp_path / "x", header, data + data[::-1])) as file:
        starts: list[int] = []
        for first, _ in zip(file.pieces("a"), file.pieces("b"), strict=True):
            start = PIECE * len(starts)
            np.testing.assert_array_equal(first, numbers[start : start + PIECE])
            starts.append(start)
    assert starts == [0, PIECE]


def test_a_file_is_written_as_the_library_reads_it(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tensors: dict[str, Any] = {
        "matrix": random.standard_normal((3, 4)).astype(np.float32),
        "transposed": random.standard_normal((5, 2)).astype(np.float32).T,
        "rounded": random.standard_normal(7),
        "number": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
    }
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    path = tmp_path / "model.safetensors"
    write_tensor_file(path, shapes, tensors.__getitem__, {"format": "pt"})
    found = safetensors.numpy.load(path.read_bytes())
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor.astype(np.float32), strict=True)
    with safetensors.safe_open(path, "np") as stream:
        assert stream.metadata() == {"format": "pt"}
    with TensorFile(path) as file:
        assert next(iter(file.entries.values())).first % 8 == 0
    with pytest.raises(FileExistsError):
        write_tensor_file(path, shapes, tensors.__getitem__, {})
    with pytest.raises(ValueError, match=r"matrix is \(3, 4\) and not \(4, 3\)"):
        write_tensor_file(tmp_path / "y", {"matrix": (4, 3)}, tensors.__getitem__, {})
