"""Keys of the figures: which run has which colour, dashes and shape, and what a line stands for."""

from __future__ import annotations

from collections.abc import Sequence

from electra_ref.training.report.markup import Markup, element
from electra_ref.training.report.panels import MAIN, Panel
from electra_ref.training.report.reading import Run
from electra_ref.training.report.styles import Style, style_of

_SYMBOLS = {
    "o": "M14.5 6a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
    "s": "M14.5 2.5h7v7h-7z",
    "^": "M18 2l4 7.5h-8z",
    "D": "M18 1.5l4.5 4.5-4.5 4.5-4.5-4.5z",
    "v": "M18 10l4-7.5h-8z",
}


def run_mark(number: int) -> Markup:
    """Return what marks the curves of the run with this number."""
    return _swatch(style_of(number, MAIN))


def key_of(panel: Panel, runs: Sequence[Run]) -> list[Markup]:
    """Return which runs ``panel`` shows, if there are several, and what its lines stand for."""
    keys = []
    if len(runs) > 1:
        shown = sorted({each.run for each in panel.series})
        items = [element("li", run_mark(number), runs[number].name) for number in shown]
        keys.append(element("ul", *items, class_="key", aria_label="Runs"))
    words = {each.role: each.what for each in panel.series if each.what}
    if words:
        items = [
            element("li", _swatch(style_of(0, role)._replace(colour="currentColor")), what)
            for role, what in words.items()
        ]
        keys.append(element("ul", *items, class_="key", aria_label="Lines"))
    return keys


def _swatch(style: Style) -> Markup:
    line = element(
        "line",
        x1="1", y1="6", x2="35", y2="6",
        stroke=style.colour,
        stroke_width=f"{style.width}",
        stroke_dasharray=" ".join(f"{style.width * length:g}" for length in style.dashes),
        stroke_opacity=f"{style.opacity}",
    )  # fmt: skip
    parts = [line]
    if style.shape:
        fill = "none" if style.is_hollow else style.colour
        parts.append(element("path", d=_SYMBOLS[style.shape], fill=fill, stroke=style.colour))
    return element("svg", *parts, class_="swatch", viewBox="0 0 36 12", aria_hidden="true")
