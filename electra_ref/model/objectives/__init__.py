"""What a model is trained to do. An objective is a module with the functions of ``Objective``.

A training step asks what it is at that step, counts, runs forward and backward a micro-batch at a
time, and knows nothing else of its objective. ``table`` has the objectives by name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from electra_ref.batch import Batch, SpecialTokens
from electra_ref.config.model import ModelConfig
from electra_ref.config.objective import ObjectiveConfig
from electra_ref.model.losses import Counts
from electra_ref.model.networks import Networks
from electra_ref.model.parameters import FlatParameters, ParameterSpec
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.rng import RandomStream

Model = Any  # what the objective needs to know besides parameters; only it looks inside
Output = Any  # what its forward pass yields: ``terms``, and what its evaluation reads
Cache = Any  # what its backward pass needs


class Trainable(Protocol):
    """What a training step asks of an objective; the arrays of ``batch`` are on the host."""

    def parameter_specs(self, model: Model) -> list[ParameterSpec]: ...

    # A step: ``model`` as it is at that step, what changes before it, what it leaves as it is.
    def at_step(self, model: Model, step: int) -> Model: ...
    def begin_step(self, model: Model, step: int, parameters: FlatParameters) -> None: ...
    def unchanged(self, model: Model) -> Iterable[str]: ...

    def count_losses(self, model: Model, batch: Any) -> Counts: ...
    def forward(
        self, run: ForwardPass, model: Model, batch: Any, stream: RandomStream
    ) -> tuple[Output, Cache]: ...
    def backward(self, run: BackwardPass, model: Model, counts: Counts, cache: Cache) -> None: ...


class Objective(Trainable, Protocol):
    """The functions of an objective of pre-training, whose batches are rows of tokens."""

    def model_of(
        self, config: ModelConfig, settings: ObjectiveConfig, special_tokens: SpecialTokens
    ) -> Model: ...
    def networks_of(self, model: Model) -> Networks: ...  # what a trained model can be asked
    def evaluate(
        self, run: ForwardPass, model: Model, batch: Batch, stream: RandomStream
    ) -> Output: ...
