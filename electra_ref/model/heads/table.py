"""The task heads by the kind of task. A new one is a file and a line here."""

from __future__ import annotations

from collections.abc import Mapping

from electra_ref.model.heads import choice, classification, regression, span, tagging
from electra_ref.model.labelled import HeadModule

HEADS: Mapping[str, HeadModule] = {
    "classification": classification,
    "regression": regression,
    "tagging": tagging,
    "multiple-choice": choice,
    "span-extraction": span,
}
