"""How a curve looks: a colour, dashes and a shape for its run, weight and opacity for its role.

Runs are told apart without colours, too. Colours are names of CSS, which style.css defines.
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.training.report.panels import BASELINE, MAIN, SECOND, STEP

COLOURS = 8  # in style.css; a ninth run has the first one again
_SHAPES = ("o", "s", "^", "D", "v")  # as matplotlib names them
_DASHES: tuple[tuple[float, ...], ...] = ((), (4.0, 1.5), (1.5, 1.0), (5.0, 1.5, 1.0, 1.5))
_WIDTHS = {STEP: 1.1, MAIN: 1.8, SECOND: 1.1, BASELINE: 1.1}


class Style(NamedTuple):
    """How one curve looks. Lengths are in points, those of dashes in widths of the line."""

    colour: str
    dashes: tuple[float, ...]
    width: float
    opacity: float
    shape: str  # of its marks; "" without any
    is_hollow: bool


def style_of(run: int, role: str) -> Style:
    """Return the style of the curves of a run, by its number, that have a role."""
    has_shape = role in (MAIN, SECOND)
    return Style(
        colour=f"var(--run-{run % COLOURS})",
        dashes=(1.0, 2.0) if role == BASELINE else _DASHES[run % len(_DASHES)],
        width=_WIDTHS[role],
        opacity=0.7 if role == STEP else 1.0,
        shape=_SHAPES[run % len(_SHAPES)] if has_shape else "",
        is_hollow=role == SECOND,
    )
