"""Losses as terms: their total, their means and the scale of their gradients.

    L = sum over the terms of weight * sum / count

The sums are divided once, by the counts of the whole optimizer step, so that micro-batches and
processes add up to the gradient of one batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from electra_ref.arrays import Array

Counts = Mapping[str, int]  # by the name of a term: how many places its sum is taken over


class LossTerm(NamedTuple):
    """One loss of one micro-batch, or of many."""

    name: str
    sum: Array | float  # ()  over all places that count
    places: int  # how many these are
    weight: float  # of the mean in the total loss


def add_counts(parts: Iterable[Counts]) -> Counts:
    """Return the counts of an optimizer step from those of its micro-batches."""
    total: Counter[str] = Counter()
    for counts in parts:
        total.update(counts)
    return total


def add_terms(parts: Iterable[Sequence[LossTerm]]) -> list[LossTerm]:
    """Return the terms of many micro-batches as one, their sums as floats."""
    total: dict[str, LossTerm] = {}
    for term in (term for terms in parts for term in terms):
        before = total.get(term.name, term._replace(sum=0.0, places=0))
        sums = before.sum + float(term.sum), before.places + term.places
        total[term.name] = LossTerm(term.name, *sums, term.weight)
    return list(total.values())


def mean_losses(terms: Iterable[LossTerm]) -> dict[str, float]:
    """Return the mean of each term by the name it is logged under; 0 where no place counts."""
    return {f"{term.name}_loss": float(term.sum) / max(term.places, 1) for term in terms}


def total_loss(terms: Iterable[LossTerm]) -> Array:
    """Return the weighted sum () of the means."""
    total: Any = sum(t.sum * gradient_scale(t, {t.name: t.places}) for t in terms)
    return total  # type: ignore[no-any-return]  # 0 for no terms


def gradient_scale(term: LossTerm, counts: Counts) -> float:
    """Return the derivative of the total loss by the sum of ``term``, given the step's counts."""
    return term.weight / max(counts[term.name], 1)
