"""Which words fill each [MASK]: the generator's guesses, or those of a full-size encoder.

    probability of a word = softmax(logits)[word]          over the whole vocabulary

The special tokens are no fillings; their probabilities are not given to the others. Each mask is
guessed by itself: what fills one does not depend on what fills another.
Source: Clark et al. 2020, arXiv:2003.10555, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.batch import MASK, Batch
from electra_ref.model.inference import word_logits
from electra_ref.text.wordpiece import PREFIX, WordPiece
from electra_ref.training.prediction.examples import Example
from electra_ref.training.prediction.task import Model, Positions, check_finite
from electra_ref.training.prediction.view import (
    GREEN,
    Cell,
    Style,
    dimmed,
    shown_texts,
    shown_words,
    wrapped,
)
from electra_ref.training.saved_model import Part

PART: Part = "generator"
RECOGNIZES_MASK = True
MOST_ANSWERS = 512  # with 30,522 words in float32 their logits take 62 MB
DIGITS = 6  # of a probability


class Filling(NamedTuple):
    """A word that may stand behind a mask."""

    id: int
    probability: float


def wanted(example: Example, tokenizer: WordPiece) -> npt.NDArray[np.bool_]:
    """Return which tokens are masks."""
    return np.equal(example.ids, tokenizer.special_tokens.mask)


def answers(model: Model, batch: Batch, positions: Positions) -> list[list[list[Filling]]]:
    """Return the best fillings (B, M, k), the best one first."""
    run = model.run
    on_device = Batch(*map(run.backend.to_device, batch))
    logits = run.backend.to_host(
        word_logits(run, model.network, on_device, run.backend.to_device(positions))
    )
    check_finite(logits)
    special = np.array(model.tokenizer.special_tokens)
    best = [_best(row, special, model.top_k) for row in logits]
    count = positions.shape[1]
    return [best[start : start + count] for start in range(0, len(best), count)]


def numbers(model: Model) -> int:
    """Return how many words are wanted."""
    return model.top_k


def result(model: Model, example: Example, answers: list[list[Filling] | None]) -> dict[str, Any]:
    """Return the fillings of each mask, and each text with the best ones put in."""
    vocabulary = model.tokenizer.vocab
    masks = []
    for place, fillings in enumerate(answers):
        if fillings is None:
            continue
        mask: dict[str, Any] = {"offset": example.offsets[place]}
        if example.is_pair:
            mask["text"] = int(example.segments[place])
        mask["fillings"] = [
            {"token": vocabulary[one.id], "id": one.id, "probability": one.probability}
            for one in fillings
        ]
        masks.append(mask)
    found: dict[str, Any] = {"masks": masks}
    for number, text in enumerate(example.record.texts):
        if isinstance(text, str):
            own = [mask for mask in masks if mask.get("text", 0) == number]
            found["filled" if number == 0 else "filled_pair"] = _filled(text, own)
    return found


def view(example: Example, result: dict[str, Any], style: Style) -> Iterator[str]:
    """Yield the texts with the best fillings, marked and coloured, and all fillings below."""
    best = iter([mask["fillings"][0]["token"] for mask in result["masks"]])
    for text in shown_texts(example):
        cells = []
        for place, shown, follows in text:
            if example.tokens[place] == MASK:
                word = next(best)
                joined = follows or word.startswith(PREFIX)
                cells.append(Cell(word.removeprefix(PREFIX), "^", GREEN, joined))
            else:
                cells.append(Cell(shown, " ", "", follows))
        yield from wrapped(cells, style)
    for number, mask in enumerate(result["masks"], start=1):
        words = [(one["token"], one["probability"]) for one in mask["fillings"]]
        yield from dimmed(f"{number}: {shown_words(words)}", style)
    if example.tokens and not result["masks"]:
        yield from dimmed("no [MASK] to fill", style)


def _best(logits: npt.NDArray[Any], special: npt.NDArray[Any], count: int) -> list[Filling]:
    """Return the ``count`` words with the largest of the logits (V,); of equals the first ids."""
    exact = logits.astype(np.float64)
    largest = exact.max()
    log_sum = float(largest) + math.log(np.exp(exact - largest).sum())
    exact[special] = -np.inf
    count = min(count, exact.size - special.size)
    least = np.partition(exact, exact.size - count)[exact.size - count]
    candidates = np.flatnonzero(exact >= least)
    order = candidates[np.argsort(-exact[candidates], kind="stable")][:count]
    return [Filling(int(i), _shortened(math.exp(exact[i] - log_sum))) for i in order]


def _shortened(probability: float) -> float:
    return float(f"{probability:.{DIGITS}g}")


def _filled(text: str, masks: list[dict[str, Any]]) -> str:
    """Return ``text`` with the best fillings; a piece is joined to the word before it."""
    parts: list[str] = []
    start = 0
    for mask in masks:
        first, end = mask["offset"]
        best = mask["fillings"][0]["token"]
        before = text[start:first]
        if best.startswith(PREFIX):
            before = before.rstrip()
        parts += [before, best.removeprefix(PREFIX)]
        start = end
    return "".join([*parts, text[start:]])
