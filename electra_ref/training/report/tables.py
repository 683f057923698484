"""Tables of a report: figures, sizes, settings and environments, a column for each run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.training.report.markup import Markup, element
from electra_ref.training.report.reading import Run
from electra_ref.training.report.sizes import flop_counts, format_flop, parameter_counts

MISSING = "-"
_FIGURES = {
    "loss": "total loss",
    "mlm_loss": "MLM loss",
    "rtd_loss": "RTD loss",
    "mlm_accuracy": "MLM accuracy",
    "mlm_baseline_accuracy": "MLM accuracy of the most frequent token",
    "sampled_accuracy": "share of the samples that are right",
    "rtd_auc": "RTD AUC",
    "rtd_masked_auc": "RTD AUC of the masked tokens",
    "rtd_accuracy": "RTD accuracy",
    "all_original": "RTD accuracy of “all original”",
    "rtd_precision": "RTD precision",
    "rtd_recall": "RTD recall",
    "replaced_share": "share of the tokens that are replaced",
    "rtd_probability_original": "mean probability of “replaced” of original tokens",
    "rtd_probability_replaced": "mean probability of “replaced” of replaced tokens",
    "rtd_calibration_error": "calibration error of these probabilities",
    "generator_entropy": "entropy of the generator (nats)",
    "distinct_samples": "different tokens sampled",
    "distinct_originals": "different tokens masked",
    "hidden_cosine": "cosine of the discriminator's hidden states",
    "encoder_mlm_loss": "MLM loss of the full-size encoder",
    "encoder_mlm_accuracy": "MLM accuracy of the full-size encoder",
}
_DESCRIPTIONS = {
    field.name: field.metadata["description"] for field in dataclasses.fields(PretrainingConfig)
}

Rows = Mapping[str, Sequence[str]]  # the values of each run, by what they are


def figures_table(runs: Sequence[Run]) -> Markup:
    """Return the newest held-out figures of all runs."""
    if not any(run.newest for run in runs):
        return element("p", "No evaluation on held-out rows is logged yet.", class_="note")
    found = {key for run in runs for key in run.newest if key not in ("step", "split")}
    others = sorted(found - _FIGURES.keys())
    rows = {"step": [_figure(run.newest.get("step"), run, "step") for run in runs]}
    for key in (*_FIGURES, *others):
        if key in found or (key == "all_original" and "replaced_share" in found):
            rows[_FIGURES.get(key, key)] = [_newest(run, key) for run in runs]
    return table("Newest evaluation on held-out rows", rows, runs, numbers=True)


def sizes_tables(runs: Sequence[Run]) -> list[Markup]:
    """Return the parameters and the FLOP of the runs whose vocabulary is known."""
    known = [run for run in runs if run.config is not None and run.config.vocab_size > 0]
    if not known:
        return [element("p", "The sizes are known when the data are prepared.", class_="note")]

    configs = [run.config for run in known if run.config is not None]
    parameters = [parameter_counts(config) for config in configs]
    rows = _merged(parameters, lambda count: f"{count:,}")
    rows["together, shared ones once"] = [f"{sum(each.values()):,}" for each in parameters]
    rows["entries of the vocabulary"] = [f"{config.vocab_size:,}" for config in configs]
    steps = [run.last_step for run in known]
    counts = [flop_counts(config, done) for config, done in zip(configs, steps, strict=True)]
    flop = _merged(counts, format_flop)
    return [
        table("Parameters", rows, known, numbers=True),
        table("FLOP in matrix products", flop, known, numbers=True),
    ]


def settings_tables(runs: Sequence[Run]) -> list[Markup]:
    """Return the settings that differ, if there are several runs, and all settings."""
    rows = _merged([run.settings for run in runs], setting_text)
    differing = {key: values for key, values in rows.items() if len(set(values)) > 1}
    tables = []
    if len(runs) > 1:
        caption = "Settings that differ"
        if differing:
            tables.append(table(caption, differing, runs, explain=_DESCRIPTIONS))
        else:
            tables.append(element("p", "All runs have the same settings.", class_="note"))
    return [*tables, table("All settings", rows, runs, explain=_DESCRIPTIONS)]


def environment_table(runs: Sequence[Run]) -> Markup:
    """Return what the runs ran on, and where their data were."""
    rows = _merged([dict(_flat(run.environment)) for run in runs], setting_text)
    return table("What the runs began on", rows, runs)


def table(
    caption: str,
    rows: Rows,
    runs: Sequence[Run],
    *,
    numbers: bool = False,
    explain: Mapping[str, str] | None = None,
) -> Markup:
    """Return a table of ``rows`` with a column for each run; rows that differ are marked.

    It scrolls by itself where the page is too narrow.
    """
    head = [element("td"), *(element("th", run.name, scope="col") for run in runs)]
    if explain is not None:
        head.append(element("th", "meaning", scope="col"))
    body = []
    for name, values in rows.items():
        differs = len(set(values)) > 1 and not numbers
        mark = element("span", " ≠", class_="differs", title="differs between the runs")
        start = element("th", name, *([mark] if differs else []), scope="row")
        cells = [element("td", value, class_="number" if numbers else "value") for value in values]
        if explain is not None:
            cells.append(element("td", explain.get(name, ""), class_="meaning"))
        body.append(element("tr", start, *cells, class_="differing" if differs else "same"))
    content = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *head)),
        element("tbody", *body),
    )
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label=caption)


def figure_text(value: object) -> str:
    """Return a figure of a record for people."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "undefined"
    if isinstance(value, float) and not 1e4 <= abs(value) < 1e9:
        return f"{value:.4g}"
    return f"{value:,.0f}"


def _newest(run: Run, key: str) -> str:
    share = run.newest.get("replaced_share")
    if key == "all_original":
        return figure_text(1.0 - share) if isinstance(share, float) else MISSING
    return _figure(run.newest.get(key), run, key)


def _figure(value: object, run: Run, key: str) -> str:
    return figure_text(value) if key in run.newest else MISSING


def _merged(
    columns: Sequence[Mapping[str, Any]], text: Callable[[Any], str]
) -> dict[str, list[str]]:
    """Return the texts of all columns by key, in the order in which the keys are met."""
    keys: Iterable[str] = dict.fromkeys(key for column in columns for key in column)
    return {
        key: [text(column[key]) if key in column else MISSING for column in columns] for key in keys
    }


def setting_text(value: object) -> str:
    """Return the value of a setting for people."""
    try:
        return _text(value)
    except RecursionError:  # only in a file that somebody has changed
        return "nested too deeply to show"


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return "none" if value in (None, {}) else json.dumps(value, ensure_ascii=False, default=str)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the entries of nested objects, their names joined by spaces."""
    for key, value in values.items():
        name = f"{before}{key}".replace("_", " ")
        if name.startswith("fingerprint "):
            name = name.removeprefix("fingerprint ")
        if key == "format" and not before:
            continue
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{key} ")
        else:
            yield name, value
