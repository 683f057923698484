"""The model card of a fine-tuned model: what it answers, how it was trained, its scores.

It names no label, since labels come from the data: ``config.json`` has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from electra_ref import __version__
from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.model.labelled import FineTuned
from electra_ref.training.finetuning.tasks.classification import ClassificationConfig
from electra_ref.training.finetuning.tasks.regression import RegressionConfig
from electra_ref.training.huggingface.model_card import (
    OTHER_ORIGIN,
    Figures,
    loading_lines,
    size_lines,
    table_lines,
)
from electra_ref.training.huggingface.names import TASK_CLASSES

_ANSWERS: Mapping[str, tuple[str, str]] = {  # by the kind of head: their name of it, what it says
    "classification": ("text-classification", "It says which label a text, or a pair, has."),
    "regression": ("text-classification", "It gives a text, or a pair, a number."),
    "tagging": (
        "token-classification",
        "It says which tag a word has: that of its first piece.",
    ),
    "span-extraction": (
        "question-answering",
        "It says where in a text the answer to a question begins and ends.",
    ),
    "multiple-choice": ("multiple-choice", "It says which of several answers is right."),
}
_SETTINGS = (
    "task", "head", "epochs", "steps", "batch_size", "max_length", "learning_rate",
    "layerwise_decay", "weight_decay", "seed", "lowercase", "strip_accents",
)  # fmt: skip


def fine_tuned_card(
    model: FineTuned,
    settings: FinetuningConfig,
    parameters: int,
    step: int,
    figures: Figures | None,
) -> str:
    """Return the card of ``model`` with so many ``parameters``, as it was at ``step``.

    ``figures`` is None where it comes from no run of ours.
    """
    return "\n".join(_lines(model, settings, parameters, step, figures)) + "\n"


def _lines(
    model: FineTuned,
    settings: FinetuningConfig,
    parameters: int,
    step: int,
    figures: Figures | None,
) -> Iterator[str]:
    kind, size = model.head.kind, model.encoder.size
    pipeline, answer = _ANSWERS[kind]
    yield from ("---", "library_name: transformers", f"pipeline_tag: {pipeline}")
    yield from ("tags:", "- electra", "---", "", f"# ELECTRA for {kind}", "", answer, "")
    yield from _notes(settings)
    loading = loading_lines("path/of/this/folder", TASK_CLASSES[kind].name)
    yield from ("```python", *loading, "```", "")
    yield from size_lines(settings, size, parameters)
    if figures is None:
        yield OTHER_ORIGIN
        return
    yield from ("## Training", "", f"Fine-tuned by electra_ref {__version__} up to step {step:,}.")
    yield ""
    yield from table_lines(("setting", "value"), {key: getattr(settings, key) for key in _SETTINGS})
    if figures.evaluation:
        yield from ("## Scores on the development data", "")
        yield from table_lines(("score", "value"), figures.evaluation)


def _notes(settings: FinetuningConfig) -> Iterator[str]:
    """Yield what to know of the outputs."""
    if isinstance(settings, ClassificationConfig) and settings.multi_label:
        yield from ("It has each label whose output is above 0: any number of them.", "")
    if isinstance(settings, RegressionConfig):
        low, width = settings.lowest_score, settings.highest_score - settings.lowest_score
        if (low, width) != (0.0, 1.0):
            yield from (f"The score is {low:g} + {width:g} x the output of the model.", "")
