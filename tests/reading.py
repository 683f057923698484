"""Read files as a corpus, as several tests do."""

from __future__ import annotations

from pathlib import Path

from electra_ref.text.corpus import read_documents
from electra_ref.text.corpus_file import CorpusReport
from electra_ref.text.listing import list_files


def read(*paths: Path, text_key: str = "text") -> tuple[list[list[str]], CorpusReport]:
    """Return the documents of files and folders, and what was counted."""
    report = CorpusReport()
    files = list_files([str(path) for path in paths], text_key).files
    return list(read_documents(files, report)), report


def read_bytes(folder: Path, data: bytes, name: str = "a.txt") -> list[list[str]]:
    """Return the documents of a file ``name`` that holds ``data``."""
    (folder / name).write_bytes(data)
    return read(folder / name)[0]
