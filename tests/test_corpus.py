"""Reading documents: every kind of bad file ends in text, counts or one UserError, never worse."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.errors import UserError
from electra_ref.text import corpus
from electra_ref.text.corpus import CorpusReport, hash_files, list_files, read_documents

REPLACED = "\ufffd"


def read(*paths: Path) -> tuple[list[list[str]], CorpusReport]:
    report = CorpusReport()
    return list(read_documents(list_files([str(path) for path in paths]), report)), report


def read_bytes(folder: Path, data: bytes, name: str = "a.txt") -> list[list[str]]:
    (folder / name).write_bytes(data)
    return read(folder / name)[0]


@pytest.mark.parametrize(
    ("data", "documents"),
    [
        (b"", []),
        (b"\n \n\t\n\xc2\xa0\n\xe3\x80\x80\n", []),
        (b"a", [["a"]]),
        (b"a\nb\n\n\n\nc\n", [["a", "b"], ["c"]]),
        (b"\n\na\n\n", [["a"]]),
        (b"  a b \n", [["a b"]]),
        (b"a\r\nb\r\n\r\nc", [["a", "b"], ["c"]]),
        (b"a\rb\r\rc\r", [["a", "b"], ["c"]]),
        (b"a\xc2\x85b\xe2\x80\xa8c\xe2\x80\xa9d\x0be\x0cf", [["a", "b", "c", "d", "e", "f"]]),
        (b"\xef\xbb\xbfa\n\n\xef\xbb\xbf\nb\xef\xbb\xbfc", [["a"], ["bc"]]),
        (b"a\0b", [["a\0b"]]),
        ("\u4f60\u597d\n\U0001f600".encode(), [["\u4f60\u597d", "\U0001f600"]]),
    ],
)
@pytest.mark.parametrize("block_bytes", [1, 2, 3, 1 << 20])
def test_text_becomes_documents(
    data: bytes,
    documents: list[list[str]],
    block_bytes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(corpus, "BLOCK_BYTES", block_bytes)
    assert read_bytes(tmp_path, data) == documents
    assert read_bytes(tmp_path, gzip.compress(data), "a.TXT.gz") == documents


@pytest.mark.parametrize(
    "bad",
    [
        b"\x80",  # a continuation without a beginning
        b"\xbf\xbf",
        b"\xc3",  # beginnings without a continuation
        b"\xe2\x82",
        b"\xf0\x9f\x98",
        b"\xc0\xaf",  # overlong
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xed\xa0\x80",  # a surrogate
        b"\xf4\x90\x80\x80",  # above U+10FFFF
        b"\xf8\x88\x80\x80\x80",  # five and six bytes
        b"\xfc\x84\x80\x80\x80\x80",
        b"\xfe",
        b"\xff\xfe",
    ],
)
@pytest.mark.parametrize("block_bytes", [1, 3, 1 << 20])
def test_every_invalid_byte_is_replaced_and_counted(
    bad: bytes, block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "BLOCK_BYTES", block_bytes)
    (tmp_path / "a.txt").write_bytes(b"a" + bad + b"b\n" + bad)
    documents, report = read(tmp_path / "a.txt")
    assert documents == [["a" + REPLACED * len(bad) + "b", REPLACED * len(bad)]]
    assert report.invalid_bytes == 2 * len(bad)
    assert (report.files, report.documents, report.sentences) == (1, 1, 2)
    assert report.bytes == 3 + 2 * len(bad)


FRAGMENTS = [b"a", b" ", b"\n", b"\r", b"\xe2\x80\xa8", b"\xc2\x85", b"\xef\xbb\xbf", b"\xf0\x9f"]


@given(fragments=st.lists(st.sampled_from(FRAGMENTS), max_size=60), block_bytes=st.integers(1, 9))
def test_any_bytes_in_any_blocks_read_as_the_whole(
    fragments: list[bytes], block_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = b"".join(fragments)
    text = data.decode("utf-8", "surrogateescape").replace("\ufeff", "").replace("\r\n", "\n")
    escaped = [character for character in text if "\udc80" <= character <= "\udcff"]
    for character in escaped:
        text = text.replace(character, REPLACED)
    for end in "\r\x85\u2028":
        text = text.replace(end, "\n")
    lines = [line.strip() for line in text.split("\n")]
    expected = [part.split("\n") for part in "\n".join(lines).split("\n\n")]
    expected = [[line for line in document if line] for document in expected]

    path = tmp_path_factory.mktemp("any") / "a.txt"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "BLOCK_BYTES", block_bytes)
        documents, report = read(path)
    assert documents == [document for document in expected if document]
    assert report.invalid_bytes == len(escaped)


@given(
    data=st.binary(max_size=80), ending=st.sampled_from([".txt", ".jsonl", ".txt.gz", ".jsonl.gz"])
)
def test_arbitrary_bytes_give_documents_or_a_user_error(
    data: bytes, ending: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / f"a{ending}"
    path.write_bytes(data)
    documents: list[list[str]] = []
    with suppress(UserError):
        documents, _ = read(path)
    assert all(document and all(s.strip() for s in document) for document in documents)


@pytest.mark.parametrize("block_bytes", [11, 1 << 20])
def test_long_lines_are_cut_at_spaces(
    block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(corpus, "LONGEST_SENTENCE", 10)
    (tmp_path / "a.txt").write_text("one two three four\nabcdefghijklmnopqrstuvw\n\nend")
    documents, report = read(tmp_path / "a.txt")
    assert documents == [
        ["one two", "three four", "abcdefghij", "klmnopqrst", "uvw"],
        ["end"],
    ]
    assert report.cut_sentences == 3


def test_long_documents_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "LONGEST_DOCUMENT", 5)
    assert read_bytes(tmp_path, b"aa\nbb\ncc\ndddddddd\ne") == [
        ["aa", "bb"],
        ["cc"],
        ["dddddddd"],
        ["e"],
    ]


def peak_memory_of_one_line(path: Path, size: int) -> int:
    path.touch()
    os.truncate(path, size)  # zeros, so one line without any space, and no disk is used
    tracemalloc.start()
    try:
        sentences = 0
        for document in read_documents(list_files([str(path)]), CorpusReport()):
            sentences += len(document)
        assert sentences == size // corpus.LONGEST_SENTENCE
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_a_line(tmp_path: Path) -> None:
    assert peak_memory_of_one_line(tmp_path / "a.txt", 1 << 26) < 1 << 24


@pytest.mark.slow
def test_memory_of_a_gigabyte_in_one_line(tmp_path: Path) -> None:
    assert peak_memory_of_one_line(tmp_path / "a.txt", 1 << 30) < 1 << 24


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "A.JSONL.GZ"])
def test_json_lines_are_known_by_their_ending(name: str, tmp_path: Path) -> None:
    data = b'{"text": "a\\n\\nb"}\n'
    (tmp_path / name).write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
    assert read(tmp_path / name)[0] == [["a", "b"]]


def test_json_lines_hold_a_document_each(tmp_path: Path) -> None:
    objects = [{"text": "a\nb\n\nc\u2028d"}, {"text": " "}, {"n": 1, "text": "\u00e9\ud800"}]
    lines = [json.dumps(o, ensure_ascii=False) for o in objects[:2]] + [json.dumps(objects[2])]
    (tmp_path / "a.jsonl").write_bytes("\r\n".join(["\ufeff" + lines[0], "", *lines[1:]]).encode())
    documents, report = read(tmp_path / "a.jsonl")
    assert documents == [["a", "b", "c", "d"], ["\u00e9" + REPLACED]]
    assert report.invalid_bytes == 1


@pytest.mark.parametrize(
    "line", ["no json", '{"text": 1}', '{"other": "a"}', '["text"]', '"text"', '{"text": "a"', "1"]
)
def test_a_bad_json_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\n\n' + line + "\n")
    with pytest.raises(UserError, match=r"a\.jsonl, line 3"):
        read(path)


def test_deeply_nested_json_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("[" * 200_000)
    with pytest.raises(UserError, match="line 1"):
        read(tmp_path / "a.jsonl")


def test_an_endless_json_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "LONGEST_OBJECT", 100)
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "' + "a" * 200)
    with pytest.raises(UserError, match="line 2: longer than 100"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize("damage", ["cut", "flip", "not gzip", "trailing"])
def test_damaged_gzip_is_a_user_error(damage: str, tmp_path: Path) -> None:
    whole = gzip.compress(os.urandom(1000).hex().encode())
    data = {
        "cut": whole[:-20],
        "flip": whole[:500] + bytes([whole[500] ^ 0xFF]) + whole[501:],
        "not gzip": b"plain text",
        "trailing": whole + b"more",
    }[damage]
    (tmp_path / "a.txt.gz").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.txt\.gz"):
        read(tmp_path / "a.txt.gz")


def test_folders_are_searched_in_sorted_order(tmp_path: Path) -> None:
    for name in ["b.txt", "a/z.txt", "a/y.jsonl", ".hidden/x.txt", ".h.txt", "c.md", "a/d.bin"]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"text": "j"}' if name.endswith(".jsonl") else name)
    (tmp_path / "a/loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a/self").symlink_to("self")
    names = [os.path.relpath(file.path, tmp_path) for file in list_files([str(tmp_path)])]
    assert names == ["a/y.jsonl", "a/z.txt", "b.txt"]


def refused_paths(folder: Path) -> dict[str, Path]:
    (folder / "empty").mkdir()
    (folder / "a.md").write_text("text")
    (folder / "loop.txt").symlink_to("loop.txt")
    os.mkfifo(folder / "pipe.txt")
    return {
        "missing": folder / "missing.txt",
        "ending": folder / "a.md",
        "no file in it": folder / "empty",
        "loop": folder / "loop.txt",
        "pipe": folder / "pipe.txt",
        "device": Path("/dev/zero"),
        "too long": folder / ("x" * 300 + ".txt"),
        "not a name": folder / "nul\0.txt",
    }


@pytest.mark.parametrize(
    "kind",
    ["missing", "ending", "no file in it", "loop", "pipe", "device", "too long", "not a name"],
)
def test_paths_that_cannot_be_read_are_one_line(kind: str, tmp_path: Path) -> None:
    path = refused_paths(tmp_path)[kind]
    with pytest.raises(UserError) as caught:
        list_files([str(path)])
    assert "\n" not in str(caught.value)
    assert str(path).strip("'") in str(caught.value) or kind == "not a name"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        read(tmp_path / "a.txt")


@pytest.mark.parametrize("change", ["grown", "gone"])
def test_a_file_that_changes_meanwhile_is_a_user_error(change: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    files = list_files([str(path)])
    if change == "gone":
        path.unlink()
    else:
        path.write_text("ab")
    with pytest.raises(UserError, match=r"a\.txt"):
        list(read_documents(files, CorpusReport()))


def test_the_hash_is_one_of_contents_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "c.txt").write_text("a")
    (tmp_path / "ab.txt").write_text("ab")

    def hash_of(*names: str) -> str:
        return hash_files(list_files([str(tmp_path / name) for name in names]))

    assert hash_of("a.txt", "b.txt") == hash_of("c.txt", "b.txt")
    assert len({hash_of("a.txt", "b.txt"), hash_of("b.txt", "a.txt"), hash_of("ab.txt")}) == 3


def test_progress_is_told_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "BLOCK_BYTES", 300)
    (tmp_path / "a.txt").write_bytes(b"some text\n" * 100)
    amounts: list[int] = []
    list(read_documents(list_files([str(tmp_path)]), CorpusReport(), amounts.append))
    assert amounts == [300, 300, 300, 100]


def test_limits_are_those_of_the_documentation() -> None:
    limits = corpus.LONGEST_SENTENCE, corpus.LONGEST_DOCUMENT, corpus.LONGEST_OBJECT
    assert limits == (65_536, 1_048_576, 16_777_216)


def test_progress_adds_up_to_the_bytes_on_disk(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"some text\n" * 1000))
    files = list_files([str(tmp_path)])
    amounts: list[int] = []
    list(read_documents(files, CorpusReport(), amounts.append))
    assert sum(amounts) == files[0].size
