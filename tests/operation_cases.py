"""A random case of every differentiable operation, for any backend.

Hypothesis draws the structure (``SIZES``), a seeded generator draws the numbers. Hypothesis alone
would fill arrays with few distinct values, which test a layer norm badly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from electra_ref.backends import Backend
from electra_ref.gradient import GradientSum
from electra_ref.rng import Purpose, RandomStream
from tests.gradient_checks import Array, Forward

SEEDS = st.integers(0, 2**32 - 1)
SMOOTH_EPS = 1e-3  # of layer norm where finite differences are taken: 1e-12 bends too sharply
ELECTRA_EPS = 1e-12


class Sizes(NamedTuple):
    """The numbers that shapes are made of."""

    batch: int
    length: int
    heads: int
    head_width: int
    width: int
    outputs: int
    slots: int
    rate: float


SIZES = st.builds(
    Sizes,
    batch=st.integers(1, 3),
    length=st.integers(1, 6),
    heads=st.integers(1, 3),
    head_width=st.integers(1, 4),
    width=st.integers(4, 9),  # of layer norm: narrower rows are now and then almost constant
    outputs=st.integers(2, 7),
    slots=st.integers(1, 3),
    rate=st.sampled_from([0.0, 0.1, 0.5]),
)


class Case(NamedTuple):
    """An operation as a function of its float arrays alone; the rest is bound."""

    inputs: list[Array]  # float64
    forward: Forward
    # Takes dy, the cache and a sum for each parameter; returns the gradients of the activations.
    backward_into: Callable[..., Array | tuple[Array, ...] | None]
    parameters: int = 0  # how many of the last inputs are parameters

    def backward(self, dy: Array, cache: Any) -> tuple[Array, ...]:
        """Return all gradients, in the order of ``inputs``; the sums are empty and hold NaN."""
        return self.gradients(dy, cache, self.empty_sums(dy.dtype))

    def gradients(self, dy: Array, cache: Any, sums: list[GradientSum]) -> tuple[Array, ...]:
        """Return the gradients of the activations, and what ``sums`` hold after adding to them."""
        of_activations = self.backward_into(dy, cache, *sums)
        if of_activations is None:
            of_activations = ()
        elif not isinstance(of_activations, tuple):
            of_activations = (of_activations,)
        return (*of_activations, *(total.array for total in sums))

    def empty_sums(self, dtype: Any) -> list[GradientSum]:
        """Return a sum for each parameter, with NaN in the array: what it holds does not count."""
        shapes = [x.shape for x in self.inputs[len(self.inputs) - self.parameters :]]
        return [GradientSum(np.full(shape, np.nan, dtype), is_empty=True) for shape in shapes]


Draw = Callable[[Backend, Sizes, np.random.Generator, float], Case]


def _bits(backend: Backend, random: np.random.Generator, batch: int, size: int) -> Any:
    stream = RandomStream(int(random.integers(1 << 31)), Purpose.DROPOUT, 0)
    return backend.dropout_bits(stream, batch, size // batch)


def _linear_inputs(sizes: Sizes, random: np.random.Generator) -> list[Array]:
    shapes = (sizes.batch * sizes.length, sizes.width), (sizes.width, sizes.outputs)
    return [random.standard_normal(shape) for shape in (*shapes, (sizes.outputs,))]


def _linear(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    return Case(_linear_inputs(sizes, random), backend.linear, backend.linear_backward, 2)


def _linear_of_a_table(
    backend: Backend, sizes: Sizes, random: np.random.Generator, _: float
) -> Case:
    """The weight is the transpose of a table, whose gradient is wanted."""
    x, weight, bias = _linear_inputs(sizes, random)
    return Case(
        [x, weight.T.copy(), bias],
        lambda x, table, bias: backend.linear(x, table.T, bias),
        lambda dy, cache, dtable, dbias: backend.linear_backward(
            dy, cache, dtable.transpose(), dbias
        ),
        2,
    )


def _linear_beside_x(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    """x is read twice, as in a residual block: the result is y and x side by side."""

    def forward(x: Array, weight: Array, bias: Array) -> tuple[Array, Any]:
        y, cache = backend.linear(x, weight, bias)
        return np.concatenate([y, x], axis=1), cache

    def backward_into(dy: Array, cache: Any, dweight: GradientSum, dbias: GradientSum) -> Array:
        dy, dx_elsewhere = dy[:, : sizes.outputs], dy[:, sizes.outputs :]
        return backend.linear_backward(dy, cache, dweight, dbias, dx_elsewhere)

    return Case(_linear_inputs(sizes, random), forward, backward_into, 2)


def _embed(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    heights = sizes.outputs, sizes.length + sizes.slots, 2
    inputs = [random.standard_normal((height, sizes.width)) for height in heights]
    ids = random.integers(0, sizes.outputs, (sizes.batch, sizes.length))
    types = random.integers(0, 2, (sizes.batch, sizes.length))
    forward = lambda w, p, s: backend.embed(w, p, s, ids, types)  # noqa: E731
    return Case(inputs, forward, backend.embed_backward, 3)


def _layer_norm(backend: Backend, sizes: Sizes, random: np.random.Generator, eps: float) -> Case:
    shapes = (sizes.batch * sizes.length, sizes.width), (sizes.width,), (sizes.width,)
    inputs = [random.standard_normal(shape) for shape in shapes]
    forward = lambda x, gamma, beta: backend.layer_norm(x, gamma, beta, eps)  # noqa: E731
    return Case(inputs, forward, backend.layer_norm_backward, 2)


def _dropout(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    x = random.standard_normal((sizes.batch * sizes.length, sizes.width))
    bits = _bits(backend, random, sizes.batch, x.size)
    forward = lambda x: backend.dropout(x, bits, sizes.rate)  # noqa: E731
    return Case([x], forward, backend.dropout_backward)


def _dropout_add_layer_norm(
    backend: Backend, sizes: Sizes, random: np.random.Generator, eps: float
) -> Case:
    rows = sizes.batch * sizes.length, sizes.width
    inputs = [random.standard_normal(s) for s in (rows, rows, (sizes.width,), (sizes.width,))]
    bits = _bits(backend, random, sizes.batch, inputs[0].size)
    return Case(
        inputs,
        lambda x, y, gamma, beta: backend.dropout_add_layer_norm(
            x, y, gamma, beta, bits, sizes.rate, eps
        ),
        backend.dropout_add_layer_norm_backward,
        2,
    )


def _attention(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    batch, length, heads = sizes.batch, sizes.length, sizes.heads
    x = random.standard_normal((batch * length, 3 * heads * sizes.head_width))
    mask = np.arange(length) < random.integers(1, length + 1, batch)[:, None]
    bits = _bits(backend, random, batch, batch * heads * length * length)
    forward = lambda x: backend.attention(x, mask, heads, bits, sizes.rate)  # noqa: E731
    return Case([x], forward, backend.attention_backward)


def _gelu(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    x = 2.0 * random.standard_normal((sizes.batch * sizes.length, sizes.width))
    return Case([x], backend.gelu, backend.gelu_backward)


def _gather(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    x = random.standard_normal((sizes.batch * sizes.length, sizes.width))
    positions = random.integers(0, sizes.length, (sizes.batch, sizes.slots))
    forward = lambda x: backend.gather_positions(x, positions)  # noqa: E731
    return Case([x], forward, backend.gather_positions_backward)


def _softmax(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    rows = sizes.batch * sizes.slots
    labels = random.integers(0, sizes.outputs, rows)
    weights = random.random(rows) < 0.8
    weights[0] = True
    return Case(
        [3.0 * random.standard_normal((rows, sizes.outputs))],
        lambda logits: backend.softmax_cross_entropy(logits, labels, weights),
        lambda dy, cache: backend.softmax_cross_entropy_backward(float(dy), cache),
    )


def _binary(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    rows = sizes.batch * sizes.length
    labels, weights = random.random(rows) < 0.5, random.random(rows) < 0.8
    weights[0] = True
    return Case(
        [3.0 * random.standard_normal(rows)],
        lambda logits: backend.binary_cross_entropy(logits, labels, weights),
        lambda dy, cache: backend.binary_cross_entropy_backward(float(dy), cache),
    )


class Relaxation(NamedTuple):
    """What relaxed embeddings are made of."""

    logits: Array  # (R, V)
    noise: Array  # (R, V)
    temperature: float
    table: Array  # (V, E)
    sampled_ids: Array  # (R,)


def _relaxation(sizes: Sizes, random: np.random.Generator) -> Relaxation:
    rows, words = sizes.batch * sizes.slots, sizes.outputs
    logits, noise = random.standard_normal((2, rows, words))
    table = random.standard_normal((words, sizes.width))
    ids = random.integers(0, words, rows)
    return Relaxation(logits, noise, float(random.uniform(0.5, 2.0)), table, ids)


def _relax(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    logits, noise, temperature, table, ids = _relaxation(sizes, random)
    return Case(
        [logits, table],
        lambda logits, table: backend.relax_embeddings(
            logits, noise.astype(logits.real.dtype), temperature, table, ids, False
        ),
        backend.relax_embeddings_backward,
        1,
    )


def _relax_straight_through(
    backend: Backend, sizes: Sizes, random: np.random.Generator, _: float
) -> Case:
    """The value is zero; only the complex step sees the gradient, and the table has none."""
    logits, noise, temperature, table, ids = _relaxation(sizes, random)

    def forward(logits: Array) -> tuple[Array, Any]:
        noise_there, table_there = (x.astype(logits.real.dtype) for x in (noise, table))
        return backend.relax_embeddings(logits, noise_there, temperature, table_there, ids, True)

    return Case(
        [logits],
        forward,
        lambda ddelta, cache: backend.relax_embeddings_backward(ddelta, cache, None),
    )


def _log_likelihood(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    rows, words = sizes.batch * sizes.length, sizes.outputs
    shapes = (rows, sizes.width), (words, sizes.width), (words,)
    inputs = [random.standard_normal(shape) for shape in shapes]
    labels = random.integers(0, words, rows)
    return Case(
        inputs,
        lambda x, table, bias: backend.vocabulary_log_likelihood(x, table, bias, labels),
        backend.vocabulary_log_likelihood_backward,
        2,
    )


def _copy_gate(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    rows = sizes.batch * sizes.length
    gates, likelihoods = 3.0 * random.standard_normal(rows), -3.0 * random.random(rows)
    is_copy, weights = random.random(rows) < 0.5, random.random(rows) < 0.8
    weights[0] = True
    return Case(
        [gates, likelihoods],
        lambda gates, likelihoods: backend.copy_gate_cross_entropy(
            gates, likelihoods, is_copy, weights
        ),
        lambda dy, cache: backend.copy_gate_cross_entropy_backward(float(dy), cache),
    )


STRAIGHT_THROUGH = "relax_embeddings straight-through"
CASES: dict[str, Draw] = {  # by the name of the operation, and what is special
    "linear": _linear,
    "linear of a table": _linear_of_a_table,
    "linear beside x": _linear_beside_x,
    "embed": _embed,
    "layer_norm": _layer_norm,
    "dropout": _dropout,
    "dropout_add_layer_norm": _dropout_add_layer_norm,
    "attention": _attention,
    "gelu": _gelu,
    "gather_positions": _gather,
    "softmax_cross_entropy": _softmax,
    "binary_cross_entropy": _binary,
    "relax_embeddings": _relax,
    STRAIGHT_THROUGH: _relax_straight_through,
    "vocabulary_log_likelihood": _log_likelihood,
    "copy_gate_cross_entropy": _copy_gate,
}
