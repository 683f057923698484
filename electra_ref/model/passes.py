"""A forward and a backward pass: operations by the names of their parameters.

An operation called ``name`` reads ``<name>.weight`` and ``<name>.bias``; its backward function adds
to their gradients. Formulas and shapes: ``backends.reference``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from electra_ref.arrays import Array
from electra_ref.backends import Backend, Bits, Cache
from electra_ref.gradient import GradientSum
from electra_ref.model.networks import Network
from electra_ref.model.parameters import FlatParameters, Gradients, ParameterSpec
from electra_ref.rng import Purpose, RandomStream


def linear_specs(
    name: str, inputs: int, outputs: int, initializer: str = "truncated_normal"
) -> Iterator[ParameterSpec]:
    """Yield the specs of an affine map."""
    yield ParameterSpec(f"{name}.weight", (inputs, outputs), initializer, decays=True)
    yield ParameterSpec(f"{name}.bias", (outputs,), "zeros", decays=False)


def layer_norm_specs(name: str, width: int) -> Iterator[ParameterSpec]:
    """Yield the specs of a layer norm: gamma, then beta."""
    yield ParameterSpec(f"{name}.weight", (width,), "ones", decays=False)
    yield ParameterSpec(f"{name}.bias", (width,), "zeros", decays=False)


class ForwardPass(NamedTuple):
    """What a forward pass reads besides its input."""

    backend: Backend
    parameters: FlatParameters
    stream: RandomStream | None  # names step and examples of dropout's bits; None drops nothing
    with_caches: bool = True  # False where no backward pass follows

    def linear(self, name: str, x: Array) -> tuple[Array, Cache]:
        """Return x W + b (N, outputs) for ``x`` (N, inputs)."""
        return self.backend.linear(x, *self._pair(name))

    def layer_norm(self, name: str, x: Array, eps: float) -> tuple[Array, Cache]:
        """Return the normalized rows of ``x`` (N, C)."""
        return self.backend.layer_norm(x, *self._pair(name), eps)

    def dropout_add_layer_norm(
        self, name: str, x: Array, residual: Array, bits: Bits, rate: float, eps: float
    ) -> tuple[Array, Cache]:
        """Return layer_norm(residual + dropout(x)); all are (N, C)."""
        return self.backend.dropout_add_layer_norm(
            x, residual, *self._pair(name), bits, rate, eps, self.with_caches
        )

    def dropout_bits(
        self, network: Network, site: int, examples: int, count: int, rate: float
    ) -> Bits:
        """Return the random bits of a ``site`` of ``network``, ``count`` for each of ``examples``.

        None, which drops nothing, where the ``rate`` is 0 and in evaluation.
        """
        if self.stream is None or rate == 0.0:
            return None
        purpose = Purpose.DROPOUT + network.first_site + site
        stream = self.stream._replace(purpose=purpose)
        return self.backend.dropout_bits(stream, examples, count)

    def _pair(self, name: str) -> tuple[Array, Array]:
        return self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]


class BackwardPass(NamedTuple):
    """Where a backward pass adds up the gradients of the parameters."""

    backend: Backend
    gradients: Gradients

    def linear(
        self, name: str, dy: Array, cache: Cache, dx_elsewhere: Array | None = None
    ) -> Array:
        """Return dx (N, inputs) for ``dy`` (N, outputs), plus ``dx_elsewhere`` (N, inputs)."""
        return self.backend.linear_backward(dy, cache, *self._pair(name), dx_elsewhere)

    def layer_norm(self, name: str, dy: Array, cache: Cache) -> Array:
        """Return dx (N, C) for ``dy`` (N, C)."""
        return self.backend.layer_norm_backward(dy, cache, *self._pair(name))

    def dropout_add_layer_norm(self, name: str, dy: Array, cache: Cache) -> tuple[Array, Array]:
        """Return (dx, dresidual) for ``dy``; all are (N, C)."""
        return self.backend.dropout_add_layer_norm_backward(dy, cache, *self._pair(name))

    def _pair(self, name: str) -> tuple[GradientSum, GradientSum]:
        return self.gradients.sum_of(f"{name}.weight"), self.gradients.sum_of(f"{name}.bias")
