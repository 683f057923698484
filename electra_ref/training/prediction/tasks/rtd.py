"""Which tokens are replaced: the discriminator's logit of each token.

    probability of "replaced" = sigmoid(logit)

A logit above 0 says "replaced". [CLS] and [SEP] have logits, too; no generator replaces them.
Source: Clark et al. 2020, arXiv:2003.10555, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from electra_ref.batch import Batch
from electra_ref.model.inference import detection_logits
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.prediction.examples import Example
from electra_ref.training.prediction.task import Model, Positions, check_finite
from electra_ref.training.prediction.view import (
    RED,
    Cell,
    Style,
    dimmed,
    shown_texts,
    shown_words,
    wrapped,
)
from electra_ref.training.saved_model import Part

PART: Part = "discriminator"
RECOGNIZES_MASK = False
MOST_ANSWERS = 1 << 30  # one number each: the tokens of a batch limit them
WORDS_SHOWN = 5


def wanted(example: Example, tokenizer: WordPiece) -> npt.NDArray[np.bool_]:
    """Return that all tokens have an answer, [CLS] and [SEP] as well."""
    del tokenizer
    return np.ones(example.ids.size, bool)


def answers(model: Model, batch: Batch, positions: Positions) -> list[list[float]]:
    """Return the logits (B, M) at ``positions``."""
    run = model.run
    on_device = Batch(*map(run.backend.to_device, batch))
    logits = run.backend.to_host(detection_logits(run, model.network, on_device))
    chosen = np.take_along_axis(logits.reshape(batch.input_ids.shape), positions, axis=1)
    check_finite(chosen)
    # the shortest decimal number that names the float; a float32 has 9 digits at most
    rows: list[list[float]] = chosen.astype("U").astype(np.float64).tolist()
    return rows


def numbers(model: Model) -> int:
    """Return 1: an answer is a logit."""
    del model
    return 1


def result(model: Model, example: Example, answers: list[float]) -> dict[str, Any]:
    """Return a logit for each token, and where the token stands in its text."""
    del model
    found: dict[str, Any] = {
        "tokens": example.tokens,
        "ids": example.ids.tolist(),
        "offsets": example.offsets,
    }
    if example.is_pair:
        found["texts"] = example.text_numbers()
    return {**found, "logits": answers}


def view(example: Example, result: dict[str, Any], style: Style) -> Iterator[str]:
    """Yield the texts, with the replaced tokens marked and coloured, and their probabilities."""
    probabilities = [_sigmoid(logit) for logit in result["logits"]]
    named: list[tuple[float, str]] = []
    for text in shown_texts(example):
        cells = []
        for place, shown, follows in text:
            replaced = probabilities[place] > 0.5
            cells.append(Cell(shown, "^" if replaced else " ", RED if replaced else "", follows))
            named.append((probabilities[place], shown))
        yield from wrapped(cells, style)
    found = [(shown, p) for p, shown in named if p > 0.5]
    if found:
        yield from dimmed(f"replaced: {shown_words(found, WORDS_SHOWN)}", style)
    elif named:
        highest, shown = max(named, key=lambda pair: pair[0])
        yield from dimmed(f"none above 0.5; the highest: {shown_words([(shown, highest)])}", style)


def _sigmoid(logit: float) -> float:
    return 0.5 * (1.0 + math.tanh(0.5 * logit))
