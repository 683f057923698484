"""From files to a model that answers: a task that must be learned, and broken gradients that fail.

Two of the tasks that ``small_finetuning`` makes: a tag says how a word and the first word go
together, a choice is right if it goes with the question.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from electra_ref.model.objectives import fine_tuning
from tests.small_finetuning import held_out, run_finetune, write_encoder, write_examples

EPOCHS = {"tagging": 6, "multiple-choice": 1}
BROKEN: dict[str, Callable[[Any], Any]] = {
    "no gradient": lambda gradient: 0.0 * gradient,
    "the other sign": lambda gradient: -gradient,
}

pytestmark = pytest.mark.usefixtures("quick")


def score_of(kind: str, folder: Path) -> float:
    """Train on 400 examples; return the share of right answers to 60 others."""
    model = write_encoder(folder / "model")
    train = write_examples(folder / "train", kind, 400, 0)
    dev = write_examples(folder / "dev", kind, 60, 1)
    rates = {"learning_rate": 3e-3, "lr_decay_power": 0.0, "layerwise_decay": 1.0}
    dropout = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "head_dropout": 0.0}
    settings: dict[str, Any] = {"batch_size": 16, "epochs": EPOCHS[kind], **rates, **dropout}
    assert run_finetune(model, kind, train, dev, folder / "run", **settings) == 0
    return float(held_out(folder / "run")[-1]["accuracy"])


@pytest.mark.parametrize("kind", EPOCHS)
def test_a_small_model_learns(kind: str, tmp_path: Path) -> None:
    assert score_of(kind, tmp_path) > 0.95


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("tagging", "no gradient"),
        ("tagging", "the other sign"),
        ("multiple-choice", "the other sign"),  # a head on a random encoder learns this one
    ],
)
def test_with_a_broken_gradient_of_the_encoder_it_does_not(
    kind: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = fine_tuning.encode_backward  # type: ignore[attr-defined]

    def encode_backward(run: Any, encoder: Any, gradient: Any, cache: Any) -> None:
        original(run, encoder, BROKEN[how](gradient), cache)

    monkeypatch.setattr(fine_tuning, "encode_backward", encode_backward)
    assert score_of(kind, tmp_path) < 0.75
