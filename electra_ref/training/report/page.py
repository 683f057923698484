"""All of a report as one HTML page: no script, nothing from elsewhere, for any width and for paper.

The policy in its head forbids a browser to load or run anything. Only styles inside the page are
allowed, which the figures have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from electra_ref.training.report.curves import MOST_POINTS, PARTS
from electra_ref.training.report.legend import key_of, run_mark
from electra_ref.training.report.markup import Markup, element
from electra_ref.training.report.panels import Panel, description, panels_of
from electra_ref.training.report.reading import Run
from electra_ref.training.report.tables import (
    environment_table,
    figure_text,
    figures_table,
    setting_text,
    settings_tables,
    sizes_tables,
)
from electra_ref.training.report.tokens import samples_view

MARKER = '<meta name="generator" content="electra_ref report 1">'
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = Path(__file__).with_name("style.css")

Draw = Callable[[Panel, str], Markup]


def page_of(runs: Sequence[Run], draw: Draw) -> str:
    """Return the report of ``runs`` as HTML; ``draw`` turns a figure and its words into SVG."""
    sections = [
        ("curves", "Curves", _curves(runs, draw)),
        ("samples", "Samples", _samples(runs)),
        ("figures", "Figures", [figures_table(runs)]),
        ("sizes", "Sizes", sizes_tables(runs)),
        ("settings", "Settings", settings_tables(runs)),
        ("environment", "Environment", [environment_table(runs), *_data(runs)]),
    ]
    links = [element("a", name, href=f"#{slug}") for slug, name, _ in sections]
    body = element(
        "body",
        element("header", _heading(runs), *_states(runs), *_cards(runs)),
        element("nav", *links, aria_label="Parts of this page"),
        element("main", *(_section(*section) for section in sections)),
    )
    return f"<!DOCTYPE html>\n{element('html', _head(runs), body, lang='en')}\n"


def _head(runs: Sequence[Run]) -> Markup:
    return element(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup(MARKER),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"ELECTRA pre-training: {', '.join(run.name for run in runs)}"),
        element("style", Markup(_STYLE.read_text(encoding="utf-8"))),
    )


def _heading(runs: Sequence[Run]) -> Markup:
    name = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    return element("h1", element("small", "ELECTRA pre-training "), name)


def _states(runs: Sequence[Run]) -> list[Markup]:
    """Return how far each run is, what it warns of, and what could not be read of it."""
    is_one = len(runs) == 1
    names = [
        [] if is_one else [run_mark(number), element("b", run.name), ": "]
        for number, run in enumerate(runs)
    ]
    return [
        element("div", *_state(run, name), class_="state")
        for run, name in zip(runs, names, strict=True)
    ]


def _state(run: Run, name: Sequence[str]) -> list[Markup]:
    state = f"step {run.last_step:,}"
    if run.config is not None:
        state = f"{run.config.objective}, {run.config.preset}, {state} of {run.config.steps:,}"
    lines = [element("p", *name, state)]
    lines += [element("p", f"Warning: {text}", class_="warning") for text in run.warnings]
    lines += [element("p", f"Note: {note}.", class_="note") for note in run.notes]
    lines += [
        element(
            "p",
            f"From step {step:,} on: {key} = {setting_text(after)}, before {setting_text(before)}.",
            class_="note",
        )
        for step, key, before, after in run.changes
    ]
    return lines


def _cards(runs: Sequence[Run]) -> list[Markup]:
    """Return the figures that say most of a single run, large."""
    if len(runs) != 1 or not runs[0].newest:
        return []
    newest = runs[0].newest
    frequent, share = newest.get("mlm_baseline_accuracy"), newest.get("replaced_share")
    original = 1.0 - share if isinstance(share, float) else None
    figures = (
        ("loss", "Loss", "held-out, total"),
        ("mlm_accuracy", "MLM accuracy", f"most frequent token {figure_text(frequent)}"),
        ("rtd_auc", "RTD AUC", "0.5 is guessing"),
        ("rtd_accuracy", "RTD accuracy", f"all original {figure_text(original)}"),
    )
    cards = [
        element(
            "div",
            element("dt", name),
            element("dd", figure_text(newest[key])),
            element("dd", beside, class_="beside"),
        )
        for key, name, beside in figures
        if key in newest
    ]
    return [element("dl", *cards, class_="cards")]


def _section(slug: str, name: str, content: Sequence[Markup]) -> Markup:
    return element("section", element("h2", name, id=f"{slug}-title"), *content, id=slug,
                   aria_labelledby=f"{slug}-title")  # fmt: skip


def _curves(runs: Sequence[Run], draw: Draw) -> list[Markup]:
    """Return all figures, below the names of the runs if there are several."""
    panels = panels_of(runs)
    if not panels:
        return [element("p", "No step is logged yet, so there is nothing to draw.", class_="note")]
    figures = [_figure(panel, runs, draw) for panel in panels]
    notes = []
    if any(run.changes for run in runs):
        notes.append("A dashed vertical line: a resumed run has other settings from there on.")
    if any(panel.is_thinned for panel in panels):
        notes.append(
            f"Curves of more than {MOST_POINTS} points are thinned: each is cut into {PARTS} equal "
            "parts, and the smallest and the largest value of each part are drawn."
        )
    lines = [element("p", note, class_="note") for note in notes]
    return [*lines, element("div", *figures, class_="figures")]


def _figure(panel: Panel, runs: Sequence[Run], draw: Draw) -> Markup:
    thinned = " (thinned)" if panel.is_thinned else ""
    note = [element("p", panel.note)] if panel.note else []
    title = element("h3", f"{panel.title}{thinned}")
    caption = element("figcaption", title, *note, *key_of(panel, runs))
    return element("figure", caption, draw(panel, description(panel, runs)))


def _samples(runs: Sequence[Run]) -> list[Markup]:
    content = []
    for run in runs:
        if run.samples:
            title = f"{run.name}, step {run.samples[0]['step']:,}"
            content += [element("h3", title), samples_view(run.samples)]
        else:
            content.append(element("p", f"{run.name} has no samples yet.", class_="note"))
    return content


def _data(runs: Sequence[Run]) -> list[Markup]:
    """Return what each run said of its data."""
    content = []
    for run in runs:
        if run.data:
            content.append(element("h3", f"Data of {run.name}"))
            content.append(element("ul", *(element("li", line) for line in run.data)))
    return content
