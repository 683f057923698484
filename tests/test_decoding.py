"""Encodings are read or refused, and what is no text is refused with what to do."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from electra_ref.errors import UserError
from electra_ref.text import corpus_file, decoding
from electra_ref.text.corpus import read_documents
from electra_ref.text.corpus_file import CorpusReport
from electra_ref.text.listing import describe_file
from electra_ref.text.shards import Shard, open_to_others
from tests.reading import read, read_bytes

GERMAN = "Der L\u00f6we l\u00e4uft \u00fcber die Stra\u00dfe.\n" * 30
CHINESE = ("\u6211\u4eec\u53bb\u516c\u56ed\u770b\u82b1\u3002\n" * 3 + "\u4e00\u8d77\n") * 10
RUSSIAN = "\u041c\u044b \u043f\u043e\u0448\u043b\u0438 \u0432 \u043f\u0430\u0440\u043a.\n" * 30
EMOJI = "good \U0001f600 day \U0001f680\n" * 30
TEXTS = {"German": GERMAN, "Chinese": CHINESE, "Russian": RUSSIAN, "emoji": EMOJI}


def refusal(folder: Path, data: bytes, name: str = "a.txt") -> str:
    """Return the one line with which a file is refused."""
    with pytest.raises(UserError) as caught:
        read_bytes(folder, data, name)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder / name) in message
    return message


@pytest.mark.parametrize("block_bytes", [1, 3, 1 << 20])
@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b"\xef\xbb\xbf"),
        ("utf-16-le", b"\xff\xfe"),
        ("utf-16-be", b"\xfe\xff"),
        ("utf-32-le", b"\xff\xfe\0\0"),
        ("utf-32-be", b"\0\0\xfe\xff"),
    ],
)
def test_a_byte_order_mark_names_the_encoding(
    encoding: str,
    mark: bytes,
    language: str,
    block_bytes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(corpus_file, "BLOCK_BYTES", block_bytes)
    text = TEXTS[language]
    (tmp_path / "a.txt").write_bytes(mark + text.encode(encoding))
    documents, report = read(tmp_path / "a.txt")
    assert documents == [text.splitlines()]
    assert report.bytes == len(mark + text.encode(encoding))
    assert (report.invalid_bytes, report.control_characters) == (0, 0)
    objects = '{"text": "a"}\n'.encode(encoding)
    assert read_bytes(tmp_path, mark + objects, "a") == [["a"]]


def test_half_a_character_of_utf_16_is_counted(tmp_path: Path) -> None:
    data = b"\xff\xfe" + (GERMAN + "\ud800 end").encode("utf-16-le", "surrogatepass") + b"a"
    (tmp_path / "a.txt").write_bytes(data)
    documents, report = read(tmp_path / "a.txt")
    assert documents == [[*GERMAN.splitlines(), "\ufffd end\ufffd"]]
    assert report.invalid_bytes == 3


def test_half_a_character_of_utf_32_is_counted(tmp_path: Path) -> None:
    data = b"\xff\xfe\0\0" + GERMAN.encode("utf-32-le") + b"\0\0\x11\0" + b"a\0\0\0"
    (tmp_path / "a.txt").write_bytes(data)
    documents, report = read(tmp_path / "a.txt")
    assert documents == [[*GERMAN.splitlines(), "\ufffda"]]
    assert report.invalid_bytes == 4


def test_the_newest_bytes_name_the_encoding_wherever_they_begin(tmp_path: Path) -> None:
    """They are the last 65,536, so their first is in the middle of a character here."""
    assert decoding.HEAD_BYTES == 65_536
    for encoding in ("UTF-32BE", "UTF-16BE"):
        data = (100 * GERMAN).encode(encoding) + b"a"
        assert len(data) > 65_537
        assert f"is {encoding} without" in refusal(tmp_path, data)


def test_spaces_without_line_ends_are_enough(tmp_path: Path) -> None:
    assert "is UTF-16LE without" in refusal(tmp_path, 99 * "a line ".encode("utf-16-le"))


def test_the_end_of_a_file_is_judged_with_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (corpus_file, decoding):
        monkeypatch.setattr(module, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(decoding, "HEAD_BYTES", 1000)
    for bad, kind in ((b"\xe9", "in another encoding"), (b"\0", "no text")):
        data = (5 * bad).ljust(1000) + (9 * bad + b"a").rjust(50, b"a")
        assert f"is {kind}: 1.3 % of its bytes" in refusal(tmp_path, data)


def test_a_head_is_read_and_not_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_file, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(decoding, "HEAD_BYTES", 2000)
    (tmp_path / "a.txt").write_bytes(bytes(range(32, 127)) * 1000)
    told: list[int] = []
    texts = decoding.decode(describe_file(str(tmp_path / "a.txt")), CorpusReport(), told.append)
    assert len(next(texts)) == 1000
    assert told == [1000]  # the second block is read, but not yet told


def test_a_mark_before_other_bytes_makes_no_text(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(5000)
    assert "is no text: " in refusal(tmp_path, b"\xff\xfe" + data)
    assert "is no text: " in refusal(tmp_path, b"\xff\xfe\0\0" + data)
    twice = "encoded twice ".encode("utf-16-le").decode("latin-1").encode("utf-16-le")
    assert "is no text: " in refusal(tmp_path, b"\xff\xfe" + twice)


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("encoding", ["UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE"])
def test_utf_16_without_a_mark_is_known_by_its_nuls(
    encoding: str, language: str, tmp_path: Path
) -> None:
    data = TEXTS[language].encode(encoding)
    message = refusal(tmp_path, data)
    assert f"is {encoding} without a byte order mark" in message
    assert message.endswith(
        f"iconv -f {encoding} -t UTF-8 {tmp_path}/a.txt > {tmp_path}/a.txt.utf8.txt"
    )
    assert f"is {encoding} without" in refusal(tmp_path, data, "wiki_00")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "cp1251", "gb18030", "koi8-r"])
def test_a_legacy_encoding_is_refused_with_what_to_do(encoding: str, tmp_path: Path) -> None:
    text = {"cp1251": RUSSIAN, "koi8-r": RUSSIAN, "gb18030": CHINESE}.get(encoding, GERMAN)
    message = refusal(tmp_path, text.encode(encoding))
    assert re.search(r"in another encoding: \d\d\.\d % of its bytes are not valid UTF-8", message)


@pytest.mark.skipif(shutil.which("iconv") is None, reason="no iconv")
@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("it's a.txt", "cp1252"),
        ("a.txt.gz", "cp1252"),
        ("a.txt", "utf-16-le"),
        ("a.txt.gz", "utf-32-be"),
    ],
)
def test_the_advice_works(name: str, encoding: str, tmp_path: Path) -> None:
    data = GERMAN.encode(encoding)
    message = refusal(tmp_path, gzip.compress(data) if name.endswith(".gz") else data, name)
    command = re.search(r"(?:gzip -dc .*|)iconv -f .* > \S.*utf8\.txt'?", message)
    assert command is not None
    subprocess.run(["sh", "-c", command[0]], cwd=tmp_path, check=True, timeout=60)
    assert read(tmp_path / f"{name}.utf8.txt")[0] == [GERMAN.splitlines()]


def test_files_are_converted_to_names_of_their_own(tmp_path: Path) -> None:
    data, names = GERMAN.encode("cp1252"), ["a.txt", "a.md", "a", "a.txt.gz"]
    messages = [
        refusal(tmp_path, gzip.compress(data) if name.endswith(".gz") else data, name)
        for name in names
    ]
    targets = {message.split(" > ")[1].split()[0] for message in messages}
    assert len(targets) == len(names)


@pytest.mark.parametrize(("invalid", "refused"), [(10, False), (11, True)])
def test_one_percent_is_allowed(invalid: int, refused: bool, tmp_path: Path) -> None:
    data = (b"\xe9 " * invalid).ljust(1000, b"a")
    if refused:
        assert "1.1 % of its bytes" in refusal(tmp_path, data)
    else:
        assert read_bytes(tmp_path, data)
    data = (b"\0b" * invalid).ljust(1000, b"a")
    if refused:
        assert "is no text: 1.1 % of its bytes" in refusal(tmp_path, data)
    else:
        assert read_bytes(tmp_path, data)


@pytest.mark.parametrize(("controls", "kind"), [(20, "is in another encoding"), (21, "is no text")])
def test_control_characters_tell_binary_data(controls: int, kind: str, tmp_path: Path) -> None:
    data = b"\xe9 " * 11 + b"\x01" * controls
    assert kind in refusal(tmp_path, data.ljust(1000, b"a"))


def test_a_character_cut_off_at_the_end_is_no_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\u4f60\u597d".encode()[:-1])
    documents, report = read(tmp_path / "a.txt")
    assert documents == [["\u4f60\ufffd\ufffd"]]
    assert report.invalid_bytes == 2


@pytest.mark.parametrize("bad", [b"\xe9 ", b"\0b"])
def test_a_file_that_turns_bad_is_refused_where_it_does(
    bad: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousandth of the file is bad, but more than a hundredth of one block."""
    for module in (corpus_file, decoding):
        monkeypatch.setattr(module, "BLOCK_BYTES", 1000)
    good = b"a line\n\n" * 1000
    message = refusal(tmp_path, good + 15 * bad + good)
    assert "1.5 % of 1,000 bytes before byte 9,000" in message


def test_what_was_read_of_a_bad_file_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\n\n" * 100 + b"\xe9" * 100)
    documents = read_documents([describe_file(str(tmp_path / "a.txt"))], CorpusReport())
    with pytest.raises(UserError, match="another encoding"):
        list(documents)


def archive(kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w") as folder:
            folder.writestr(zipfile.ZipInfo("a.txt"), GERMAN)
    elif kind == "tar":
        with tarfile.open(fileobj=stream, mode="w") as tape:
            tape.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    else:
        np.save(stream, np.arange(1000))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (archive("zip"), "an archive .*extract its text"),
        (archive("tar"), "a tar archive.* tar -xf"),
        (archive("npy"), "saved by numpy.save.* --tokens"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF document.* pdftotext"),
        (b"PAR1\x15\x04" + bytes(99), "a Parquet file.*end in .parquet; --text-key names"),
        (b"ARROW1\0\0" + bytes(99), "an Arrow file.*write it as Parquet"),
        (np.random.default_rng(0).bytes(5000), r"is no text: [45]\d\.\d % of its bytes"),
        (bytes(5000), "is no text: 100.0 % of its bytes"),
        (b"record 1\0" * 99, "is no text"),
        (b"7 bytes\0" * 99, "is no text"),  # all NULs at odd places, as in UTF-16
        (b"no room\0\0\n" * 99, "is no text"),
        (b"ab \0\x05\0" * 99, "is no text"),
        (
            gzip.compress(b"text", mtime=0),
            "is compressed; decompress it with gzip -dc, or .* in .gz",
        ),
        (bz2.compress(b"text"), "is compressed; decompress it with bzip2 -dc, or .* in .bz2"),
        (bz2.compress(b""), "is compressed"),
        (lzma.compress(b"text"), "is compressed; decompress it with xz -dc, or .* in .xz"),
        (b"\x28\xb5\x2f\xfd\x20\x04!", "is compressed; decompress it with zstd -dc, .* in .zst"),
        (b"\x50\x2a\x4d\x18\0\0\0\0", "is compressed; decompress it with zstd -dc"),
    ],
)
@pytest.mark.parametrize("block_bytes", [3, 1 << 20])
def test_what_is_no_text_is_refused(
    data: bytes, message: str, block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_file, "BLOCK_BYTES", block_bytes)
    # In tiny blocks, lines of a .jsonl are read before they are judged.
    for name in ("a.txt", "a.jsonl", "a") if block_bytes > 3 else ("a.txt", "a"):
        assert re.search(message, refusal(tmp_path, data, name))
    assert re.search(message, refusal(tmp_path, bz2.compress(data), "a.txt.bz2"))


@pytest.mark.parametrize(
    "data", [b"BZh is a name", b"PK is another", b"PDF", b"%PDF is a format", b"PAR2", b"\x1f text"]
)
def test_text_that_begins_like_another_format_is_read(data: bytes, tmp_path: Path) -> None:
    assert read_bytes(tmp_path, data) == [[data.strip(b"\x1f ").decode()]]


def test_standard_input_is_checked_like_a_file(tmp_path: Path) -> None:
    for data, advice in (
        (GERMAN.encode("cp1252"), r"iconv -f WINDOWS-1252 -t UTF-8 \| \.\.\."),
        (GERMAN.encode("utf-16-le"), r"\.\.\. \| iconv -f UTF-16LE -t UTF-8 \| \.\.\."),
        (
            gzip.compress(b"text", mtime=0),
            "^the content of standard input .* pipe it through gzip -dc$",
        ),
        (archive("zip"), "^standard input is an archive.*; save it as a file; extract"),
        (b"PAR1" + bytes(99), "a Parquet file, not text; save it as a file; let its name end in"),
    ):
        (tmp_path / "stdin").write_bytes(data)
        with open(tmp_path / "stdin", "rb") as stream:
            file = describe_file(stream.fileno(), name="standard input")
            others = open_to_others([Shard((file,))]) or []  # none where the system has no name
            for each in (file, *(each for shard in others for each in shard.files)):
                with pytest.raises(UserError, match=advice):
                    list(read_documents([each], CorpusReport()))


@pytest.mark.parametrize(
    "data",
    [
        b'{"text": "a"}\n{"text": "b"}\n',
        b'\n\n  {"id": 3, "text": "a"}',
        b'\xef\xbb\xbf{"text": "a"}',
        b'{"a \\" key": ' + b"1" * 100_000,
        b'[{"text": "a"}]',
        '\ufeff{"text": "a"}'.encode("utf-16-le"),
    ],
)
@pytest.mark.parametrize("block_bytes", [3, 1 << 20])
def test_json_where_text_is_announced_is_refused(
    data: bytes, block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_file, "BLOCK_BYTES", block_bytes)
    for name in ("a.txt", "a.md"):
        assert "let its name end in .jsonl; --text-key" in refusal(tmp_path, data, name)


@pytest.mark.parametrize("data", [b"{}", b"{a}", b'{"a"}', b"[1, 2]", b'a {"text": "a"}', b'{"'])
def test_text_with_braces_is_text(data: bytes, tmp_path: Path) -> None:
    assert read_bytes(tmp_path, data) == [[data.decode()]]


def test_control_characters_are_counted(tmp_path: Path) -> None:
    data = b"a\tb\r\nc\vd\fe\n" + b"\x01 \x08 \x1b[0m \x1c \x1f \x7f \0 " + b"text " * 100
    (tmp_path / "a.txt").write_bytes(data)
    assert read(tmp_path / "a.txt")[1].control_characters == 7
    (tmp_path / "b.txt").write_bytes(data.decode().encode("utf-16"))
    assert read(tmp_path / "b.txt")[1].control_characters == 7
    assert read(tmp_path)[1].control_characters == 14
