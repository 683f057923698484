"""From files to a model that answers: a task that must be learned, and broken gradients that fail.

The tasks are those that ``small_finetuning`` makes. In all of them an answer depends on something
that stands elsewhere, so a head on an encoder that does not learn has little to go by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from electra_ref.model.objectives import fine_tuning
from electra_ref.training.finetuning.tasks import tagging
from electra_ref.training.finetuning.word_rows import WordRow, word_rows
from tests.small_finetuning import (
    held_out,
    run_finetune,
    write_encoder,
    write_examples,
    write_roles,
)

SETTINGS: dict[str, Any] = {
    "batch_size": 16, "learning_rate": 3e-3, "lr_decay_power": 0.0, "layerwise_decay": 1.0,
    "hidden_dropout": 0.0, "attention_dropout": 0.0, "evaluate_every": 50,
}  # fmt: skip
STEADY: dict[str, Any] = {"batch_size": 8, "lr_decay_power": 1.0}
NO_DROPOUT = {"head_dropout": 0.0}  # the original's heads for tags and spans have none
CLS = {"head": "original", **NO_DROPOUT}  # small models read the mean if nothing is said


class Case(NamedTuple):
    """A task, what ``SETTINGS`` lack for it, and a score of 0 to ``best``."""

    kind: str
    settings: Mapping[str, Any]
    score: str
    best: float = 1.0


CASES = {
    "tagging": Case("tagging", {"epochs": 6}, "accuracy"),
    "roles": Case("tagging", {"epochs": 4}, "f1"),
    "multiple-choice": Case("multiple-choice", {"epochs": 1, **CLS}, "accuracy"),
    "classification": Case("classification", {"epochs": 2, **CLS}, "accuracy"),
    "regression": Case(
        "regression",
        {"epochs": 3, "learning_rate": 2e-3, "highest_score": 6.0, **STEADY, **CLS},
        "pearson",
    ),
    "spans": Case("span-extraction", {"epochs": 2, "learning_rate": 1e-3, **STEADY}, "exact", 100),
}
CASES["huggingface spans"] = CASES["spans"]._replace(
    settings={**CASES["spans"].settings, "head": "huggingface"}
)
CASES["all layers"] = CASES["classification"]._replace(
    settings={**CASES["classification"].settings, "head": "layers"}
)
BROKEN: dict[str, Callable[[Any], Any]] = {
    "no gradient": lambda gradient: 0.0 * gradient,
    "the other sign": lambda gradient: -gradient,
}

pytestmark = pytest.mark.usefixtures("quick")


def score_of(name: str, folder: Path) -> float:
    """Train on 400 examples; return the share of the best score that 60 others have."""
    kind, settings, score, best = CASES[name]
    write = write_roles if name == "roles" else partial(write_examples, kind=kind)
    model = write_encoder(folder / "model")
    train = write(folder / "train", count=400, seed=0)
    dev = write(folder / "dev", count=60, seed=1)
    assert run_finetune(model, kind, train, dev, folder / "run", **{**SETTINGS, **settings}) == 0
    return float(held_out(folder / "run")[-1][score]) / best


@pytest.mark.parametrize("name", CASES)
def test_a_small_model_learns(name: str, tmp_path: Path) -> None:
    assert score_of(name, tmp_path) > 0.95


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("tagging", "no gradient"),
        ("spans", "the other sign"),
        *(
            pytest.param(name, "no gradient", marks=pytest.mark.slow)
            for name in ("roles", "classification", "spans", "huggingface spans")
        ),
        *(
            pytest.param(name, "the other sign", marks=pytest.mark.slow)
            for name in CASES
            if name != "spans"
        ),
    ],  # of choices and numbers, a head learns enough from random hidden states
)
def test_with_a_broken_gradient_of_the_encoder_it_does_not(
    name: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = fine_tuning.encode_backward  # type: ignore[attr-defined]

    def encode_backward(run: Any, encoder: Any, gradient: Any, cache: Any) -> None:
        original(run, encoder, BROKEN[how](gradient), cache)

    monkeypatch.setattr(fine_tuning, "encode_backward", encode_backward)
    assert score_of(name, tmp_path) < 0.75


def test_only_the_segment_tells_whose_roles_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_segments(*given: Any) -> Iterator[WordRow]:
        for row, words, positions in word_rows(*given):
            yield WordRow(row._replace(segments=0 * row.segments), words, positions)

    monkeypatch.setattr(tagging, "word_rows", without_segments)
    assert score_of("roles", tmp_path) < 0.75
