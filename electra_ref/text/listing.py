"""Which files a corpus consists of, and what their names say about them.

    .txt .text   text
    .jsonl       one JSON object a line
    .parquet     a table; pyarrow reads it
    .md          text, if the file is named; a folder often has a README.md that is no data
    .json        as .jsonl, if the file is named; a folder often has settings in .json
    no ending    if the file is named: JSON objects if it begins with one, otherwise text

Each of these but .parquet may be followed by the ending of a compression, such as .gz.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from electra_ref.errors import UserError
from electra_ref.text.compression import COMPRESSIONS, Compression
from electra_ref.text.corpus_file import CorpusFile, Format
from electra_ref.text.decoding import holds_json

DEFAULT_TEXT_KEY = "text"
FORMAT_OF_ENDING: dict[str, Format] = {
    ".txt": "text",
    ".text": "text",
    ".jsonl": "objects",
    ".md": "text",
    ".json": "objects",
    ".parquet": "rows",
}
ENDINGS_IN_FOLDERS = (".txt", ".text", ".jsonl", ".parquet")
FILES_OF_A_RUN = {"environment.json", "config.toml"}
NAMES_SHOWN = 3
NAMED_THEMSELVES = "name .md, .json and files without an ending themselves; pipe in others with -"


@dataclass
class Listing:
    """The files to read, in order, and what was left out of the folders."""

    files: list[CorpusFile] = field(default_factory=list)
    skipped: int = 0  # files whose names have none of ENDINGS_IN_FOLDERS
    skipped_names: list[str] = field(default_factory=list)  # the first NAMES_SHOWN, quoted
    runs: list[str] = field(default_factory=list)  # folders that hold runs, which are not read

    def add(self, other: Listing) -> None:
        """Append what ``other`` lists."""
        self.files += other.files
        self.skipped += other.skipped
        self.skipped_names = [*self.skipped_names, *other.skipped_names][:NAMES_SHOWN]
        self.runs += other.runs


def list_files(paths: Sequence[str], text_key: str = DEFAULT_TEXT_KEY) -> Listing:
    """Return the files among ``paths`` and in the folders among them, in the order of reading.

    A folder is searched with its subfolders, in sorted order, for names that end in one of
    ENDINGS_IN_FOLDERS, compressed or not. Names that start with a dot are passed over, and so are
    folders that hold runs: their files are no text. A folder that is reached twice (a loop of
    symbolic links) is read once.

    Raises UserError for a path that is missing, unreadable or not a regular file, for a named file
    with an unknown ending, and for a folder without files to read.
    """
    listing = Listing()
    entered: set[str] = set()
    for path in paths:
        if os.path.isdir(path):
            if os.path.realpath(path) in entered:
                continue
            found = _list_folder(path, entered, text_key)
            if not found.files:
                raise UserError(_nothing_in(path, found))
            listing.add(found)
        else:
            listing.files.append(describe_file(path, text_key=text_key))
    return listing


def _list_folder(folder: str, entered: set[str], text_key: str) -> Listing:
    listing = Listing()
    for path in _search(folder, entered, listing.runs):
        if split_name(path.lower())[0] in ENDINGS_IN_FOLDERS:
            listing.files.append(describe_file(path, text_key=text_key))
        else:
            listing.skipped += 1
            if listing.skipped <= NAMES_SHOWN:
                listing.skipped_names.append(repr(os.path.relpath(path, folder)))
    return listing


def _nothing_in(folder: str, listing: Listing) -> str:
    message = f"no file in {folder} ends in {_any_of(ENDINGS_IN_FOLDERS)}"
    if listing.runs:
        message += f"; {listing.runs[0]} holds a run, which is no text"
    if not listing.skipped:
        return message
    names = ", ".join(listing.skipped_names)
    return f"{message}; it holds {names}; {NAMED_THEMSELVES}"


def _search(folder: str, entered: set[str], runs: list[str]) -> Iterator[str]:
    """Yield the paths of all files in a folder; append the folders of runs to ``runs``."""
    real = os.path.realpath(folder)
    if real in entered:
        return
    entered.add(real)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
    if set(names) >= FILES_OF_A_RUN:
        runs.append(folder)
        return
    for name in names:
        path = os.path.join(folder, name)
        if name.startswith("."):
            continue
        if os.path.isdir(path):
            yield from _search(path, entered, runs)
        else:
            yield path


def describe_file(
    path: str | int, *, name: str | None = None, text_key: str = DEFAULT_TEXT_KEY
) -> CorpusFile:
    """Describe the file at ``path``; messages call it ``name``, or ``path`` without a name.

    ``path`` may be an open descriptor (standard input, copied to disk): a file without an ending.
    Raises UserError if it is missing, is not a regular file, or has an unknown ending.
    """
    name = str(path) if name is None else name
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read the corpus {name!r}: {reason}") from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{name} is neither a regular file nor a folder; pipe it in with -")
    ending, compression = split_name(path.lower()) if isinstance(path, str) else ("", None)
    if ending and ending not in FORMAT_OF_ENDING:
        raise UserError(
            f"cannot tell what {name} holds: its name should end in {_any_of(FORMAT_OF_ENDING)}; "
            "or pipe it in with -"
        )
    if ending == ".parquet" and compression is not None:
        raise UserError(
            f"{name} is compressed a second time: Parquet is so already; decompress it with "
            f"{compression.command}"
        )
    file = CorpusFile(
        path=path,
        name=name,
        format=FORMAT_OF_ENDING.get(ending, "text"),
        text_key=text_key,
        compression=compression,
        size=status.st_size,
        modified=status.st_mtime_ns,
        is_standard_input=isinstance(path, int),
    )
    return file._replace(format="objects") if not ending and holds_json(file) else file


def split_name(path: str) -> tuple[str, Compression | None]:
    """Return the ending of a lower-case path without that of its compression, and the latter."""
    stem, ending = os.path.splitext(path)
    for compression in COMPRESSIONS:
        if ending == compression.ending:
            return os.path.splitext(stem)[1], compression
    return ending, None


def _any_of(endings: Sequence[str] | dict[str, Format]) -> str:
    compressed = ", ".join(compression.ending for compression in COMPRESSIONS)
    *others, last = endings
    return f"{', '.join(others)} or {last} (also compressed: {compressed})"
