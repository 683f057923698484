"""The token ids of several files, read as one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from electra_ref.text.cache_folder import CacheFolder, check_size, map_array

FILE_NAME = "tokens.bin"

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


class JoinedTokens:
    """The ids of ``folders``, one after the other. A file is mapped when it is first read.

    A slice that lies in one file is a view of it; one that does not is a copy.
    """

    def __init__(self, folders: Sequence[CacheFolder], dtype: npt.DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self._folders = folders
        self._mapped: list[Tokens | None] = [None] * len(folders)
        sizes = [folder.sizes[FILE_NAME] // self.dtype.itemsize for folder in folders]
        self.starts = np.cumsum([0, *sizes])  # (folders + 1)  the last is the number of all ids

    @property
    def size(self) -> int:
        """Number of ids."""
        return int(self.starts[-1])

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: slice) -> Tokens:
        """Return the ids of ``place``, a slice without a step."""
        start, stop, _ = place.indices(self.size)
        file = int(np.searchsorted(self.starts, start, side="right")) - 1
        parts = []
        while start < stop:
            end = min(stop, int(self.starts[file + 1]))
            first = int(self.starts[file])
            parts.append(self.of(file)[start - first : end - first])
            start, file = end, file + 1
        if len(parts) == 1:
            return parts[0]
        joined: Tokens = np.concatenate([np.empty(0, self.dtype), *parts])
        return joined

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Return all ids as one array in memory."""
        return np.array(self[:], dtype, copy=copy)

    def of(self, file: int) -> Tokens:
        """Return the ids of one file, mapped. Raises UserError if its size has changed."""
        found = self._mapped[file]
        if found is None:
            found = map_array(self._folders[file], FILE_NAME, self.dtype)
            self._mapped[file] = found
        return found

    def check(self, positions: npt.NDArray[np.int64]) -> None:
        """Raise UserError if a file with one of ``positions`` was cut short since it was opened."""
        files = np.searchsorted(self.starts, positions, side="right") - 1
        for file in np.unique(files).tolist():
            check_size(self._folders[file], FILE_NAME)
