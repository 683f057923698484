"""A sample of a large corpus: about as large as asked for, whole lines, each once, by a draw."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.errors import UserError
from electra_ref.text import corpus_sample, cutting
from electra_ref.text.corpus_sample import draw_sample, read_sample
from electra_ref.text.listing import list_files


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_sample, "BLOCK_BYTES", 100)
    monkeypatch.setattr(cutting, "WINDOW", 80)
    monkeypatch.setattr(corpus_sample, "PREFIX_BYTES", 1000)


def sampled(paths: Sequence[Path], most: int) -> tuple[list[str], int, int]:
    """Return the sentences of a sample, the bytes read, and the bytes announced."""
    sample = draw_sample(list_files([str(path) for path in paths]).files, most)
    counted: list[int] = []
    return list(read_sample(sample, counted.append)), sum(counted), sample.bytes


def write_lines(folder: Path, kind: str, lines: Sequence[str]) -> Path:
    """Write the lines as a file of one kind."""
    objects = (json.dumps({"text": line}) for line in lines)
    data = "".join(line + "\n" for line in (objects if "jsonl" in kind else lines)).encode()
    (folder / f"a.{kind}").write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    return folder / f"a.{kind}"


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_a_sample_has_whole_lines_once_and_both_of_two_languages(kind: str, tmp_path: Path) -> None:
    lines = [f"{'gerade' if i % 2 else 'odd'} {i}" + " more" * (i % 7) for i in range(2000)]
    path = write_lines(tmp_path, kind, lines)
    size = path.stat().st_size
    for share in (0.1, 0.5, 0.9):
        texts, read, announced = sampled([path], int(size * share))
        assert share - 0.08 < len(texts) / len(lines) < share + 0.08
        assert max(Counter(texts).values()) == 1
        assert set(texts) <= set(lines)
        assert texts == sorted(texts, key=lines.index)
        languages = Counter(text.split()[0] for text in texts)
        assert 0.7 < languages["odd"] / languages["gerade"] < 1.4
        assert read == announced
        assert abs(announced / size - share) < 0.08
        assert sampled([path], int(size * share))[0] == texts


@pytest.mark.parametrize("kind", ["txt.gz", "jsonl.gz"])
def test_of_a_compressed_file_the_beginning_is_read(kind: str, tmp_path: Path) -> None:
    """Its last line, which may not be complete, is left out."""
    letters = np.random.default_rng(0).integers(0, 2**63, 150_000).tolist()
    path = write_lines(tmp_path, kind, lines := list(map(str, letters)))
    size = path.stat().st_size
    texts, read, announced = sampled([path], size // 2)
    assert texts == lines[: len(texts)]
    assert 0.45 < len(texts) / len(lines) < 0.95
    assert read == announced == size // 2
    assert draw_sample(list_files([str(path)]).files, size // 2).has_prefixes


def test_of_many_small_compressed_files_some_are_read(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i:03}.txt.gz" for i in range(400)]
    for i, path in enumerate(paths):
        path.write_bytes(gzip.compress(f"file {i:03}\n".encode(), mtime=0))
    files = list_files([str(path) for path in paths]).files
    on_disk = sum(file.size for file in files)
    sample = draw_sample(files, on_disk // 10)
    assert 20 < len(sample.files) < 60
    assert not sample.has_prefixes
    assert sample.bytes == sum(file.size for file in sample.files)
    assert len(list(read_sample(sample, lambda _: None))) == len(sample.files)


def test_a_corpus_below_the_limit_is_read_completely(tmp_path: Path) -> None:
    path = write_lines(tmp_path, "txt", [f"line {i}" for i in range(100)])
    files = list_files([str(path)]).files
    assert draw_sample(files, path.stat().st_size) == (files, path.stat().st_size, False)
    assert draw_sample(files, path.stat().st_size - 1).files != files


def test_only_the_sample_is_read(tmp_path: Path) -> None:
    """Files whose blocks were not drawn may even be gone."""
    paths = [tmp_path / f"{i:03}.txt" for i in range(400)]
    for i, path in enumerate(paths):
        path.write_text(f"file {i:03}\n")
    files = list_files([str(path) for path in paths]).files
    sample = draw_sample(files, 400)
    chosen = {file.path for file in sample.files}
    assert 20 < len(chosen) < 60
    for path in paths:
        if str(path) not in chosen:
            path.unlink()
    assert len(list(read_sample(sample, lambda _: None))) == len(chosen)


LINES = st.lists(
    st.tuples(st.text("ab\u00e9\U0001f600", max_size=15), st.sampled_from(["\n", "\r\n", "\r"]))
)


@given(lines=LINES, blocks=st.integers(81, 200), spaces=st.booleans())
def test_neighbouring_blocks_meet_without_a_gap(
    lines: list[tuple[str, str]],
    blocks: int,
    spaces: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """All blocks together are the file; a border is a line end, or in a long line a space."""
    text = "".join(line + end for line, end in lines)
    if spaces:
        text = text.replace("\n", " ").replace("\r", " ")
    path = tmp_path_factory.mktemp("sample") / "a.txt"
    path.write_bytes(text.encode())
    (file,) = list_files([str(path)]).files
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_sample, "BLOCK_BYTES", blocks)
        numbers = range(-(-file.size // blocks))
        parts = [part.part or (0, 0) for part in corpus_sample._parts(file, numbers)]
    ends = [0, *(end for _, end in parts)]
    assert [start for start, _ in parts] == ends[:-1]
    assert ends[-1] == file.size
    for end in ends[1:-1]:
        assert path.read_bytes()[end - 1 : end] in ([b" "] if spaces else [b"\n", b"\r"])


def test_a_text_in_one_line_is_cut_at_spaces(tmp_path: Path) -> None:
    words = [f"word{i:04}" for i in range(3000)]
    (tmp_path / "a.txt").write_text(" ".join(words))
    texts, _, _ = sampled([tmp_path / "a.txt"], 13_500)
    found = " ".join(texts).split()
    assert 1200 < len(found) < 1800
    assert set(found) <= set(words)
    assert len(set(found)) == len(found)


def test_characters_without_spaces_are_not_cut(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\u4f60\U0001f600\u00e9xx" * 2000)
    texts, _, _ = sampled([tmp_path / "a.txt"], 10_000)
    assert set("".join(texts)) == set("\u4f60\U0001f600\u00e9x"), "no half characters"


def test_an_error_in_a_part_says_where_the_part_begins(tmp_path: Path) -> None:
    good = json.dumps({"text": "a"}) + "\n"
    (tmp_path / "a.jsonl").write_text(good * 200 + "bad\n" * 200)
    with pytest.raises(UserError, match=r"a\.jsonl, line (2\d\d|3\d\d): expected one JSON"):
        sampled([tmp_path / "a.jsonl"], 2000)
    (tmp_path / "b.jsonl").write_text("bad\n" * 200)
    with pytest.raises(UserError, match=r"b\.jsonl, line 1: expected one JSON"):
        sampled([tmp_path / "b.jsonl"], 795)


def test_a_long_object_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the four bytes that a character may have."""
    monkeypatch.setattr(cutting, "LONGEST_OBJECT", 100)
    lines = [f"{i} " + "\U0001f600" * 70 for i in range(200)]
    objects = (json.dumps({"text": line}, ensure_ascii=False) + "\n" for line in lines)
    (tmp_path / "a.jsonl").write_text("".join(objects), encoding="utf-8")
    texts, _, _ = sampled([tmp_path / "a.jsonl"], 30_000)
    assert 50 < len(texts) < 150
    assert max(Counter(texts).values()) == 1
    assert set(texts) <= set(lines)


def test_an_object_that_is_too_long_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_text("{" * 2000)
    monkeypatch.setattr(cutting, "LONGEST_OBJECT", 40)
    with pytest.raises(UserError, match=r"a\.jsonl, after byte \d+: a line is longer than 40"):
        sampled([tmp_path / "a.jsonl"], 1000)


def test_a_file_in_utf_16_is_read_from_its_start(tmp_path: Path) -> None:
    lines = [f"line {i}" for i in range(2000)]
    (tmp_path / "a.txt").write_bytes("\n".join(lines).encode("utf-16"))
    texts, read, announced = sampled([tmp_path / "a.txt"], 10_000)
    assert texts == lines[: len(texts)]
    assert 0.27 < len(texts) / len(lines) < 0.29
    assert read == announced == 10_000
