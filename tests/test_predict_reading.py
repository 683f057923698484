"""Lines of an input: endings, compression, encodings, JSON, pauses; and what is refused."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.errors import UserError
from electra_ref.training.prediction import source as source_module
from electra_ref.training.prediction.counts import Counts
from electra_ref.training.prediction.records import (
    Record,
    Rules,
    json_records,
    text_records,
)
from electra_ref.training.prediction.source import (
    BadLineError,
    Reader,
    open_source,
    read_source,
)

TEXT = Rules("text", needs_pair=False, ids=0, recognizes_mask=False)
IDS = Rules("ids", needs_pair=False, ids=40, recognizes_mask=True)


def nothing(*_: object) -> None:
    pass


SILENT = Reader(nothing, nothing, nothing)


def lines_of(
    path: Path, input_format: str | None = None, reader: Reader = SILENT
) -> tuple[list[str], Counts]:
    counts = Counts()
    with open_source(str(path), input_format) as source:
        return list(read_source(source, reader, counts)), counts


def written(folder: Path, data: bytes, name: str = "lines.txt") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"one", ["one"]),
        (b"one\n", ["one"]),
        (b"one\n\n two \n", ["one", "", " two "]),
        (b"one\r\ntwo\rthree\n", ["one", "two", "three"]),
        (b"\xef\xbb\xbfone\n\xef\xbb\xbftwo", ["one", "\ufefftwo"]),
        ("a\u2028b\x85c\x0cd\x0be\n".encode(), ["a\u2028b\x85c\x0cd\x0be"]),
        ("﻿één\n".encode("utf-16-le"), ["één"]),
        ("﻿één\n".encode("utf-32-be"), ["één"]),
    ],
)
def test_every_line_is_a_line(tmp_path: Path, data: bytes, lines: list[str]) -> None:
    """A blank line, too; and no character is lost, so that offsets stay true."""
    found, counts = lines_of(written(tmp_path, data))
    assert found == lines
    assert (counts.bytes, counts.invalid_bytes) == (len(data), 0)


@pytest.mark.parametrize(
    ("ending", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_compressed_files_are_read(
    tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]
) -> None:
    data = "".join(f"line {number}\n" for number in range(100_000))
    path = written(tmp_path, compress(data.encode()), f"lines.txt{ending}")
    done: list[int] = []
    found, _ = lines_of(path, reader=Reader(nothing, done.append, nothing))
    assert found == data.splitlines()
    assert done[-1] == path.stat().st_size
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=rf"lines\.txt{ending} is a damaged or truncated {ending} "):
        lines_of(path)


def test_invalid_bytes_are_characters_and_are_counted(tmp_path: Path) -> None:
    found, counts = lines_of(written(tmp_path, b"a\xffb \xe2\x82\nc\xed\xa0\x80"))
    assert found == ["a\ufffdb \ufffd\ufffd", "c\ufffd\ufffd\ufffd"]
    assert counts.invalid_bytes == 6
    assert "6 invalid bytes left out" in counts.summary(1.0)
    (note,) = counts.notes("convert it")
    assert note == (
        "54.5 % of the bytes are not valid UTF-8, so the text is probably in another encoding; "
        "convert it"
    )
    found, counts = lines_of(written(tmp_path, "\ufeffé".encode("utf-16-le") + b"\x00\xd8"))
    assert (found, counts.invalid_bytes) == (["é\ufffd"], 2)


@pytest.mark.parametrize("cut", range(1, 8))
def test_characters_and_marks_may_arrive_in_parts(
    cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "_BLOCK_BYTES", cut)
    for encoding in ("utf-8", "utf-16-le", "utf-32-le"):
        data = "\ufeffaé€🦙\r\nb".encode(encoding)
        assert lines_of(written(tmp_path, data))[0] == ["aé€🦙", "b"]


def test_the_name_tells_the_format(tmp_path: Path) -> None:
    for name, is_json in [("a.jsonl", True), ("a.json", True), ("A.JSONL.gz", True),
                          ("a.txt", False), ("a", False), ("json", False)]:  # fmt: skip
        with open_source(str(written(tmp_path, b"", name)), None) as source:
            assert source.is_json == is_json, name
        with open_source(str(tmp_path / name), "jsonl" if not is_json else "text") as source:
            assert source.is_json != is_json, name


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'\n {"text": "a"}\n', "begins with a JSON object: choose --input-format jsonl, or text"),
        (b"\x1f\x8b\x08rest", "is compressed; decompress it with gzip -dc"),
        (b"%PDF-1.4 rest", "is a PDF document"),
        (b"\x93NUMPY rest", 'saved by numpy.save; write a row a line as JSON: {"ids": [...]}'),
        (b"a\0b\0c\0\n\0", "is no text: it has NUL bytes"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        lines_of(written(tmp_path, data))


def test_json_may_be_read_as_text_if_that_is_asked_for(tmp_path: Path) -> None:
    line = '{"text": "a"}'
    path = written(tmp_path, line.encode())
    assert lines_of(path, "text")[0] == [line]


def test_later_lines_that_look_like_json_are_noted() -> None:
    counts = Counts()
    lines = ["a", '{"text": "b"}', '{"text": 1}x', "{b}"]
    assert [record.texts for record in text_records(iter(lines), counts)] == [
        (line,) for line in lines
    ]
    assert counts.like_json == 1
    assert list(counts.notes("")) == [
        "1 line of text looks like a JSON object and was read as text; --input-format jsonl reads "
        "JSON"
    ]


def test_the_summary_names_what_is_there_only() -> None:
    counts = Counts(lines=1, tokens=1)
    assert counts.summary(2.0) == "1 line, 1 token in 2.0 s (0 tokens/s)"
    assert list(counts.notes("")) == []
    counts = Counts(
        bytes=100, invalid_bytes=1, lines=1200, empty=1, tokens=5000, unknown=1001, cut=2,
        windows=1, like_json=2, masks=3, without_mask=4,
    )  # fmt: skip
    assert counts.summary(2.0, counts_masks=True) == (
        "1,200 lines, 1 empty, 2 longer than the model reads, cut into 1 overlapping window, "
        "1 invalid byte left out, 4 without [MASK], 3 masks, 5,000 tokens (1,001 [UNK]) in 2.0 s "
        "(2,500 tokens/s)"
    )
    (note,) = counts.notes("")
    assert note.startswith("2 lines of text look like JSON objects and were read as text; --input-")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.txt", "cannot read .*missing.txt: No such file"),
        (".", "cannot read .*: Is a directory"),
        ("", "names no file"),
        ("a\0b", "names no file"),
    ],
)
def test_what_cannot_be_opened_is_refused(
    path: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message), open_source(path, None):
        pass


def test_a_line_may_not_be_longer_than_memory_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "LONGEST_LINE", 10)
    path = written(tmp_path, b"0123456789\n01234 56789\n")
    with pytest.raises(BadLineError, match=r"line 2: longer than 10 characters; cut it"):
        lines_of(path)


def test_a_pause_is_told_before_more_is_waited_for() -> None:
    """What came before it can be answered meanwhile."""
    readable, writable = os.pipe()
    events: list[str] = []
    paused = threading.Event()

    def on_pause() -> None:
        events.append("pause")
        paused.set()

    def feed() -> None:
        os.write(writable, b"one\ntw")
        paused.wait(60)
        os.write(writable, b"o\nthree\n")
        os.close(writable)

    feeder = threading.Thread(target=feed)
    feeder.start()
    with open_source(f"/dev/fd/{readable}", None) as source:
        for line in read_source(source, Reader(on_pause, nothing, nothing), Counts()):
            events.append(line)
    feeder.join()
    os.close(readable)
    assert [event for event in events if event != "pause"] == ["one", "two", "three"]
    assert events.index("one") < events.index("pause") < events.index("two")


def test_reading_can_be_stopped_while_nothing_comes() -> None:
    readable, writable = os.pipe()

    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    with (
        open_source(f"/dev/fd/{readable}", None) as source,
        pytest.raises(StopError),
    ):
        list(read_source(source, Reader(nothing, nothing, stop), Counts()))
    os.close(readable)
    os.close(writable)


def records_of(*lines: str, rules: Rules = TEXT) -> list[Record]:
    return list(json_records(iter(lines), "a.jsonl", rules))


def test_a_line_of_json_is_a_text_or_a_pair() -> None:
    assert records_of(
        '{"text": "a"}',
        '{"text_pair": "b", "text": "a", "id": [1, null], "label": 3}',
        '{"text": "a", "text_pair": null, "id": null}',
        "  ",
        '{"text": "\\ud800x"}',
    ) == [
        Record(("a",)),
        Record(("a", "b"), "[1, null]"),
        Record(("a",), "null"),
        Record(("",)),
        Record(("\ufffdx",)),
    ]
    assert records_of('{"text": ""}')[0].id is None


def test_token_ids_are_a_list() -> None:
    assert records_of('{"ids": [0, 39, "[MASK]"], "ids_pair": []}', "", rules=IDS) == [
        Record(([0, 39, "[MASK]"], [])),
        Record(([],)),
    ]


@pytest.mark.parametrize(
    ("line", "rules", "message"),
    [
        ("a", TEXT, "expected a JSON object with 'text' (Expecting value, column 1); --input-form"),
        ('{"text": "a"', TEXT, "expected a JSON object with 'text' (Expecting ',' delimiter, col"),
        ('{"text": "a", "id": NaN}', TEXT, "expected a JSON object with 'text' (NaN is not JSON)"),
        ('{"text": "a", "id": [1e999]}', TEXT, "the answer cannot repeat its 'id' (Out of range"),
        ("[" * 100_000, TEXT, "expected a JSON object with 'text'"),
        ('["a"]', TEXT, "expected a JSON object with 'text', not an array"),
        ('"a"', TEXT, "expected a JSON object with 'text', not a string"),
        ('{"txt": "a"}', TEXT, "the JSON object has no 'text'; its keys are 'txt'"),
        ("{}", TEXT, "the JSON object has no 'text'; its keys are none"),
        ('{"text_pair": "a"}', TEXT, "the JSON object has no 'text'; its keys are 'text_pair'"),
        ('{"text": 3}', TEXT, "expected a string 'text', not a number"),
        ('{"text": "a", "text_pair": true}', TEXT, "a string 'text_pair', not true or false"),
        ('{"text": "a"}', TEXT._replace(needs_pair=True), "this discriminator compares: give the"),
        ('{"text": "a"}', IDS, "the JSON object has no 'ids'; its keys are 'text'"),
        ('{"ids": "a"}', IDS, "expected a list 'ids', not a string"),
        ('{"ids": [1, "a"]}', IDS, "'ids', position 1: expected an integer, not a string"),
        ('{"ids": [true]}', IDS, "'ids', position 0: expected an integer, not true or false"),
        ('{"ids": [1.0]}', IDS, "'ids', position 0: expected an integer, not a number"),
        ('{"ids": [0, 40]}', IDS, "'ids', position 1: the id 40 is not in the vocabulary, which"),
        ('{"ids": [-1]}', IDS, "'ids', position 0: the id -1 is not in the vocabulary, which en"),
        ('{"ids": ["[MASK]"]}', IDS._replace(recognizes_mask=False), "expected an integer"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(line: str, rules: Rules, message: str) -> None:
    with pytest.raises(BadLineError, match=re.escape(message)) as refused:
        records_of("", line, rules=rules)
    assert str(refused.value).startswith("a.jsonl, line 2: ")
    assert "\n" not in str(refused.value)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(value=JSON_VALUES)
def test_any_other_json_is_a_bad_line(value: Any) -> None:
    """Never another exception, whatever the line holds."""
    try:
        records = records_of(json.dumps(value))
    except BadLineError:
        assert not (isinstance(value, dict) and isinstance(value.get("text"), str))
    else:
        assert len(records) == 1
