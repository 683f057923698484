"""Samples as rows of tokens: original, masked, generated, and what the discriminator says.

The signs and colours are those of ``training/pretraining/samples.py`` on a terminal. A column of
the page is a token; the columns go on in the next line where the page is narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from electra_ref.terminal_text import cell
from electra_ref.training.pretraining.samples import LEGEND, verdicts_of
from electra_ref.training.report.markup import Markup, element, escaped

_VERDICTS = {"^": ("found", "replaced and flagged"), "-": ("missed", "replaced and missed"),
             "?": ("alarm", "false alarm")}  # fmt: skip

Sample = Mapping[str, Any]


def samples_view(samples: Sequence[Sample]) -> Markup:
    """Return all samples of one evaluation, below the meaning of their signs if they have any."""
    views = [sample_view(sample) for sample in samples]
    if any("probability" in sample for sample in samples):
        legend = f"{LEGEND}; the number is the probability of “replaced”"
        views.insert(0, element("p", legend, class_="note"))
    return Markup("".join(views))


def sample_view(sample: Sample) -> Markup:
    """Return one sample as a list of tokens."""
    rows = [name for name in ("original", "masked", "generated", "guessed") if name in sample]
    verdicts = verdicts_of(dict(sample))
    names = [*rows, "flagged"] if verdicts else rows
    head = element("li", *(element("span", name) for name in names), class_="names",
                   aria_hidden="true")  # fmt: skip
    columns = [
        _column(sample, rows, place, verdicts[place] if verdicts else None)
        for place in range(len(sample["original"]))
    ]
    return element("ol", head, *columns, class_="tokens", role="list")


def _column(sample: Sample, rows: Sequence[str], place: int, verdict: str | None) -> Markup:
    """Return the cells of a token; those that repeat the original are for the eye only."""
    original = sample["original"][place]
    kind, meaning = _VERDICTS.get(verdict or "", ("", ""))
    cells = [_token(original)]
    for name in rows[1:]:
        token = sample[name][place]
        if token == original and not (kind and name == rows[-1]):
            cells.append(_token(token, class_="same", aria_hidden="true"))
        else:
            is_judged = kind and name == rows[-1]
            cells.append(_token(token, class_=f"mark {kind}" if is_judged else "other", hint=name))
    if verdict is not None:
        cells.append(_sign(verdict, kind, meaning, sample["probability"][place]))
    return element("li", *cells)


def _token(token: str, *, hint: str = "", **attributes: str | bool) -> Markup:
    heard = [element("span", f" {hint}: ", class_="heard")] if hint else []
    return element("span", *heard, _cell(token), **attributes)


def _cell(token: str) -> Markup:
    """Return the text of a token, as ``cell`` writes it on a terminal; an empty one has a width."""
    return element("bdi", _unescaped(cell(token)) or escaped("\u00a0"))


def _unescaped(text: str) -> Markup:
    """Return a ``cell`` as HTML. Its isolates are left to ``bdi``; there are no others in it."""
    return escaped("".join(part for part in text if part not in "\u2068\u2069"))


def _sign(verdict: str, kind: str, meaning: str, probability: float) -> Markup:
    if not kind:
        return element("span", "\u00a0", class_="same", aria_hidden="true")
    heard = element("span", f" {meaning}, ", class_="heard")
    return element("span", element("b", verdict, aria_hidden="true"), heard, f"{probability:.2f}",
                   class_=f"sign {kind}")  # fmt: skip
