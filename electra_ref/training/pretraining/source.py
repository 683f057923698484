"""Where the data and the first parameters of a run come from, as the user named it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Source(NamedTuple):
    """Text or token ids; both empty means the embedded corpus."""

    corpus: Sequence[str]  # files and folders by absolute path, or "-" for standard input
    tokens: str | None  # an .npy file of ids by absolute path
    text_key: str = "text"  # of the text in JSON lines
    vocabulary: str | None = None  # a vocab.txt by absolute path; None: trained, or the model's
    init_from: str | None = None  # a model by absolute path
