"""The rows of a Parquet file: one column of strings, a row group after the other.

Memory is that of one row group's column, not of the file. A row without a text is an error, as an
object of JSON lines without one is.

Source: Apache Parquet's format specification; pyarrow.parquet reads it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from electra_ref.errors import UserError
from electra_ref.text.corpus_file import BytesRead, CorpusFile, check_unchanged, opened

KEYS_SHOWN = 10
ROWS_AT_A_TIME = 1024


def read_rows(file: CorpusFile, on_bytes: BytesRead | None = None) -> Iterator[str]:
    """Yield the texts of a Parquet file, or of its row groups ``file.part``.

    Raises UserError if pyarrow is missing, and for a file that cannot be read, is damaged, changed
    since it was listed, has no column of strings ``file.text_key``, or a row without a text.
    """
    with _parquet(file) as table:
        _check_column(file, table)
        sizes = _sizes(file, table)
        first, end = file.part or (0, len(sizes))
        row = sum(table.metadata.row_group(group).num_rows for group in range(first))
        for group in range(first, end):
            batches = table.iter_batches(
                ROWS_AT_A_TIME, row_groups=[group], columns=[file.text_key], use_threads=False
            )
            for batch in batches:
                for text in batch.column(file.text_key).to_pylist():
                    row += 1
                    if text is None:
                        raise UserError(
                            f"{file.name}, row {row}: expected a string {file.text_key!r}, not null"
                        )
                    yield text
            if on_bytes is not None:
                on_bytes(sizes[group])


def group_sizes(file: CorpusFile) -> list[int]:
    """Return the bytes of each row group; they add up to the size of the file.

    Raises UserError if the file cannot be read as Parquet.
    """
    with _parquet(file) as table:
        return _sizes(file, table)


def _sizes(file: CorpusFile, table: Any) -> list[int]:
    groups = range(table.metadata.num_row_groups)
    weights = [table.metadata.row_group(group).total_byte_size for group in groups]
    ends = [file.size * sum(weights[:g]) // max(1, sum(weights)) for g in range(len(weights) + 1)]
    return [end - start for start, end in pairwise(ends)]


@contextmanager
def _parquet(file: CorpusFile) -> Iterator[Any]:
    """Open a file for the block; turn what pyarrow raises in it into UserError."""
    arrow, parquet = _pyarrow()
    try:
        with opened(file) as stream, parquet.ParquetFile(stream) as table:
            yield table
            check_unchanged(file, os.fstat(stream.fileno()))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file.name}: the column {file.text_key!r} holds bytes that are no UTF-8; write it "
            "anew as strings"
        ) from error
    except (arrow.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"cannot read {file.name}: {error.strerror or reason}") from error
        raise UserError(f"{file.name} is a damaged Parquet file, or none: {reason}") from error


def _check_column(file: CorpusFile, table: Any) -> None:
    arrow, _ = _pyarrow()
    schema, key = table.schema_arrow, file.text_key
    if key not in schema.names:
        names = ", ".join(repr(name)[:40] for name in schema.names[:KEYS_SHOWN]) or "none"
        raise UserError(
            f"{file.name} has no column {key!r}; its columns are {names}; choose that of the text "
            "with --text-key"
        )
    if (count := schema.names.count(key)) > 1:
        raise UserError(f"{file.name} has {count} columns {key!r}: rename all but one of them")
    kind = schema.field(key).type
    if arrow.types.is_dictionary(kind):
        kind = kind.value_type
    is_text = (arrow.types.is_string, arrow.types.is_large_string, arrow.types.is_string_view)
    if not any(test(kind) for test in is_text):
        raise UserError(f"{file.name}: the column {key!r} holds {kind}, not strings")


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow  # noqa: PLC0415  (optional, and slow to load)
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise UserError(
            "reading .parquet needs a package: pip install 'pyarrow>=20', or write the text as "
            "JSON lines"
        ) from error
    return pyarrow, parquet
