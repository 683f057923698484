"""A corpus in shards: each byte is in one of them, cut where a document begins."""

from __future__ import annotations

import gzip
import json
import os
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.errors import UserError
from electra_ref.text import cutting, shards
from electra_ref.text.corpus import read_documents
from electra_ref.text.corpus_file import CorpusFile, CorpusReport
from electra_ref.text.listing import list_files
from electra_ref.text.shards import Shard, hash_contents, open_to_others, plan_shards

SHARD_BYTES = shards.SHARD_BYTES


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 1000)


def planned(*paths: Path) -> list[Shard]:
    return plan_shards(list_files([str(path) for path in paths]).files)


def documents_of(files: list[CorpusFile]) -> tuple[list[list[str]], CorpusReport]:
    report = CorpusReport()
    return list(read_documents(files, report)), report


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_large_text_is_cut_between_documents(end: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    documents = [[f"document {i}, line {j}" for j in range(i % 5 + 1)] for i in range(200)]
    path.write_bytes((end + end).join(end.join(lines) for lines in documents).encode())
    found = planned(path)
    size = path.stat().st_size
    assert len(found) == -(-size // 1000)
    parts = [shard.files[0].part or (0, 0) for shard in found]
    assert [start for start, _ in parts] == [0, *(stop for _, stop in parts[:-1])]
    assert parts[-1][1] == size
    assert all(700 < stop - start < 1300 for start, stop in parts[:-1])
    read, report = documents_of([file for shard in found for file in shard.files])
    assert read == documents
    _, whole = documents_of(list_files([str(path)]).files)
    assert report == whole
    assert sum(shard.size for shard in found) == size


def test_lines_of_json_are_cut_between_objects(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"text {i}\n\nmore"}) for i in range(300)]
    path.write_text("\n".join(lines))
    found = planned(path)
    assert len(found) == -(-path.stat().st_size // 1000)
    read, _ = documents_of([file for shard in found for file in shard.files])
    assert read == [[f"text {i}", "more"] for i in range(300)]


def test_an_error_in_a_later_shard_has_the_number_of_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"text {i}"}) for i in range(300)]
    path.write_text("\r\n".join([*lines[:277], "bad", *lines[277:]]))
    with pytest.raises(UserError, match=r"a\.jsonl, line 278: expected one JSON object"):
        documents_of([file for shard in planned(path) for file in shard.files])


def test_a_document_without_an_end_is_cut_at_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    lines = [f"line {i}" for i in range(1000)]
    path.write_text("\n".join(lines))
    monkeypatch.setattr(cutting, "LONGEST_DOCUMENT", 100)
    read, _ = documents_of([file for shard in planned(path) for file in shard.files])
    assert list(chain.from_iterable(read)) == lines
    assert len(read) == -(-path.stat().st_size // 1000)


@given(text=st.text(st.sampled_from("ab \n\r\t\u00e9"), max_size=300), size=st.integers(20, 90))
def test_no_byte_is_lost_at_a_cut(
    text: str, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("shards") / "a.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_BYTES", size)
        found = planned(path)
    read, _ = documents_of([file for shard in found for file in shard.files])
    whole, _ = documents_of(list_files([str(path)]).files)
    assert read == whole


def test_small_files_are_one_shard_and_compressed_ones_are_not_cut(tmp_path: Path) -> None:
    names = {"a.txt": 300, "b.txt": 300, "c.txt": 500, "d.txt": 2500, "e.txt": 10}
    for name, size in names.items():
        (tmp_path / name).write_text("word\n" * (size // 5))
    (tmp_path / "f.txt.gz").write_bytes(gzip.compress(os.urandom(5000).hex().encode()))
    (tmp_path / "g.txt").write_bytes(("line\n" * 600).encode("utf-16"))
    (tmp_path / "h.txt.gz").write_bytes(gzip.compress(b"a"))
    found = [[Path(file.name).name for file in shard.files] for shard in planned(tmp_path)]
    assert found == [
        *(["a.txt", "b.txt"], ["c.txt"], ["d.txt"], ["d.txt"], ["d.txt"]),
        *(["e.txt"], ["f.txt.gz"], ["g.txt"], ["h.txt.gz"]),
    ]


def test_a_compressed_file_counts_with_its_text(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{number}.txt.gz").write_bytes(gzip.compress(os.urandom(100), mtime=0))
    assert {len(shard.files) for shard in planned(tmp_path)} == {1000 // (4 * 123), 1}


def test_others_can_open_what_has_no_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with open(tmp_path / "a.txt", encoding="utf-8") as stream:
        file = list_files([str(tmp_path)]).files[0]._replace(path=stream.fileno())
        named = open_to_others([Shard((file,))])
        if not Path("/proc/self/fd").exists():
            assert named is None
            return
        assert named is not None
        (other,) = named[0].files
        assert isinstance(other.path, str)
        assert Path(other.path).read_text() == "text"
        assert other.name == file.name


def test_the_hash_of_a_corpus_is_one_of_its_shards_in_order() -> None:
    assert len({hash_contents(each) for each in (["a", "b"], ["b", "a"], ["ab"], ["a"])}) == 4


def test_limits_are_those_of_the_documentation() -> None:
    assert SHARD_BYTES == 32 * 2**20
    assert shards.TEXT_OF_COMPRESSED == 4
