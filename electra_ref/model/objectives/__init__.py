"""What a model is trained to do. An objective is a module with the functions of ``Objective``.

A training step asks for the counts, runs forward and backward a micro-batch at a time, and knows
nothing else of its objective.
"""

from __future__ import annotations

from typing import Any, Protocol

from electra_ref.batch import Batch
from electra_ref.model.losses import Counts
from electra_ref.model.parameters import ParameterSpec
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.rng import RandomStream

Model = Any  # what the objective needs to know besides parameters; only it looks inside
Output = Any  # what its forward pass yields: ``terms``, and what its evaluation reads
Cache = Any  # what its backward pass needs


class Objective(Protocol):
    """The functions of an objective; the arrays of ``batch`` are on the host."""

    def parameter_specs(self, model: Model) -> list[ParameterSpec]: ...
    def count_losses(self, model: Model, batch: Batch) -> Counts: ...
    def forward(
        self, run: ForwardPass, model: Model, batch: Batch, stream: RandomStream
    ) -> tuple[Output, Cache]: ...
    def backward(self, run: BackwardPass, model: Model, counts: Counts, cache: Cache) -> None: ...
