"""A figure of the report as SVG inside HTML, by matplotlib (extra: plots).

Colours are those of the page: matplotlib gets numbers in their place, which become CSS variables.
So a figure is readable on light and dark pages and on paper. The figure holds no text of a run, and
its bytes are the same for the same curves.
"""

from __future__ import annotations

import io
import re
from typing import Any

from electra_ref.errors import UserError
from electra_ref.training.report.markup import Markup, element
from electra_ref.training.report.panels import Panel, Series
from electra_ref.training.report.styles import COLOURS, style_of

INSTALL = "pip install 'matplotlib>=3.8'"
_MISSING = f"a report needs matplotlib, which draws its figures: {INSTALL}"
_INCHES = (4.5, 2.9)
_INK, _GRID, _CHANGE = 0xF0, 0xF1, 0xF2
_NAMES = {_INK: "currentColor", _GRID: "var(--grid)", _CHANGE: "var(--change)"}
_MARKS = 12  # on a curve of many points
_LARGEST = 1e30  # beyond it there is no axis
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}


def require_matplotlib() -> None:
    """Raise UserError if matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401, PLC0415  (an extra, and slow to import)
    except ImportError as error:
        raise UserError(_MISSING) from error


def draw(panel: Panel, description: str) -> Markup:
    """Return ``panel`` as SVG; ``description`` says in words what it shows."""
    import matplotlib as mpl  # noqa: PLC0415  (the same)
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context():
        mpl.rcdefaults()  # whatever settings a user has
        mpl.rcParams.update({**_SETTINGS, "svg.hashsalt": panel.slug})
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes: Any = figure.subplots()
        for series in panel.series:
            axes.plot(series.curve.steps, _drawable(series, panel), **_style(series))
        _dress(axes, panel)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return _inline(file.getvalue(), panel.slug, description)


def _drawable(series: Series, panel: Panel) -> Any:
    values = series.curve.values.copy()
    values[abs(values) > _LARGEST] = float("nan")
    if panel.scale == "log":
        values[values <= 0.0] = float("nan")
    return values


def _style(series: Series) -> dict[str, Any]:
    """Return what matplotlib calls the style of a curve."""
    points, style = len(series.curve.steps), style_of(series.run, series.role)
    return {
        "color": _colour(series.run % COLOURS),
        "dashes": style.dashes or (1.0, 0.0),
        "linewidth": style.width,
        "alpha": style.opacity,
        "marker": style.shape or ("." if points == 1 else ""),
        "markersize": 4.5,
        "markerfacecolor": "none" if style.is_hollow else _colour(series.run % COLOURS),
        "markevery": max(1, points // _MARKS),
    }


def _dress(axes: Any, panel: Panel) -> None:
    """Add axes, grid, the line of ``panel`` and its changes of settings."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter  # noqa: PLC0415

    if panel.scale == "log":
        from matplotlib.ticker import LogLocator  # noqa: PLC0415

        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
        axes.yaxis.set_minor_formatter(NullFormatter())
    if panel.scale == "from zero":
        axes.set_ylim(bottom=0.0)
    if panel.level is not None:
        axes.axhline(panel.level, color=_colour(_CHANGE), linewidth=1.0)
    for step in sorted({step for _, step in panel.changes}):
        axes.axvline(step, color=_colour(_CHANGE), linewidth=1.0, dashes=(4.0, 3.0))
    axes.set_xlim(0.0, 1.03 * max(panel.last_step, 1))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: _short(step)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.set_xlabel("step", color=_colour(_INK))
    axes.grid(color=_colour(_GRID), linewidth=0.8)
    axes.tick_params(color=_colour(_GRID), labelcolor=_colour(_INK))
    for spine in axes.spines.values():
        spine.set_color(_colour(_GRID))


def _short(value: float) -> str:
    """Return a tick's text: "0.0005", "1,500", "20,000", "1e+06"."""
    if value == int(value) and 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _colour(number: int) -> str:
    return f"#0a0b{number:02x}"


def _inline(svg: str, slug: str, description: str) -> Markup:
    """Return what is inside ``svg`` in an element that fits any width, with ids of its own."""
    start = re.search(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', svg)
    if start is None:
        raise ValueError("matplotlib wrote no SVG with a viewBox")
    body = svg[start.end() : svg.rindex("</svg>")]
    body = re.sub(r"<style[^>]*>.*?</style>", "", body)  # would hold for the whole page
    body = re.sub(r'\bid="([^"]*)"', rf'id="{slug}-\1"', body)
    body = re.sub(r'\b(?:xlink:)?href="#([^"]*)"', rf'href="#{slug}-\1"', body)
    body = re.sub(r"url\(#([^)]*)\)", rf"url(#{slug}-\1)", body)
    body = re.sub(r"font-family: *[^;\"]*", "font-family: inherit", body)
    body = re.sub(r"font: *([^'\";]*px)[^;\"]*", r"font-size: \1; font-family: inherit", body)
    body = re.sub(r"#0a0b([0-9a-f]{2})", lambda match: _name(int(match[1], 16)), body)
    return element(
        "svg", Markup(body.strip()), viewBox=start[1], role="img", aria_label=description
    )


def _name(number: int) -> str:
    return _NAMES.get(number, f"var(--run-{number})")
