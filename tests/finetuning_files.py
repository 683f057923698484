"""Write a small file of labelled data and read it as a run does."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from electra_ref.training.finetuning.input_file import InputFile, open_input
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Answered, Labels, Output
from electra_ref.training.prediction.counts import Counts


def write(folder: Path, name: str, text: str) -> str:
    """Write ``text`` to the file ``name`` and return its path; compressed if it ends in .gz."""
    path = folder / name
    data = text.encode("utf-8", "surrogatepass")
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


def written(
    output: Output, answered: Sequence[Answered], settings: Any, labels: Labels
) -> list[str]:
    """Return the lines of a file with predictions."""
    parts = [output.lines(number, one, settings, labels) for number, one in enumerate(answered)]
    return [*output.before, *chain.from_iterable(parts), *output.after]


def read(
    path: str, records: Callable[[InputFile, Tally], Iterable[Any]]
) -> tuple[list[Any], Tally]:
    """Return what ``records`` yields for the file ``path``, and the tally."""
    tally = Tally()
    with open_input(path, lambda: None, Counts()) as file:
        return list(records(file, tally)), tally
