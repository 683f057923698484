"""Reading documents: every kind of bad file ends in text, counts or one UserError, never worse."""

from __future__ import annotations

import gzip
import json
import os
import re
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.errors import UserError
from electra_ref.text import corpus, corpus_file, decoding
from electra_ref.text.corpus import hash_files, read_documents
from electra_ref.text.corpus_file import CorpusReport
from electra_ref.text.lines import End, read_lines
from electra_ref.text.listing import list_files
from tests.reading import read, read_bytes

REPLACED = "\ufffd"


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
        (b"a\0b" + 300 * b"c", [["a\0b" + 300 * "c"]]),
        # What is no LF, CR LF or CR ends a sentence at most, never a document.
        (b"a\n\fb", [["a", "b"]]),
        (b"a\f\fb\v\vc\xc2\x85\xc2\x85d", [["a", "b", "c", "d"]]),
        (b"a\xe2\x80\xa9\xe2\x80\xa9b\n\xe2\x80\xa8\fc", [["a", "b", "c"]]),
        (b"a\n\x1e\x1d\x1cb\n\x1fc", [["a", "b", "c"]]),
        # Nothing can be seen in these lines.
        (b"a\n\f\nb\n\xc2\x85\nc", [["a"], ["b"], ["c"]]),
        (b"a\n\xe2\x80\x8b\xef\xbb\xbf\nb\n\xe2\x80\xae\nc", [["a"], ["b"], ["c"]]),
        (b"a\n\xc2\xa0\xe3\x80\x80\nb\n\x01\x1b\x1e\nc", [["a"], ["b"], ["c"]]),
        (b"a\n\xef\xb8\x8f\xcd\x8f\nb\n\xc2\xad\nc", [["a"], ["b"], ["c"]]),
        # Something can be seen in these.
        (b"a\n.\nb\n\xe2\x80\x8bc", [["a", ".", "b", "\u200bc"]]),
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
    monkeypatch.setattr(corpus_file, "BLOCK_BYTES", block_bytes)
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
    monkeypatch.setattr(corpus_file, "BLOCK_BYTES", block_bytes)
    (tmp_path / "a.txt").write_bytes(b"a" + bad + b"b\n" + b"c" * 3000 + b"\n" + bad)
    documents, report = read(tmp_path / "a.txt")
    replaced = REPLACED * len(bad)
    assert documents == [["a" + replaced + "b", "c" * 3000, replaced]]
    assert report.invalid_bytes == 2 * len(bad)
    assert (report.files, report.documents, report.sentences) == (1, 1, 3)
    assert report.bytes == 3004 + 2 * len(bad)


FRAGMENTS = [
    *(b"a", b" ", b"\n", b"\r", b"\f", b"\xe2\x80\xa8", b"\xc2\x85", b"\xef\xbb\xbf"),
    *(b"\xe2\x80\x8b", b"\xf0\x9f", b"\x01"),
]


def plain_documents(text: str) -> list[list[str]]:
    """Read decoded text line by line, as the documentation says it."""
    documents: list[list[str]] = [[]]
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        sentences = [sentence.strip() for sentence in re.split("[\f\u2028\x85]", line)]
        seen = [sentence for sentence in sentences if sentence.strip("\u200b\x01 ")]
        documents[-1] += seen
        if not seen:
            documents.append([])
    return [document for document in documents if document]


@given(fragments=st.lists(st.sampled_from(FRAGMENTS), max_size=60), block_bytes=st.integers(1, 9))
def test_any_bytes_in_any_blocks_read_as_the_whole(
    fragments: list[bytes], block_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = b"".join(fragments)
    text = data.decode("utf-8", "surrogateescape").replace("\ufeff", "")
    escaped = [character for character in text if "\udc80" <= character <= "\udcff"]
    for character in escaped:
        text = text.replace(character, REPLACED)
    path = tmp_path_factory.mktemp("any") / "a.txt"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_file, "BLOCK_BYTES", block_bytes)
        patch.setattr(decoding, "LARGEST_SHARE", 1.0)
        documents, report = read(path)
    assert documents == plain_documents(text)
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
    monkeypatch.setattr(corpus_file, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(corpus, "LONGEST_SENTENCE", 10)
    (tmp_path / "a.txt").write_text("one two three four five six\nabcdefghijklmnopqrstuvw\n\nend")
    documents, report = read(tmp_path / "a.txt")
    assert documents == [
        ["one two", "three", "four five", "six", "abcdefghij", "klmnopqrst", "uvw"],
        ["end"],
    ]
    assert report.cut_sentences == 5
    assert read_bytes(tmp_path, b" abcdefghijklm") == [["abcdefghij", "klm"]]


def test_a_long_sentence_inside_a_line_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "LONGEST_SENTENCE", 10)
    (tmp_path / "a.txt").write_text("abcdefghijklm\fone\fabcdefghijklmn")
    documents, report = read(tmp_path / "a.txt")
    assert documents == [["abcdefghij", "klm", "one", "abcdefghij", "klmn"]]
    assert report.cut_sentences == 2


def test_lines_hold_no_end_of_a_line() -> None:
    blocks = ["a\r", "\nb\f", "c_\u2028d\r"]
    assert list(read_lines(iter(blocks), 10)) == [
        *(("a", End.LINE), ("b", End.SENTENCE), ("c_", End.SENTENCE), ("d", End.LINE))
    ]


def test_a_long_run_of_spaces_does_not_end_a_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "LONGEST_SENTENCE", 10)
    assert read_bytes(tmp_path, b"a" + 50 * b" " + b"b\n\nc") == [["a", "b"], ["c"]]


def test_a_long_line_of_short_sentences_is_not_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "LONGEST_SENTENCE", 10)
    (tmp_path / "a.txt").write_bytes(50 * b"a page\f")
    documents, report = read(tmp_path / "a.txt")
    assert documents == [50 * ["a page"]]
    assert report.cut_sentences == 0


def test_long_documents_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "LONGEST_DOCUMENT", 5)
    assert read_bytes(tmp_path, b"aaa\nbb\nccc\ndd\n\neee\nff\n") == [
        *(["aaa", "bb"], ["ccc", "dd"], ["eee", "ff"])
    ]
    assert read_bytes(tmp_path, b"aaa\nbb\nccc\nddd\n\neee\nfff\n") == [
        *(["aaa", "bb"], ["ccc"], ["ddd"], ["eee"], ["fff"])
    ]
    assert read_bytes(tmp_path, b"aa\nbb\ncc\ndddddddd\ne") == [
        ["aa", "bb"],
        ["cc"],
        ["dddddddd"],
        ["e"],
    ]


def peak_memory_of_one_line(path: Path, size: int) -> int:
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for _ in range(size >> 20):
            stream.write(b"a" * (1 << 20))
    tracemalloc.start()
    try:
        sentences = 0
        for document in read_documents(list_files([str(path)]).files, CorpusReport()):
            sentences += len(document)
        assert sentences == size // corpus.LONGEST_SENTENCE
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_a_line(tmp_path: Path) -> None:
    assert peak_memory_of_one_line(tmp_path / "a.txt.gz", 1 << 26) < 1 << 24


@pytest.mark.slow
def test_memory_of_a_gigabyte_in_one_line(tmp_path: Path) -> None:
    assert peak_memory_of_one_line(tmp_path / "a.txt.gz", 1 << 30) < 1 << 24


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "A.JSONL.GZ"])
def test_json_lines_are_known_by_their_ending(name: str, tmp_path: Path) -> None:
    data = b'{"text": "a\\n\\nb"}\n'
    (tmp_path / name).write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
    assert read(tmp_path / name)[0] == [["a", "b"]]


def test_json_lines_hold_a_document_each(tmp_path: Path) -> None:
    objects = [
        {"text": "a\nb\n\nc\u2028d"},
        {"text": " "},
        {"n": 1, "text": "\u00e9\ufeff\ud800_"},
    ]
    lines = [json.dumps(o, ensure_ascii=False) for o in objects[:2]] + [json.dumps(objects[2])]
    (tmp_path / "a.jsonl").write_bytes(
        "\r\n".join(["\ufeff" + lines[0], "  ", *lines[1:]]).encode()
    )
    documents, report = read(tmp_path / "a.jsonl")
    assert documents == [["a", "b", "c", "d"], ["\u00e9" + REPLACED + "_"]]
    assert report.invalid_bytes == 1


def test_control_characters_of_json_are_counted(tmp_path: Path) -> None:
    objects = [{"text": "a\x1b[0m\t\n"}, {"text": "plain"}, {"title": "\x01", "text": "a\0"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, objects)))
    assert read(tmp_path / "a.jsonl")[1].control_characters == 2


@pytest.mark.parametrize("end", ["\f", "\v"])
def test_other_ends_separate_no_objects(end: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"text": "a"}}{end}{{"text": "b"}}')
    with pytest.raises(UserError, match="line 1: expected one"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no json", "expected one JSON object with a string 'text'; jq -c ."),
        ('{"text": "a"', "expected one JSON object with a string 'text'; jq -c ."),
        ('["text"]', "not an array; jq -c '.[]'"),
        ('"text"', "not a string"),
        ("1", "not a number"),
        ("null", "not null;"),
        ("true", "not true or false"),
        ('{"text": 1}', "expected a string 'text', not a number"),
        ('{"text": null}', "expected a string 'text', not null."),
        ('{"text": {"text": "a"}}', "expected a string 'text', not an object"),
        ('{"other": "a", "\\u001b": 1}', r"no 'text'; its keys are 'other', '\x1b'; choose that"),
        ("{}", "no 'text'; its keys are none"),
    ],
)
def test_a_bad_json_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\n\n' + line + "\n")
    with pytest.raises(UserError) as caught:
        read(path)
    assert f"{path}, line 3: " in str(caught.value)
    assert message in f"{caught.value}."
    assert "\n" not in str(caught.value)


def test_the_key_of_the_text_can_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "not this", "body": "this"}\n')
    assert read(tmp_path / "a.jsonl", text_key="body")[0] == [["this"]]
    with pytest.raises(UserError, match="has no 'title'; its keys are 'text', 'body'; choose"):
        read(tmp_path / "a.jsonl", text_key="title")


def test_an_object_with_a_thousand_keys_is_a_short_message(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"k" * 1000 + str(i): 1 for i in range(1000)}))
    with pytest.raises(UserError, match="has no 'text'") as caught:
        read(tmp_path / "a.jsonl")
    assert str(caught.value).count(", '" + "k" * 39) == 9
    assert "k" * 40 not in str(caught.value)


def test_deeply_nested_json_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("[" * 200_000)
    with pytest.raises(UserError, match="line 1"):
        read(tmp_path / "a.jsonl")


def test_an_endless_json_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "LONGEST_OBJECT", 100)
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "' + "a" * 200)
    with pytest.raises(UserError, match="line 2: longer than 100"):
        read(tmp_path / "a.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        read(tmp_path / "a.txt")


def test_a_part_of_a_file_is_read(tmp_path: Path) -> None:
    """It may begin like a file that is refused: it is not the beginning of one."""
    data = b'a line\n{"text": 1}\n\nand more\n'
    (tmp_path / "a.txt").write_bytes(data)
    file = list_files([str(tmp_path / "a.txt")]).files[0]
    told: list[int] = []
    part = file._replace(part=(7, 23))
    assert list(read_documents([part], CorpusReport(), told.append)) == [['{"text": 1}'], ["and"]]
    assert sum(told) == 16
    (tmp_path / "a.txt").write_bytes(b"\xe9" + data[1:])
    file = list_files([str(tmp_path / "a.txt")]).files[0]
    assert list(read_documents([file._replace(part=(0, 6))], CorpusReport())) == [["\ufffd line"]]


def test_plain_files_may_be_read_in_parts(tmp_path: Path) -> None:
    data = {"a.txt": b"text", "b.jsonl": b"", "c.txt": "text".encode("utf-16"), "d.txt.gz": b""}
    for name, content in data.items():
        (tmp_path / name).write_bytes(content)
    files = list_files([str(tmp_path)]).files
    assert [decoding.is_plain(file) for file in files] == [True, True, False, False]
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match=r"cannot read .*a\.txt: No such file"):
        decoding.is_plain(files[0])


@pytest.mark.parametrize("change", ["grown", "gone"])
def test_a_file_that_changes_meanwhile_is_a_user_error(change: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    files = list_files([str(path)]).files
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
        return hash_files(list_files([str(tmp_path / name) for name in names]).files)

    for name in ("a.jsonl", "a.txt.gz"):  # a format or a compression is read in another way
        (tmp_path / name).write_text("a")
    assert len({hash_of("a.txt"), hash_of("a.jsonl"), hash_of("a.txt.gz")}) == 3
    assert hash_of("a.txt", "b.txt") == hash_of("c.txt", "b.txt")
    assert len({hash_of("a.txt", "b.txt"), hash_of("b.txt", "a.txt"), hash_of("ab.txt")}) == 3


def test_the_key_of_the_text_is_part_of_the_hash_where_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "a.jsonl").write_text("{}")

    def hash_of(name: str, key: str) -> str:
        return hash_files(list_files([str(tmp_path / name)], key).files)

    assert hash_of("a.txt", "text") == hash_of("a.txt", "body")
    assert hash_of("a.jsonl", "text") != hash_of("a.jsonl", "body")


def test_progress_is_told_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_file, "BLOCK_BYTES", 300)
    (tmp_path / "a.txt").write_bytes(b"some text\n" * 100)
    amounts: list[int] = []
    list(read_documents(list_files([str(tmp_path)]).files, CorpusReport(), amounts.append))
    assert amounts == [300, 300, 300, 100]


def test_limits_are_those_of_the_documentation() -> None:
    limits = corpus.LONGEST_SENTENCE, corpus.LONGEST_DOCUMENT, corpus.LONGEST_OBJECT
    assert limits == (65_536, 1_048_576, 16_777_216)
    assert (corpus_file.BLOCK_BYTES, decoding.HEAD_BYTES) == (1_048_576, 65_536)
    assert decoding.LARGEST_SHARE == 0.01


def test_progress_adds_up_to_the_bytes_on_disk(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"some text\n" * 1000))
    files = list_files([str(tmp_path)]).files
    amounts: list[int] = []
    list(read_documents(files, CorpusReport(), amounts.append))
    assert sum(amounts) == files[0].size
