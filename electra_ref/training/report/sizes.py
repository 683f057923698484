"""Parameters of a run by network and part, and the FLOP of its steps."""

from __future__ import annotations

import math
from collections import Counter

from electra_ref.batch import SpecialTokens
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.model.objectives.table import objective_of
from electra_ref.training.pretraining.products import run_flop, step_flop

_ANY_TOKENS = SpecialTokens(0, 1, 2, 3, 4)  # shapes do not depend on their ids
_PARTS = ("embeddings", "head")
_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


def parameter_counts(config: PretrainingConfig) -> dict[str, int]:
    """Return how many parameters each part has, by names such as "generator: head".

    Embeddings without the name of a network are read by all that have none of their own. What is
    shared counts once. ``config.vocab_size`` must be known.
    """
    objective = objective_of(config)
    counts: Counter[str] = Counter()
    for spec in objective.parameter_specs(objective.model_of(config, config, _ANY_TOKENS)):
        counts[_part_of(spec.name)] += math.prod(spec.shape)
    return dict(sorted(counts.items(), key=lambda item: _place(item[0])))


def flop_counts(config: PretrainingConfig, done: int) -> dict[str, int]:
    """Return the FLOP of a step, of the first ``done`` steps and of all, by names for people.

    ``config.vocab_size`` must be known. A step is the one that comes after ``done`` steps.
    """
    return {
        "a step": step_flop(config, min(done, config.steps - 1)),
        "steps so far": run_flop(config, done),
        "all steps": run_flop(config),
    }


def format_flop(count: int) -> str:
    """Return "14.5 GFLOP" and the like."""
    if not count:
        return "0"
    thousands = min((len(str(count)) - 1) // 3, len(_PREFIXES) - 1)
    return f"{count / 1000**thousands:.3g} {_PREFIXES[thousands]}FLOP"


def _place(part: str) -> tuple[int, str]:
    """Return what to sort by: embeddings that are shared, then the generator, then the rest."""
    return (0 if part == "embeddings" else 1 if part.startswith("generator") else 2), part


def _part_of(parameter: str) -> str:
    network, part, *_ = parameter.split(".")
    if network == "embeddings":
        return network
    return f"{network}: {part if part in _PARTS else 'layers'}"
