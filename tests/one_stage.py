"""What the small objectives of the tests have in common with each other: all steps are alike."""

from __future__ import annotations

from typing import Any

from electra_ref.batch import Batch
from electra_ref.model.networks import Networks
from electra_ref.model.objectives.one_stage import begin_step, unchanged
from electra_ref.model.passes import ForwardPass
from electra_ref.rng import RandomStream


class OneStage:
    """The functions of ``Objective`` that a test does not ask for."""

    begin_step = staticmethod(begin_step)
    unchanged = staticmethod(unchanged)

    def model_of(self, config: Any, settings: Any, special_tokens: Any) -> Any:
        raise NotImplementedError

    def networks_of(self, model: Any) -> Networks:
        raise NotImplementedError

    def at_step(self, model: Any, step: int) -> Any:
        del step
        return model

    def evaluate(self, run: ForwardPass, model: Any, batch: Batch, stream: RandomStream) -> Any:
        raise NotImplementedError
