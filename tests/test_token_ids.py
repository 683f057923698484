"""Arrays of token ids: every one is read as it was meant, or refused with the reason and place."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.batch import SPECIAL_TOKENS
from electra_ref.errors import UserError
from electra_ref.text import token_ids
from electra_ref.text.token_ids import (
    check_ids,
    hash_ids,
    id_documents,
    id_vocabulary,
    join_facts,
    notes_on,
    open_id_array,
    plan_parts,
)


def saved(folder: Path, array: npt.NDArray[Any]) -> str:
    np.save(folder / "ids.npy", array)
    return str(folder / "ids.npy")


def check(folder: Path, array: npt.NDArray[Any]) -> token_ids.IdFacts:
    path = saved(folder, array)
    return join_facts([check_ids(open_id_array(path), path)], path)


def notes(folder: Path, array: npt.NDArray[Any]) -> list[str]:
    return list(notes_on(check(folder, array)))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_ids, "LONGEST_ID_DOCUMENT", 4)
    monkeypatch.setattr(token_ids, "_PIECE_IDS", 8)


@pytest.mark.parametrize("dtype", ["i1", "<u2", ">u2", ">i4", "<i8", "<u8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_of_ids_become_documents(dtype: str, order: Any, tmp_path: Path) -> None:
    rows = np.array([[3, 1, 0], [7, 7, 7], [0, 2, 5], [4, 4, 1]], dtype, order=order)
    if np.issubdtype(rows.dtype, np.signedinteger):
        rows[0, 1:] = rows[2, :] = -1
    facts = check(tmp_path, rows)
    ids = open_id_array(str(tmp_path / "ids.npy"))
    assert facts.largest == 7
    kept = [(row[row >= 0].astype(int) + 5).tolist() for row in rows]
    kept = [row for row in kept if row]
    assert facts.documents == len(kept)
    assert [document.ids.tolist() for document in id_documents(ids)] == kept
    assert [document.lengths.tolist() for document in id_documents(ids)] == [[len(k)] for k in kept]
    vocabulary = id_vocabulary(7)
    assert vocabulary[:5] == list(SPECIAL_TOKENS)
    assert [vocabulary[i] for i in kept[1]] == ["7", "7", "7"]


@pytest.mark.usefixtures("small_pieces")
def test_a_stream_of_ids_is_cut_into_documents(tmp_path: Path) -> None:
    counted: list[int] = []
    path = saved(tmp_path, np.arange(10))
    assert check_ids(open_id_array(path), path, counted.append) == (9, 1, 1, {})
    lengths = [document.ids.size for document in id_documents(open_id_array(path), counted.append)]
    assert lengths == [4, 4, 2]
    assert counted == lengths * 2


@given(
    rows=st.integers(1, 9), columns=st.integers(2, 11), seed=st.integers(0, 2**32 - 1),
    order=st.sampled_from("CF"),
)  # fmt: skip
def test_rows_in_pieces_are_the_rows(
    rows: int, columns: int, seed: int, order: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    random = np.random.default_rng(seed)
    array = np.asarray(random.integers(0, 90, (rows, columns)), order=order)
    lengths = random.integers(0, columns + 1, rows)
    lengths[0] = columns
    array[np.arange(columns) >= lengths[:, None]] = -7
    path = saved(tmp_path_factory.mktemp("ids"), array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_ids, "LONGEST_ID_DOCUMENT", 4)
        patch.setattr(token_ids, "_PIECE_IDS", 30)
        facts = check_ids(open_id_array(path), path)
        documents = [document.ids.tolist() for document in id_documents(open_id_array(path))]
    assert facts.largest == array.max()
    assert facts.documents == (lengths > 0).sum()
    expected = [row[i : min(i + 4, n)] + 5 for row, n in zip(array, lengths, strict=True)
                for i in range(0, n, 4)]  # fmt: skip
    assert documents == [row.tolist() for row in expected]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((0, 0), -3, "row 0, column 0: the id -3 is negative, but padding may only end a row"),
        ((3, 2), -1, "row 3, column 2: the id -1 is negative"),
        ((3, 3), -1, "row 3, column 3: the id -1 is negative"),
        ((4, 7), -9, "row 4, column 7: the id -9 is negative"),
        ((4, 9), -9, None),
        ((2, 9), 2**40, "row 2, column 9: the id 1099511627776 is too large; .* at most 1000000"),
        ((2, 1), 1_000_001, "row 2, column 1: the id 1000001 is too large"),
        ((2, 1), 1_000_000, None),
    ],
)
@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.usefixtures("small_pieces")
def test_a_wrong_id_in_a_row_is_named_with_its_place(
    place: tuple[int, int],
    value: int,
    message: str | None,
    in_pieces: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not in_pieces:
        monkeypatch.setattr(token_ids, "LONGEST_ID_DOCUMENT", 10)
    rows = np.ones((6, 10), np.int64)
    rows[place] = value
    if message is None:
        check(tmp_path, rows)
    else:
        with pytest.raises(UserError, match=rf"ids\.npy, {message}"):
            check(tmp_path, rows)


@pytest.mark.parametrize("place", [0, 5, 9])
@pytest.mark.usefixtures("small_pieces")
def test_a_wrong_id_in_a_stream_is_named_with_its_place(place: int, tmp_path: Path) -> None:
    stream = np.arange(10)
    stream[place] = -100
    with pytest.raises(UserError, match=f"position {place}: the id -100 .* has no padding"):
        check(tmp_path, stream)
    large = np.arange(10).astype(np.uint64)
    large[place] = 2**64 - 1
    with pytest.raises(UserError, match=f"position {place}: the id {2**64 - 1} is too large"):
        check(tmp_path, large)


def test_the_first_of_several_wrong_ids_is_named(tmp_path: Path) -> None:
    for wrong in (-1, 2**40):
        rows = np.ones((5, 5), np.int64)
        rows[1:3, 1:3] = wrong
        with pytest.raises(UserError, match=r"row 1, column [12]:"):
            check(tmp_path, rows)


@pytest.mark.parametrize("shape", [(97,), (23, 5), (3, 40)])
@pytest.mark.usefixtures("small_pieces")
def test_parts_of_an_array_are_the_array(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Facts, documents and errors are those of the whole; a part has its own hash."""
    array = np.random.default_rng(0).integers(0, 30, shape)
    if array.ndim == 2:
        array[:-1, 3:] = -1
        array[1] = -1
    path = saved(tmp_path, array)
    ids = open_id_array(path)
    parts = plan_parts(ids, 200)
    assert len(parts) > 1
    assert [part.first for part in parts] == [0, *(part.end for part in parts[:-1])]
    assert parts[-1].end == len(array)
    facts = [check_ids(ids, path, part=part) for part in parts]
    assert join_facts(facts, path) == check_ids(ids, path)
    documents = [d.ids.tolist() for part in parts for d in id_documents(ids, part=part)]
    assert documents == [d.ids.tolist() for d in id_documents(ids)]
    assert len({hash_ids(ids, part, lambda _: None) for part in parts}) == len(parts)
    place = (len(array) - 1, *(0 for _ in shape[1:]))
    array[place] = -3
    with pytest.raises(UserError, match=rf"{place[0]}.*: the id -3 is negative"):
        check_ids(open_id_array(saved(tmp_path, array)), path, part=parts[-1])


def test_an_absurd_id_costs_no_memory(tmp_path: Path) -> None:
    path = saved(tmp_path, np.array([1, 2**62]))
    tracemalloc.start()
    with pytest.raises(UserError, match="too large"):
        check_ids(open_id_array(path), path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.usefixtures("small_pieces")
def test_rows_that_end_in_one_id_may_be_padded_with_it(tmp_path: Path) -> None:
    rows = np.arange(80).reshape(20, 4)
    rows[:11, 2:] = 0
    assert notes(tmp_path, rows) == [
        "11 of 20 rows of the token ids end in the id 0 twice or more; "
        "if it is padding, save -1 in its place"
    ]
    rows[0, 3] = 5
    assert notes(tmp_path, rows) == []
    rows[:] = -1
    rows[:2] = 3
    assert len(notes(tmp_path, rows)) == 1, "padding is no token"
    assert notes(tmp_path, np.ones((9, 4), int)) == [], "too few rows to tell"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3), "integers"),
        (np.array(["a"]), "integers"),
        (np.array([True]), "integers"),
        (np.array([None]), "no array of integers"),
        (np.array(3), "shape"),
        (np.zeros((2, 2, 2), int), "shape"),
        (np.zeros((30, 1), int), "documents of one token each"),
        (np.zeros(0, int), "without elements"),
        (np.zeros((0, 3), int), "without elements"),
        (np.array([[-1, -5]]), "padding"),
    ],
)
def test_arrays_that_are_no_ids_are_user_errors(
    array: npt.NDArray[Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        check(tmp_path, array)


def test_two_arrays_in_one_file_are_refused(tmp_path: Path) -> None:
    with open(tmp_path / "ids.npy", "wb") as stream:
        np.save(stream, np.arange(10))
        np.save(stream, np.arange(10))
    with pytest.raises(UserError, match="208 bytes after its array"):
        open_id_array(str(tmp_path / "ids.npy"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no .npy file, as numpy.save writes them; name text with --corpus"),
        (b"text", "is no .npy file, as numpy.save writes them; name text with --corpus"),
        (b"PK\x03\x04", "is no .npy file, as numpy.save writes them; name text with --corpus"),
        (b"\x93NUMPY\x01\x00", "is no array of integers saved by numpy.save"),
        (None, "no such file"),
    ],
)
def test_files_that_are_no_arrays_are_user_errors(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "ids.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"ids\.npy.*{message}"):
        open_id_array(str(path))


def test_a_folder_is_no_array(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it is no file; name \.npy files"):
        open_id_array(str(tmp_path))


def test_archives_and_truncated_arrays_are_user_errors(tmp_path: Path) -> None:
    path = Path(saved(tmp_path, np.arange(1000)))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"ids\.npy"):
        open_id_array(str(path))
    np.savez(tmp_path / "ids.npz", a=np.arange(3))
    with pytest.raises(UserError, match=r"ids\.npz"):
        open_id_array(str(tmp_path / "ids.npz"))


@pytest.mark.parametrize(
    "shape", ["((((", "(10**30,)", "(1" + "0" * 30 + ",)", "(True,)", "('a',)"]
)
def test_a_damaged_header_is_a_user_error(shape: str, tmp_path: Path) -> None:
    path = tmp_path / "ids.npy"
    header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}"
    header = header.ljust(118) + "\n"
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    path.write_bytes(start + header.encode() + bytes(80))
    with pytest.raises(UserError, match=r"ids\.npy"):
        open_id_array(str(path))
