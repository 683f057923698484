"""The examples of a corpus on disk, at 12 bytes each.

An example is (start, split, end), three places in the token stream. In a corpus of more than 2**31
tokens they take 64 bits each. Examples ascend, so they are kept as int32 from the start of their
run, and a new run begins where 31 bits are no longer enough:

    <name>.bin  (examples, 3)  int32
    runs        (runs, 2)      number of the first example of each run, and the token it counts from

A corpus of ten billion tokens has five runs. They are facts of the folder, and kept in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from electra_ref.text.cache_folder import CacheFolder, check_size, map_array

LONGEST_RUN = 1 << 31  # tokens


class IndexWriter:
    """Writes the examples of one part of a corpus."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.count = self.tokens = 0
        self.runs: list[tuple[int, int]] = []

    def append(self, examples: npt.NDArray[np.int64]) -> None:
        """Append ``examples`` (n, 3), which come after all those before. Raises OSError."""
        self.tokens += int((examples[:, 2] - examples[:, 0]).sum())
        while len(examples):
            base = self.runs[-1][1] if self.runs else -LONGEST_RUN
            fitting = int(np.searchsorted(examples[:, 2], base + LONGEST_RUN))
            if fitting:
                self._stream.write((examples[:fitting] - base).astype(np.int32).tobytes())
                self.count += fitting
                examples = examples[fitting:]
            else:
                self.runs.append((self.count, int(examples[0, 0])))

    def facts(self) -> dict[str, Any]:
        """Return what ``ExampleIndex`` needs, as plain JSON."""
        return {"tokens": self.tokens, "runs": self.runs}


class ExampleIndex:
    """The examples that an ``IndexWriter`` wrote, mapped; numbered from 0."""

    def __init__(self, folder: CacheFolder, name: str, facts: Mapping[str, Any]) -> None:
        """``facts`` are those of the writer. Raises UserError if the file changed its size."""
        self._folder, self._name = folder, name
        self._stored = map_array(folder, name, np.int32, columns=3)
        runs = np.array(facts["runs"], np.int64).reshape(-1, 2)
        self._firsts, self._bases = runs[:, 0], runs[:, 1]
        self.tokens: int = facts["tokens"]  # of all examples, without special tokens

    def __len__(self) -> int:
        return len(self._stored)

    def rows(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return (start, split, end) of the examples ``numbers`` (n,), as (n, 3).

        Raises UserError if the file was cut short since it was opened.
        """
        check_size(self._folder, self._name)
        run = np.searchsorted(self._firsts, numbers, side="right") - 1
        rows: npt.NDArray[np.int64] = self._stored[numbers] + self._bases[run][:, np.newaxis]
        return rows
