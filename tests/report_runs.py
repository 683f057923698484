"""Runs made by hand, whose report is known, and their page as a parser of HTML sees it."""

from __future__ import annotations

import html.parser
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from electra_ref.config.settings import to_toml
from electra_ref.training.report.markup import Markup, element
from electra_ref.training.report.panels import Panel
from electra_ref.training.run_data import record_data
from electra_ref.training.run_directory import RunDirectory
from tests.small_runs import small_config

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]
TRAINING: list[dict[str, Any]] = [
    {"step": 1, "split": "training", "loss": 30.0, "mlm_loss": 9.0, "rtd_loss": 0.42,
     "gradient_norm": 4.0, "learning_rate": 0.001, "tokens_per_second": None},
    {"step": 2, "split": "training", "loss": 29.0, "mlm_loss": 8.5, "rtd_loss": 0.41,
     "gradient_norm": 3.5, "learning_rate": 0.002, "tokens_per_second": 1234.5},
]  # fmt: skip
HELD_OUT: dict[str, Any] = {
    "step": 2, "split": "held_out", "loss": 28.0, "mlm_loss": 8.25, "rtd_loss": 0.395,
    "mlm_accuracy": 0.25, "mlm_baseline_accuracy": 0.0625, "rtd_auc": 0.75, "rtd_accuracy": 0.875,
    "rtd_precision": None, "replaced_share": 0.125, "distinct_samples": 1234,
}  # fmt: skip
SAMPLE: dict[str, Any] = {
    "step": 2,
    "original": ["[CLS]", "a", "river", "runs", "[SEP]"],
    "masked": ["[CLS]", "a", "[MASK]", "[MASK]", "[SEP]"],
    "generated": ["[CLS]", "a", "tree", "sings", "[SEP]"],
    "replaced": [False, False, True, True, False],
    "probability": [0.1, 0.6, 0.9, 0.2, 0.0],
}
HOSTILE = [
    "</script>", "<b>bold</b>", "&amp;", "\u202eabc", "\u0301", "$x^2$", "\x00", "\ud800",
    "\u2066x", "שלום", "]]>", "-->", "'\"",
]  # fmt: skip


def make_run(
    path: Path,
    metrics: Iterable[Mapping[str, Any]] = (*TRAINING, HELD_OUT),
    samples: Iterable[Mapping[str, Any]] = (SAMPLE,),
    **changes: Any,
) -> Path:
    """Write the folder of a run with these records and a small configuration; return ``path``."""
    fingerprint = {"device": "cpu", "packages": {"numpy": "2.0"}, "cores": 2, "variables": {}}
    environment = {"python": "3.11", "git_commit": None, "fingerprint": fingerprint}
    with RunDirectory.create(path, to_toml(small_config(**changes)), environment) as run:
        facts = {"key": f"tokens-{'0' * 40}", "tokens": 5000, "notes": ["a <note>"]}
        record_data(run, VOCABULARY, facts)
        for file, records in ((run.metrics, metrics), (run.samples, samples)):
            file.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def hostile_sample() -> dict[str, Any]:
    """Return a sample in which every token is hostile, replaced and flagged."""
    rows = dict.fromkeys(("original", "masked", "generated"), HOSTILE)
    count = len(HOSTILE)
    return {"step": 2, **rows, "replaced": [True] * count, "probability": [1.0] * count}


def plain_drawing(panel: Panel, description: str) -> Markup:
    """Stand in for a figure: the words that a reader of the screen hears."""
    return element("svg", role="img", aria_label=description, data_slug=panel.slug)


class Page(html.parser.HTMLParser):
    """A page, read strictly: each element ends where it must."""

    WITHOUT_END = ("meta", "br")

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []  # each with the element that it stands in
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} twice"
        if tag not in self.WITHOUT_END:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of all elements with this name."""
        return [attributes for name, attributes in self.elements if name == tag]

    def values(self, attribute: str) -> list[str | None]:
        """Return all values of an attribute."""
        return [given[attribute] for _, given in self.elements if attribute in given]

    @property
    def text(self) -> str:
        """All text but that of the style, with single spaces."""
        return " ".join(" ".join(text for tag, text in self.texts if tag != "style").split())
