"""The objectives by their names in the configuration. A new one is a file and a line here."""

from __future__ import annotations

from collections.abc import Mapping

from electra_ref.config.objective import ObjectiveConfig
from electra_ref.model.objectives import Objective, all_tokens_mlm, electra, mlm, replace_mlm

OBJECTIVES: Mapping[str, Objective] = {
    "electra": electra,
    "electra-15": electra,
    "mlm": mlm,
    "replace-mlm": replace_mlm,
    "all-tokens-mlm": all_tokens_mlm,
}


def objective_of(settings: ObjectiveConfig) -> Objective:
    """Return the objective that ``settings`` name."""
    return OBJECTIVES[settings.objective]
