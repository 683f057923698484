"""Which files are read, what their names say, and which are left out."""

from __future__ import annotations

import bz2
import os
import tempfile
from pathlib import Path

import pytest

from electra_ref.errors import UserError
from electra_ref.text.corpus import read_documents
from electra_ref.text.corpus_file import CorpusReport
from electra_ref.text.listing import describe_file, list_files
from tests.reading import read, read_bytes


def test_folders_are_searched_in_sorted_order(tmp_path: Path) -> None:
    names = ["b.txt", "a/z.text", "a/y.jsonl", "a/x.TXT.xz", ".hidden/x.txt", ".h.txt"]
    for name in [*names, "c.md", "a/d.bin", "a/wiki_00", "a/e.json", "a/f.gz"]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"text": "j"}' if name.endswith(".jsonl") else name)
    (tmp_path / "a/loop").symlink_to(tmp_path, target_is_directory=True)
    listing = list_files([str(tmp_path)])
    found = [os.path.relpath(str(file.path), tmp_path) for file in listing.files]
    assert found == ["a/x.TXT.xz", "a/y.jsonl", "a/z.text", "b.txt"]
    assert [file.format for file in listing.files] == ["text", "objects", "text", "text"]
    assert listing.skipped == 5
    assert listing.skipped_names == ["'a/d.bin'", "'a/e.json'", "'a/f.gz'"]


def test_runs_in_a_folder_are_no_text(tmp_path: Path) -> None:
    for name in ("a.txt", "runs/b/vocab.txt", "runs/b/environment.json", "runs/b/config.toml",
                 "runs/b/metrics.jsonl", "c/environment.json", "c/d.txt"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("text")
    listing = list_files([str(tmp_path)])
    assert [os.path.basename(str(file.path)) for file in listing.files] == ["a.txt", "d.txt"]
    assert listing.runs == [str(tmp_path / "runs/b")]
    assert listing.skipped == 1
    both = list_files([str(tmp_path / "c"), str(tmp_path)])
    assert both.runs == listing.runs
    with pytest.raises(UserError, match=r"no file in .*runs ends.*runs/b holds a run, which is"):
        list_files([str(tmp_path / "runs")])


def test_skipped_files_of_several_folders_add_up(tmp_path: Path) -> None:
    for name in ("a/1.txt", "a/2", "a/3", "b/4.txt", "b/5", "b/6"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    listing = list_files([str(tmp_path / "a"), str(tmp_path / "a/2"), str(tmp_path / "b")])
    assert [os.path.basename(str(file.path)) for file in listing.files] == ["1.txt", "2", "4.txt"]
    assert listing.skipped == 4
    assert listing.skipped_names == ["'2'", "'3'", "'5'"]


def test_the_key_of_the_text_holds_for_all_files(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"body": "a"}')
    assert read(tmp_path, tmp_path / "a.jsonl", text_key="body")[0] == [["a"], ["a"], ["a"]]


def test_a_skipped_name_is_quoted(tmp_path: Path) -> None:
    """A terminal and a file of JSON must stand any name."""
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "evil\x1b[2J").write_text("")
    with open(os.fsencode(tmp_path) + b"/latin\xe9", "wb"):
        pass
    names = list_files([str(tmp_path)]).skipped_names
    assert names == ["'evil\\x1b[2J'", "'latin\\udce9'"]


def test_a_folder_of_other_files_says_how_to_read_them(tmp_path: Path) -> None:
    (tmp_path / "wiki_00").write_text("text")
    with pytest.raises(UserError, match=r"\.gz, \.bz2.*holds 'wiki_00'; name .*"):
        list_files([str(tmp_path)])


def test_a_folder_of_many_other_files_names_the_first(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"wiki_{i}").write_text("text")
    with pytest.raises(UserError, match=r"holds 'wiki_0', 'wiki_1', 'wiki_2'; name \.md"):
        list_files([str(tmp_path)])


@pytest.mark.parametrize("name", ["a.txt", "a.text", "a.md", "wiki_00", "a.TXT", "v1.0/wiki"])
def test_text_is_named_directly(name: str, tmp_path: Path) -> None:
    (tmp_path / "v1.0").mkdir()
    assert read_bytes(tmp_path, b"# a\n\nb", name) == [["# a"], ["b"]]
    assert read_bytes(tmp_path, bz2.compress(b"# a\n\nb"), name + ".bz2") == [["# a"], ["b"]]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "wiki_00", "A.JSONL"])
def test_json_lines_are_named_directly(name: str, tmp_path: Path) -> None:
    data = b'\n {"id": 1, "text": "a\\n\\nb"}\n{"text": "c"}'
    assert read_bytes(tmp_path, data, name) == [["a", "b"], ["c"]]
    assert read_bytes(tmp_path, bz2.compress(data), name + ".bz2") == [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    "data", [b'[{"text": "a"}]', b'[\n{"text": "a"}\n]', b'{\n"text": "a"}', b'[{"text": \n"a"}]']
)
@pytest.mark.parametrize("name", ["a.json", "wiki_00"])
def test_other_json_is_told_how_to_become_lines(name: str, data: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 1: .*jq -c"):
        read_bytes(tmp_path, data, name)


def test_a_descriptor_is_a_file_without_an_ending() -> None:
    """It is read from its beginning, however often."""
    with tempfile.TemporaryFile() as stream:
        stream.write(b'{"text": "a"}')
        stream.flush()
        file = describe_file(stream.fileno(), name="standard input")
        assert (file.format, file.name, file.compression) == ("objects", "standard input", None)
        for _ in range(2):
            assert list(read_documents([file], CorpusReport())) == [["a"]]
        stream.write(b"\n")  # it is still open


def test_a_report_counts_files_of_each_format(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.jsonl").write_text("")
    (tmp_path / "c.jsonl").write_text('{"text": "a"}')
    report = read(tmp_path)[1]
    assert (report.files, report.object_files, report.documents) == (3, 2, 2)


def refused_paths(folder: Path) -> dict[str, Path]:
    (folder / "empty").mkdir()
    (folder / "a.csv").write_text("text")
    (folder / "a.csv.gz").write_text("text")
    (folder / "loop.txt").symlink_to("loop.txt")
    os.mkfifo(folder / "pipe.txt")
    return {
        "missing": folder / "missing.txt",
        "ending": folder / "a.csv",
        "compressed ending": folder / "a.csv.gz",
        "no file in it": folder / "empty",
        "loop": folder / "loop.txt",
        "pipe": folder / "pipe.txt",
        "device": Path("/dev/zero"),
        "too long": folder / ("x" * 300 + ".txt"),
        "not a name": folder / "nul\0.txt",
    }


@pytest.mark.parametrize(
    "kind",
    [
        *("missing", "ending", "compressed ending", "no file in it", "loop", "pipe", "device"),
        *("too long", "not a name"),
    ],
)
def test_paths_that_cannot_be_read_are_one_line(kind: str, tmp_path: Path) -> None:
    path = refused_paths(tmp_path)[kind]
    with pytest.raises(UserError) as caught:
        list_files([str(path)])
    assert "\n" not in str(caught.value)
    assert str(path).strip("'") in str(caught.value) or kind == "not a name"


def test_a_folder_inside_or_named_again_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "d" / "sub").mkdir(parents=True)
    for name in ("d/a.txt", "d/sub/b.txt"):
        (tmp_path / name).write_text("text\n", encoding="utf-8")
    folder, inside = str(tmp_path / "d"), str(tmp_path / "d" / "sub")
    for paths in ([folder, inside], [folder, folder]):
        names = [os.path.basename(file.name) for file in list_files(paths).files]
        assert names == ["a.txt", "b.txt"]
