"""The files of a corpus as the user named it: paths, standard input, or the embedded corpus."""

from __future__ import annotations

import os
import select
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from electra_ref.errors import UserError
from electra_ref.files import disk_errors
from electra_ref.text import embedded_corpus
from electra_ref.text.cache_folder import cache_key, open_or_build
from electra_ref.text.corpus_file import BLOCK_BYTES, CorpusFile
from electra_ref.text.listing import Listing, describe_file, list_files

STANDARD_INPUT = "-"

Progress = Callable[[str, int, int], None]
"""``progress(stage, done, total)`` in bytes, token ids or pieces; both 0 if nothing can be counted.

It is called often, and may raise to stop: then nothing half-built stays behind.
"""


def counter(progress: Progress, stage: str, total: int) -> Callable[[int], None]:
    """Return a function that adds to what is done and passes the sum on."""
    done = 0

    def advance(amount: int) -> None:
        nonlocal done
        done += amount
        progress(stage, done, total)

    return advance


@contextmanager
def named_files(
    corpus: Sequence[str], text_key: str, cache_dir: Path, progress: Progress
) -> Iterator[Listing]:
    """Yield the files to read, in the order they were named; standard input is kept on disk."""
    if not corpus:
        yield Listing([_embedded_file(cache_dir, progress)])
    elif STANDARD_INPUT not in corpus:
        yield list_files(corpus, text_key)
    elif corpus.count(STANDARD_INPUT) > 1:
        raise UserError("standard input (-) can be read only once; name it once")
    else:
        before = corpus.index(STANDARD_INPUT)
        listing = list_files(corpus[:before], text_key)
        with _spooled_input(text_key, cache_dir, progress) as typed:
            listing.files.append(typed)
            listing.add(list_files(corpus[before + 1 :], text_key))
            yield listing


@contextmanager
def _spooled_input(text_key: str, cache_dir: Path, progress: Progress) -> Iterator[CorpusFile]:
    """Standard input as a file that can be read twice.

    The file has no name, so nothing stays behind however the process ends. It is read by its
    descriptor: opening /dev/fd/N begins at the start on Linux, but not on macOS.
    """
    if sys.stdin is None:
        raise UserError("standard input (-) is closed; pipe text into it or name a file")
    with ExitStack() as stack:
        with disk_errors(f"keep standard input in {cache_dir}"):
            spool = stack.enter_context(tempfile.TemporaryFile(dir=cache_dir))
            advance = counter(progress, "reading standard input", 0)
            descriptor, block = sys.stdin.fileno(), b"..."
            while block:
                # Others may be slow to write: a request to stop is heard while nothing comes.
                while not select.select([descriptor], [], [], 0.2)[0]:
                    advance(0)
                block = os.read(descriptor, BLOCK_BYTES)
                spool.write(block)
                advance(len(block))
            spool.flush()
        yield describe_file(spool.fileno(), name="standard input", text_key=text_key)


def _embedded_file(cache_dir: Path, progress: Progress) -> CorpusFile:
    """The embedded corpus as a text file in the cache, extracted anew when its sources change."""
    sources = embedded_corpus.documentation_files()
    states = [(str(path), (s := path.stat()).st_size, s.st_mtime_ns) for path in sources]
    key = cache_key("documentation", sources=states)
    done = 0

    def advanced() -> Iterator[Path]:
        nonlocal done
        for path, size, _ in states:
            progress("reading the installed documentation", done, sum(s for _, s, _ in states))
            yield Path(path)
            done += size

    def build(folder: Path) -> dict[str, Any]:
        with open(folder / "documentation.txt", "w", encoding="utf-8", newline="\n") as stream:
            for document in embedded_corpus.read_documentation(advanced()):
                stream.write("\n".join(document) + "\n\n")
        return {}

    return describe_file(str(open_or_build(cache_dir, key, build).path / "documentation.txt"))
