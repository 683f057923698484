"""The one table of all parameters, and the flat vector that holds them.

Names, sizes, initial values, weight decay, checkpoint keys and the ids of tests all come from
``parameter_specs``. The table is sorted so that the parameters that decay come first: the
optimizer then makes two calls, whatever the number of layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.arrays import Array
from electra_ref.config import Config, EncoderSize, discriminator_size, generator_size
from electra_ref.rng import Purpose, RandomStream, random_words

WORD_EMBEDDINGS = "embeddings.word_embeddings.weight"
POSITION_EMBEDDINGS = "embeddings.position_embeddings.weight"
TOKEN_TYPE_EMBEDDINGS = "embeddings.token_type_embeddings.weight"


class ParameterSpec(NamedTuple):
    """One parameter: its name, shape, initial values, and whether weight decay applies."""

    name: str
    shape: tuple[int, ...]
    initializer: str  # "truncated_normal", "glorot_uniform", "zeros" or "ones"
    decays: bool


def parameter_specs(config: Config) -> list[ParameterSpec]:
    """Return the specs of embeddings, generator and discriminator, those that decay first."""
    embedding_size = config.embedding_size
    specs = [
        _matrix(WORD_EMBEDDINGS, config.vocab_size, embedding_size),
        _matrix(POSITION_EMBEDDINGS, config.max_position_embeddings, embedding_size),
        _matrix(TOKEN_TYPE_EMBEDDINGS, config.type_vocab_size, embedding_size),
        *_layer_norm("embeddings.layer_norm", embedding_size),
    ]
    generator, discriminator = generator_size(config), discriminator_size(config)
    specs += _encoder("generator", generator, embedding_size)
    specs += _linear("generator.head.dense", generator.hidden_size, embedding_size)
    specs += _layer_norm("generator.head.layer_norm", embedding_size)
    specs += [ParameterSpec("generator.head.output.bias", (config.vocab_size,), "zeros", False)]
    specs += _encoder("discriminator", discriminator, embedding_size)
    width = discriminator.hidden_size
    specs += _linear("discriminator.head.dense", width, width)
    specs += _linear("discriminator.head.output", width, 1, "glorot_uniform")
    return sorted(specs, key=lambda spec: not spec.decays)  # stable: the order above within each


def _encoder(network: str, size: EncoderSize, embedding_size: int) -> Iterator[ParameterSpec]:
    width = size.hidden_size
    if width != embedding_size:
        yield from _linear(f"{network}.embeddings_project", embedding_size, width, "glorot_uniform")
    for i in range(size.num_hidden_layers):
        layer = f"{network}.layer.{i}"
        yield from _linear(f"{layer}.attention.query_key_value", width, 3 * width)
        yield from _linear(f"{layer}.attention.output", width, width)
        yield from _layer_norm(f"{layer}.attention.layer_norm", width)
        yield from _linear(f"{layer}.intermediate", width, size.intermediate_size)
        yield from _linear(f"{layer}.output", size.intermediate_size, width)
        yield from _layer_norm(f"{layer}.layer_norm", width)


def _matrix(
    name: str, rows: int, columns: int, initializer: str = "truncated_normal"
) -> ParameterSpec:
    return ParameterSpec(name, (rows, columns), initializer, True)


def _linear(
    name: str, inputs: int, outputs: int, initializer: str = "truncated_normal"
) -> Iterator[ParameterSpec]:
    yield _matrix(f"{name}.weight", inputs, outputs, initializer)
    yield ParameterSpec(f"{name}.bias", (outputs,), "zeros", False)


def _layer_norm(name: str, width: int) -> Iterator[ParameterSpec]:
    yield ParameterSpec(f"{name}.weight", (width,), "ones", False)
    yield ParameterSpec(f"{name}.bias", (width,), "zeros", False)


class FlatParameters:
    """One flat vector and a named view into it for every spec."""

    def __init__(self, specs: list[ParameterSpec], vector: Array) -> None:
        sizes = [math.prod(spec.shape) for spec in specs]
        if vector.shape != (sum(sizes),):
            raise ValueError(f"{sum(sizes)} parameters do not fit a vector {vector.shape}")
        ends = np.cumsum(sizes).tolist()
        self.specs = specs
        self.vector = vector  # (P,)
        self.decayed = sum(size for size, spec in zip(sizes, specs, strict=True) if spec.decays)
        self.views: Mapping[str, Array] = {
            spec.name: vector[end - size : end].reshape(spec.shape)
            for spec, size, end in zip(specs, sizes, ends, strict=True)
        }

    def __getitem__(self, name: str) -> Array:
        return self.views[name]


class FlatGradients(FlatParameters):
    """The twin of the parameters: each gradient is set by its first part and added to by others.

    The embeddings are used by both networks and again as the generator's output matrix, and
    every parameter once a micro-batch: the parts add up. ``restart`` begins a new step; a
    parameter that no part reached keeps the old value, so tests fill the vector with NaN first.
    """

    def __init__(self, specs: list[ParameterSpec], vector: Array) -> None:
        super().__init__(specs, vector)
        self._started: set[str] = set()

    def restart(self) -> None:
        """Let the next part of each gradient replace what is there."""
        self._started.clear()

    def add(self, name: str, part: Array) -> None:
        """Add ``part`` to the gradient of ``name``; both have the parameter's shape."""
        view = self.views[name]
        if name in self._started:
            view += part
        else:
            view[...] = part
            self._started.add(name)


def initial_values(
    specs: list[ParameterSpec], config: Config, dtype: npt.DTypeLike = np.float64
) -> Array:
    """Return the flat vector (P,) of initial values, float64 rounded to ``dtype``.

    They are the same for every backend. One tensor at a time is held in float64: all of them take
    as much memory as the parameters, the gradients and one moment of a run.

    Truncated normal: standard deviation ``initializer_range``, cut at two of it, not rescaled
    (TensorFlow's ``truncated_normal_initializer``), by the inverse distribution function.
    Glorot uniform: +-sqrt(6 / (inputs + outputs)), Glorot and Bengio 2010, equation 16. Where the
    original uses which: google-research/electra model/modeling.py (``create_initializer``; layers
    without one take TensorFlow's default, glorot uniform).
    """
    vector = np.empty(sum(math.prod(spec.shape) for spec in specs), dtype)
    views = FlatParameters(specs, vector).views
    for number, spec in enumerate(specs):
        views[spec.name][...] = _initial_tensor(spec, number, config)
    return vector


def _initial_tensor(spec: ParameterSpec, number: int, config: Config) -> npt.NDArray[np.float64]:
    if spec.initializer == "zeros":
        return np.zeros(spec.shape)
    if spec.initializer == "ones":
        return np.ones(spec.shape)
    uniform = _uniform(config.seed, number, math.prod(spec.shape)).reshape(spec.shape)
    if spec.initializer == "glorot_uniform":
        limit = math.sqrt(6.0 / sum(spec.shape))
        return limit * (2.0 * uniform - 1.0)
    from scipy.special import ndtr, ndtri  # noqa: PLC0415  (slow to import, needed once a run)

    low, high = ndtr(-2.0), ndtr(2.0)
    cut_normal: npt.NDArray[np.float64] = ndtri(low + (high - low) * uniform)
    cut_normal *= config.initializer_range
    return cut_normal


def _uniform(seed: int, number: int, count: int) -> npt.NDArray[np.float64]:
    """Return ``count`` doubles inside (0, 1), stream ``number`` of the seed's initial values."""
    stream = RandomStream(seed, Purpose.INITIALIZE, step=0, first_example=number)
    words = random_words(stream, 1, count)[0]
    uniform: npt.NDArray[np.float64] = (words + 0.5) * 2.0**-32
    return uniform
