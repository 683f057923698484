"""A sample of a corpus that is too large to train the vocabulary on all of it.

Plain files are divided into blocks of BLOCK_BYTES. A draw keyed by the number of a block decides
whether it is in the sample, so the sample depends on the contents only, and a pattern in the order
of the documents (two languages in turns) cannot agree with it. A block begins at the first line
that begins in it and ends where the next block begins, so no line is cut or belongs to two blocks.
A row group of a Parquet file is drawn like a block.

A compressed file cannot be entered in its middle. Of each, a share is read from its start on; of
files whose share is less than PREFIX_BYTES, some are drawn, and so much is read of each. So only
the sample is read. But it knows nothing of the rest of a file that is sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.errors import UserError
from electra_ref.rng import Purpose, RandomStream, random_words_reference
from electra_ref.text.corpus import read_documents
from electra_ref.text.corpus_file import CorpusFile, CorpusReport, opened
from electra_ref.text.cutting import line_start
from electra_ref.text.decoding import is_plain
from electra_ref.text.parquet import group_sizes

BLOCK_BYTES = 1 << 20
PREFIX_BYTES = 1 << 20  # on disk; opening a file takes time, and a line or two are no sample

_BLOCKS, _GROUPS, _PREFIXES = range(3)  # draws of their own


class Sample(NamedTuple):
    """What is read of a corpus."""

    files: list[CorpusFile]  # or parts of them
    bytes: int  # on disk
    has_prefixes: bool  # of some files only the beginning is read


def draw_sample(files: Sequence[CorpusFile], most: int) -> Sample:
    """Draw about ``most`` bytes of the files, or take all of them if they are not larger.

    Compressed files count with their size on disk. Raises UserError if a file cannot be read, and
    for a line of .jsonl that is longer than reading allows.
    """
    on_disk = sum(file.size for file in files)
    if on_disk <= most:
        return Sample(list(files), on_disk, has_prefixes=False)
    share = most / on_disk
    parts: list[CorpusFile] = []
    sizes: list[int] = []
    has_prefixes = False
    block = group = 0
    for number, file in enumerate(files):
        if file.format == "rows":
            groups = group_sizes(file)
            drawn = np.flatnonzero(_is_chosen(share, _GROUPS, len(groups), group)).tolist()
            group += len(groups)
            parts += [file._replace(part=(each, each + 1)) for each in drawn]
            sizes += [groups[each] for each in drawn]
        elif is_plain(file):
            blocks = -(-file.size // BLOCK_BYTES)
            drawn = np.flatnonzero(_is_chosen(share, _BLOCKS, blocks, block)).tolist()
            block += blocks
            found = list(_parts(file, drawn)) if drawn else []
            parts += found
            sizes += [_size(part) for part in found]
        else:
            length = min(file.size, max(PREFIX_BYTES, round(share * file.size)))
            if length and _is_chosen(share * file.size / length, _PREFIXES, 1, number)[0]:
                has_prefixes = has_prefixes or length < file.size
                parts.append(file._replace(part=(0, length) if length < file.size else None))
                sizes.append(length)
    return Sample(parts, sum(sizes), has_prefixes)


def read_sample(sample: Sample, on_bytes: Callable[[int], None]) -> Iterator[str]:
    """Yield the sentences of the sample. Raises what ``read_documents`` raises."""
    return chain.from_iterable(read_documents(sample.files, CorpusReport(), on_bytes))


def _is_chosen(share: float, step: int, count: int, first: int) -> npt.NDArray[np.bool_]:
    """Return whether each of ``count`` units, of which ``first`` is the first, is in the sample."""
    stream = RandomStream(0, Purpose.VOCABULARY, step, first)
    words = random_words_reference(stream, count, 1)[:, 0]
    return words < share * 2.0**32


def _size(file: CorpusFile) -> int:
    start, end = file.part or (0, file.size)
    return end - start


def _parts(file: CorpusFile, blocks: Sequence[int]) -> Iterator[CorpusFile]:
    try:
        with opened(file) as stream:
            for block in blocks:
                start = line_start(stream, file, block * BLOCK_BYTES)
                end = line_start(stream, file, (block + 1) * BLOCK_BYTES)
                if start < end:
                    yield file._replace(part=(start, end))
    except OSError as error:
        raise UserError(f"cannot read {file.name}: {error.strerror or error}") from error
