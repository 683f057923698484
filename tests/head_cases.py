"""Every task head as a problem: what it is asked, and the targets it learns from.

A new head adds its cases here. ``test_task_heads`` proves the gradient of each, on two backends,
and ``test_mutants`` breaks its backward functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from electra_ref.batch import Batch
from electra_ref.model.heads.choice import ChoiceTargets
from electra_ref.model.heads.classification import LabelSetTargets, LabelTargets
from electra_ref.model.heads.regression import ScoreTargets
from electra_ref.model.heads.tagging import TagTargets
from tests.task_heads import DrawTargets, make_head_problem
from tests.variants import VariantProblem

FORMS: tuple[str, ...] = ("original", "huggingface")
FORMS_FOR_ROWS = (*FORMS, "layers")
LABELS = 3
CHOICE_LENGTHS = (9, 6, 3, 7, 8, 5, 4)  # of the rows of a question with four choices, and of three

TAG_POSITIONS = np.array([[1, 3, 4, 7], [2, 4, 0, 0], [0, 0, 0, 0], [1, 2, 5, 0]], np.int32)
IS_WORD = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]], bool)
WITHOUT_TAG = (0, 2)  # a word whose tag is not known


class HeadCase(NamedTuple):
    """A head and its targets."""

    kind: str
    outputs: int
    draw: DrawTargets
    settings: Mapping[str, Any] = {}  # of ``make_head_problem``
    forms: tuple[str, ...] = FORMS


def draw_labels(random: np.random.Generator, tokens: Batch) -> LabelTargets:
    rows = len(tokens.input_ids)
    weights = np.arange(rows) != 1
    return LabelTargets(random.integers(0, LABELS, rows).astype(np.int32), weights)


def draw_label_sets(random: np.random.Generator, tokens: Batch) -> LabelSetTargets:
    rows = len(tokens.input_ids)
    has_label = random.integers(0, 2, (rows, LABELS)).astype(np.float32)
    return LabelSetTargets(has_label, np.arange(rows) != 1)


def draw_scores(random: np.random.Generator, tokens: Batch) -> ScoreTargets:
    rows = len(tokens.input_ids)
    return ScoreTargets(random.random(rows).astype(np.float32), np.arange(rows) != 1)


def draw_choices(random: np.random.Generator, tokens: Batch) -> ChoiceTargets:
    """Return questions of four and three choices; all rows are needed."""
    del random
    assert len(tokens.input_ids) == 7
    rows = np.array([[0, 1, 2, 3], [4, 5, 6, 0]], np.int32)
    is_choice = np.array([[True] * 4, [True] * 3 + [False]])
    return ChoiceTargets(rows, is_choice, np.array([1, 2], np.int32), np.ones(2, bool))


def draw_tags(random: np.random.Generator, tokens: Batch) -> TagTargets:
    """Return tags for words of four rows; one row has no word, one word has no tag."""
    assert (TAG_POSITIONS.max(axis=1) < tokens.attention_mask.sum(axis=1)).all()
    weights = IS_WORD.copy()
    weights[WITHOUT_TAG] = False
    labels = np.where(weights, random.integers(0, LABELS, weights.shape), 0).astype(np.int32)
    return TagTargets(TAG_POSITIONS, labels, weights)


HEAD_CASES = {
    "labels": HeadCase("classification", LABELS, draw_labels, forms=FORMS_FOR_ROWS),
    "label sets": HeadCase("classification", LABELS, draw_label_sets, forms=FORMS_FOR_ROWS),
    "scores": HeadCase("regression", 1, draw_scores, forms=FORMS_FOR_ROWS),
    "choices": HeadCase(
        "multiple-choice",
        1,
        draw_choices,
        {"lengths": CHOICE_LENGTHS, "shifts": {"task.output.bias": "task.output.weight"}},
        FORMS_FOR_ROWS,
    ),
    "tags": HeadCase("tagging", LABELS, draw_tags),
}
CASES_AND_FORMS = [(name, form) for name, case in HEAD_CASES.items() for form in case.forms]


def problem_of(name: str, form: str, **changes: Any) -> VariantProblem:
    """Return the problem of a case, with other settings of ``make_head_problem``.

    A head that reads all layers has two, so that there is one in the middle.
    """
    case = HEAD_CASES[name]
    layers = {"num_hidden_layers": 2} if form == "layers" else {}
    settings = {**case.settings, **layers, **changes}
    return make_head_problem(case.kind, form, case.outputs, case.draw, **settings)
