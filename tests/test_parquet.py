"""Parquet files: a row is a document; errors name the file and the row or the column."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref.errors import UserError
from electra_ref.text import corpus_sample, decoding
from electra_ref.text.corpus import hash_files, read_documents
from electra_ref.text.corpus_file import CorpusFile, CorpusReport
from electra_ref.text.corpus_sample import draw_sample, read_sample
from electra_ref.text.listing import list_files
from electra_ref.text.parquet import group_sizes, read_rows
from electra_ref.text.prepare import prepare
from tests.small_runs import small_config

pytestmark = pytest.mark.arrow

TEXTS = [f"row {i}\n\nand more of it" for i in range(25)]


def written(path: Path, rows: int = 10, kind: Any = None, **columns: list[Any]) -> CorpusFile:
    """Write columns, ``rows`` in a row group; return the file."""
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow (extra: arrow)")
    parquet = pytest.importorskip("pyarrow.parquet")
    arrays = {name: arrow.array(values, kind) for name, values in columns.items()}
    parquet.write_table(arrow.table(arrays), path, row_group_size=rows)
    return list_files([str(path)]).files[0]


def test_a_row_is_a_document_and_its_lines_are_sentences(tmp_path: Path) -> None:
    file = written(tmp_path / "a.parquet", number=list(range(25)), text=TEXTS)
    report = CorpusReport()
    told: list[int] = []
    documents = list(read_documents([file], report, told.append))
    assert documents == [[f"row {i}", "and more of it"] for i in range(25)]
    assert sum(told) == file.size
    assert len(told) == 3
    size = sum(map(len, TEXTS))
    assert report == CorpusReport(files=1, row_files=1, bytes=size, documents=25, sentences=50)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    texts = ["a\x01b", "\ufeffc\u00e9", "", "d\x7f"]
    report = CorpusReport()
    file = written(tmp_path / "a.parquet", text=texts)
    assert list(read_documents([file], report)) == [["a\x01b"], ["c\u00e9"], ["d\x7f"]]
    assert (report.control_characters, report.documents, report.bytes) == (2, 3, 3 + 6 + 2)


def test_columns_are_found_by_their_whole_name(tmp_path: Path) -> None:
    """Also beside a column whose part has that name."""
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow (extra: arrow)")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"s": [{"text": "no"}], "s.text": ["yes"]}), path)
    assert list(read_rows(list_files([str(path)], "s.text").files[0])) == ["yes"]
    both = arrow.table([arrow.array(["a"]), arrow.array(["b"])], names=["text", "text"])
    parquet.write_table(both, path)
    with pytest.raises(UserError, match=r"a\.parquet has 2 columns 'text': rename all but one"):
        list(read_rows(list_files([str(path)]).files[0]))


def test_row_groups_are_read_alone(tmp_path: Path) -> None:
    file = written(tmp_path / "a.parquet", text=TEXTS)
    sizes = group_sizes(file)
    assert (len(sizes), sum(sizes)) == (3, file.size)
    told: list[int] = []
    assert list(read_rows(file._replace(part=(1, 3)), told.append)) == TEXTS[10:]
    assert told == sizes[1:]
    assert not decoding.is_plain(file)
    parts = [file._replace(part=(n, n + 1)) for n in range(3)]
    assert len({hash_files([part]) for part in (file, *parts)}) == 4


@pytest.mark.parametrize("kind", ["large_string", "string_view", "dictionary"])
def test_any_kind_of_string_is_read(kind: str, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    kinds = {"dictionary": arrow.dictionary(arrow.int32(), arrow.string())}
    column = kinds.get(kind) or getattr(arrow, kind)()
    file = written(tmp_path / "a.parquet", kind=column, text=TEXTS)
    assert list(read_rows(file)) == TEXTS


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a", "b", None]}, r"a\.parquet, row 3: expected a string 'text', not null"),
        (
            {"body": ["a"], "n": [1]},
            "no column 'text'; its columns are 'body', 'n'; choose that of",
        ),
        ({"text": [1]}, "the column 'text' holds int64, not strings"),
        ({"text": [b"a"]}, "the column 'text' holds binary, not strings"),
        ({"text": [["a"]]}, "the column 'text' holds list<.*>, not strings"),
    ],
)
def test_what_is_no_text_is_named(
    columns: dict[str, list[Any]], message: str, tmp_path: Path
) -> None:
    file = written(tmp_path / "a.parquet", rows=2, **columns)
    with pytest.raises(UserError, match=message):
        list(read_rows(file))


@pytest.mark.parametrize("damage", ["cut", "altered", "no Parquet", "gone", "changed"])
def test_a_damaged_file_is_a_user_error(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    file = written(path, text=TEXTS)
    data = path.read_bytes()
    changes = {
        "cut": data[:-30],
        "altered": data[:4] + b"\xff" * 100 + data[104:],
        "no Parquet": b"some text\n" * 20,
        "changed": data,
    }
    path.unlink()
    if damage in changes:
        path.write_bytes(changes[damage])
    with pytest.raises(UserError) as caught:
        list(read_rows(file))
    assert "a.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_pyarrow_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    (file,) = list_files([str(tmp_path)]).files
    really_import = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return really_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"reading \.parquet needs a package: pip install 'pyarrow"):
        list(read_documents([file], CorpusReport()))


def test_compressing_it_again_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"compressed a second time.*gzip -dc"):
        list_files([str(tmp_path)])


def test_a_sample_has_some_of_the_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"text {i}" for i in range(600)]
    files = [written(tmp_path / f"{n}.parquet", rows=2, text=texts[n::2]) for n in range(2)]
    monkeypatch.setattr(corpus_sample, "BLOCK_BYTES", 100)
    sample = draw_sample(files, sum(file.size for file in files) // 5)
    told: list[int] = []
    found = list(read_sample(sample, told.append))
    assert 0.1 < len(found) / 600 < 0.3
    assert set(found) < set(texts)
    assert len({text for text in found if int(text.split()[1]) % 2}) not in (0, len(found))
    assert sum(told) == sample.bytes
    assert not sample.has_prefixes


def test_its_column_is_chosen_and_its_corpus_prepared(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(["one", "two", "three"], 9)) for _ in range(80)]
    written(tmp_path / "a.parquet", body=texts, text=["not this"] * 80)
    (tmp_path / "cache").mkdir()
    data = prepare(
        *(small_config(), tmp_path / "cache"), corpus=[str(tmp_path / "a.parquet")], text_key="body"
    )
    words = " ".join(data.tokenizer.vocab[i] for i in data.training.cache.tokens[:].tolist())
    assert words.replace(" ##", "") == " ".join(texts)
    assert data.report["row_files"] == 1
