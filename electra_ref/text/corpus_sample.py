"""A sample of a corpus that is too large to train the vocabulary on all of it.

Files are divided into blocks of BLOCK_BYTES. A draw keyed by the number of a block decides whether
it is in the sample, so the sample depends on the contents only, and a pattern in the order of the
documents (two languages in turns) cannot agree with it. Only the chosen blocks are read.

A block begins at the first line that begins in it and ends where the next block begins, so no line
is cut or belongs to two blocks. A line of .txt with WINDOW bytes after the border of a block is cut
at a space, as reading cuts it.

A compressed file cannot be entered in its middle. It is read from its start to its end; the blocks
are of its text, in characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.errors import UserError
from electra_ref.rng import Purpose, RandomStream, random_words_reference
from electra_ref.text.corpus import LONGEST_OBJECT, LONGEST_SENTENCE, read_documents
from electra_ref.text.corpus_file import CorpusFile, CorpusReport, opened
from electra_ref.text.decoding import is_plain

BLOCK_BYTES = 1 << 20
WINDOW = LONGEST_SENTENCE  # bytes, less than a block; as far a line end is looked for in .txt

_LINE_END = re.compile(rb"\r\n|[\n\r]")
_INSIDE_A_CHARACTER = bytes(range(0x80, 0xC0))  # UTF-8's continuation bytes


class Sample(NamedTuple):
    """What is read of a corpus."""

    files: list[CorpusFile]  # parts of the plain files, and all compressed files
    share: float  # of the compressed files' text
    bytes: int  # on disk


def draw_sample(files: Sequence[CorpusFile], most: int) -> Sample:
    """Draw about ``most`` bytes of the files, or take all of them if they are not larger.

    Compressed files count with their size on disk. Raises UserError if a file cannot be read, and
    for a line of .jsonl that is longer than reading allows.
    """
    on_disk = sum(file.size for file in files)
    if on_disk <= most:
        return Sample(list(files), 1.0, on_disk)
    share = most / on_disk
    plain = [is_plain(file) for file in files]
    blocks = [
        -(-file.size // BLOCK_BYTES) if p else 0 for file, p in zip(files, plain, strict=True)
    ]
    chosen = np.split(_is_chosen(share, 0, sum(blocks)), np.cumsum(blocks)[:-1])
    parts: list[CorpusFile] = []
    for file, its_plain, its_blocks in zip(files, plain, chosen, strict=True):
        if not its_plain:
            parts.append(file)
        elif its_blocks.any():
            parts.extend(_parts(file, np.flatnonzero(its_blocks).tolist()))
    return Sample(parts, share, sum(_size(part) for part in parts))


def read_sample(sample: Sample, on_bytes: Callable[[int], None]) -> Iterator[str]:
    """Yield the sentences of the sample. Raises what ``read_documents`` raises."""
    for number, file in enumerate(sample.files):
        documents = read_documents([file], CorpusReport(), on_bytes)
        sentences = chain.from_iterable(documents)
        if file.part is None and sample.share < 1:
            yield from _in_chosen_blocks(sentences, sample.share, number)
        else:
            yield from sentences


def _is_chosen(share: float, step: int, count: int, first: int = 0) -> npt.NDArray[np.bool_]:
    """Return whether each of ``count`` blocks is in the sample."""
    stream = RandomStream(0, Purpose.VOCABULARY, step, first)
    words = random_words_reference(stream, count, 1)[:, 0]
    return words < share * 2.0**32


def _in_chosen_blocks(sentences: Iterator[str], share: float, number: int) -> Iterator[str]:
    position, block, chosen = 0, -1, False
    for sentence in sentences:
        if position // BLOCK_BYTES != block:
            block = position // BLOCK_BYTES
            chosen = bool(_is_chosen(share, 1 + number, 1, block)[0])
        if chosen:
            yield sentence
        position += len(sentence) + 1


def _size(file: CorpusFile) -> int:
    start, end = file.part or (0, file.size)
    return end - start


def _parts(file: CorpusFile, blocks: Sequence[int]) -> Iterator[CorpusFile]:
    try:
        with opened(file) as stream:
            for block in blocks:
                start = _line_start(stream, file, block * BLOCK_BYTES)
                end = _line_start(stream, file, (block + 1) * BLOCK_BYTES)
                name = f"{file.name} from byte {start}" if start else file.name
                if start < end:
                    yield file._replace(part=(start, end), name=name)
    except OSError as error:
        raise UserError(f"cannot read {file.name}: {error.strerror or error}") from error


def _line_start(stream: IO[bytes], file: CorpusFile, position: int) -> int:
    """Return where the first line begins at or after ``position``."""
    if position == 0 or position >= file.size:
        return min(position, file.size)
    start = position - 1
    stream.seek(start)
    for _ in range(1 if file.format == "text" else 4 * LONGEST_OBJECT // WINDOW):
        window = stream.read(WINDOW)
        if found := _LINE_END.search(window):
            return start + found.end()
        if len(window) < WINDOW:
            return file.size
        start += WINDOW
    if file.format == "objects":
        raise UserError(
            f"{file.name}, after byte {position}: a line is longer than {LONGEST_OBJECT} "
            "characters; each line should be one JSON object"
        )
    space = window.find(b" ")
    if space >= 0:
        return position + space
    return position + len(window[1:]) - len(window[1:].lstrip(_INSIDE_A_CHARACTER))
