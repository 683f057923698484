"""A figure that is drawn with matplotlib and written to a file of SVG."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from electra_ref.errors import UserError


def check_that_it_can_draw() -> None:
    """Raise UserError if matplotlib is missing."""
    if find_spec("matplotlib") is None:
        raise UserError("--plot needs matplotlib (extra: plots)")


@contextmanager
def figure_file(path: Path, width: float, height: float, font_size: float = 10) -> Iterator[Any]:
    """Give a figure to draw in, sizes in inches; write it to ``path`` when the block ends.

    Raises UserError if matplotlib is missing or the file cannot be written.
    """
    check_that_it_can_draw()
    import matplotlib as mpl  # noqa: PLC0415  (an extra, needed only here)
    from matplotlib.figure import Figure  # noqa: PLC0415  (the same)

    with mpl.rc_context(
        {"svg.hashsalt": "electra_ref", "svg.fonttype": "none", "font.size": font_size}
    ):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        try:
            figure.savefig(path, format="svg", metadata={"Date": None})
        except OSError as error:
            raise UserError(f"--plot {path}: {error.strerror}") from None
