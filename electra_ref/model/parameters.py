"""The one table of all parameters, and the flat vector that holds them.

Names, sizes, initial values, weight decay, checkpoint keys and the ids of tests all come from the
specs of the networks and heads in use. The table is sorted so that parameters which the optimizer
treats alike stand side by side: it makes one call a group, whatever the number of layers.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Array
from electra_ref.gradient import GradientSum
from electra_ref.model.initial_attention import neighbour_projections, sinusoids
from electra_ref.rng import Purpose, RandomStream, random_words


class ParameterSpec(NamedTuple):
    """One parameter: its name and shape, its initial values, and how the optimizer moves it."""

    name: str
    shape: tuple[int, ...]
    initializer: str  # see ``initial_values``
    decays: bool  # whether weight decay applies
    rate_scale: float = 1.0  # multiplies the learning rate
    heads: int = 0  # of attention, for the initializer "neighbours"


class ParameterGroup(NamedTuple):
    """Parameters that stand side by side and are moved alike."""

    part: slice  # of the flat vector
    decays: bool
    rate_scale: float


def parameter_table(parts: Iterable[Iterable[ParameterSpec]]) -> list[ParameterSpec]:
    """Return the specs of all ``parts``, those that decay first; a shared parameter stands once.

    Raises ValueError if two parts have one name for different parameters.
    """
    table: dict[str, ParameterSpec] = {}
    for spec in itertools.chain.from_iterable(parts):
        if table.setdefault(spec.name, spec) != spec:
            raise ValueError(f"{spec.name} is both {table[spec.name]} and {spec}")
    return sorted(table.values(), key=lambda spec: (not spec.decays, spec.rate_scale))  # stable


class FlatParameters:
    """One flat vector and a named view into it for every spec."""

    def __init__(self, specs: Sequence[ParameterSpec], vector: Array) -> None:
        sizes = [math.prod(spec.shape) for spec in specs]
        if vector.shape != (sum(sizes),):
            raise ValueError(f"{sum(sizes)} parameters do not fit a vector {vector.shape}")
        self.specs = specs
        self.vector = vector  # (P,)
        self.ends = np.cumsum(sizes).tolist()
        self.views: Mapping[str, Array] = {
            spec.name: vector[end - size : end].reshape(spec.shape)
            for spec, size, end in zip(specs, sizes, self.ends, strict=True)
        }

    def __getitem__(self, name: str) -> Array:
        return self.views[name]

    def groups(self, unchanged: Container[str] = ()) -> list[ParameterGroup]:
        """Return the groups of the optimizer; each is as long as the order of the specs allows.

        Parameters whose names are in ``unchanged`` are in none.
        """
        groups, start = [], 0
        pairs = zip(self.specs, self.ends, strict=True)
        for (alike, stays), members in itertools.groupby(
            pairs, lambda pair: (pair[0][3:5], pair[0].name in unchanged)
        ):
            *_, (_, end) = members
            if not stays:
                groups.append(ParameterGroup(slice(start, end), *alike))
            start = end
        return groups


class Gradients(FlatParameters):
    """The twin of the parameters: the gradient of one micro-batch, which is summed in place."""

    def __init__(self, specs: Sequence[ParameterSpec], vector: Array) -> None:
        super().__init__(specs, vector)
        self._written: set[str] = set()

    def restart(self) -> None:
        """Begin a new sum: what the vector holds no longer counts."""
        self._written.clear()

    def sum_of(self, name: str) -> GradientSum:
        """Return where the next part of the gradient of ``name`` goes; the caller must add it."""
        is_empty = name not in self._written
        self._written.add(name)
        return GradientSum(self.views[name], is_empty)

    def complete(self) -> None:
        """Let all parameters count as having a gradient: these come from elsewhere."""
        self._written.update(self.views)

    def require_complete(self) -> None:
        """Raise ValueError if a parameter got no part since the last ``restart``."""
        if missing := self.views.keys() - self._written:
            raise ValueError(f"no gradient was computed for {', '.join(sorted(missing))}")


def initial_values(
    specs: Sequence[ParameterSpec],
    seed: int,
    deviation: float,
    dtype: npt.DTypeLike = np.float64,
) -> Array:
    """Return the flat vector (P,) of initial values, float64 rounded to ``dtype``.

    They are the same for every backend. Those of a parameter follow from ``seed`` and its name, so
    that changing one network leaves the other as it was. One tensor at a time is held in float64.

    Truncated normal: standard deviation ``deviation``, cut at two of it, not rescaled
    (TensorFlow's ``truncated_normal_initializer``), by the inverse distribution function.
    Glorot uniform: +-sqrt(6 / (inputs + outputs)), Glorot and Bengio 2010, equation 16. Where the
    original uses which: google-research/electra model/modeling.py (``create_initializer``; layers
    without one take TensorFlow's default, glorot uniform).
    Zeros, ones. Sinusoids, and neighbours (queries and keys; values are as truncated normal): see
    ``initial_attention``.
    """
    vector = np.empty(sum(math.prod(spec.shape) for spec in specs), dtype)
    views = FlatParameters(specs, vector).views
    for spec in specs:
        views[spec.name][...] = _initial_tensor(spec, seed, deviation)
    return vector


def _initial_tensor(spec: ParameterSpec, seed: int, deviation: float) -> npt.NDArray[np.float64]:
    if spec.initializer in ("zeros", "ones"):
        return np.full(spec.shape, float(spec.initializer == "ones"))
    if spec.initializer == "sinusoids":
        positions, width = spec.shape
        return sinusoids(positions, width, deviation)
    uniform = _uniform(seed, spec.name, math.prod(spec.shape)).reshape(spec.shape)
    if spec.initializer == "glorot_uniform":
        limit = math.sqrt(6.0 / sum(spec.shape))
        return limit * (2.0 * uniform - 1.0)
    from scipy.special import ndtr, ndtri  # noqa: PLC0415  (slow to import, needed once a run)

    low, high = ndtr(-2.0), ndtr(2.0)
    cut_normal: npt.NDArray[np.float64] = ndtri(low + (high - low) * uniform)
    cut_normal *= deviation
    if spec.initializer == "neighbours":
        width, _ = spec.shape
        cut_normal[:, : 2 * width] = neighbour_projections(width, spec.heads)
    return cut_normal


def _uniform(seed: int, name: str, count: int) -> npt.NDArray[np.float64]:
    """Return ``count`` doubles inside (0, 1), from the stream of the parameter ``name``."""
    digest = hashlib.sha256(name.encode()).digest()
    step, example = (int.from_bytes(digest[i : i + 4], "little") for i in (0, 4))
    words = random_words(RandomStream(seed, Purpose.INITIALIZE, step, example), 1, count)[0]
    uniform: npt.NDArray[np.float64] = (words + 0.5) * 2.0**-32
    return uniform
