"""One drawn case of every differentiable operation, for any backend.

Hypothesis draws the structure (``SIZES``), a seeded generator the numbers: left to itself,
Hypothesis fills arrays with few distinct values, on which a layer norm says little.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from electra_ref.backends import Backend
from tests.gradient_checks import Array, Backward, Forward

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
    backward: Backward  # always a tuple, in the order of ``inputs``


Draw = Callable[[Backend, Sizes, np.random.Generator, float], Case]


def _one(backward: Callable[[Any, Any], Array]) -> Backward:
    return lambda dy, cache: (backward(dy, cache),)


def _bits(random: np.random.Generator, batch: int, size: int) -> Array:
    return random.integers(0, 1 << 16, (batch, size // batch), dtype=np.uint16)


def _linear(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    shapes = (sizes.batch * sizes.length, sizes.width), (sizes.width, sizes.outputs)
    inputs = [random.standard_normal(shape) for shape in (*shapes, (sizes.outputs,))]
    return Case(inputs, backend.linear, backend.linear_backward)


def _embed(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    heights = sizes.outputs, sizes.length + sizes.slots, 2
    inputs = [random.standard_normal((height, sizes.width)) for height in heights]
    ids = random.integers(0, sizes.outputs, (sizes.batch, sizes.length))
    types = random.integers(0, 2, (sizes.batch, sizes.length))
    return Case(inputs, lambda w, p, s: backend.embed(w, p, s, ids, types), backend.embed_backward)


def _layer_norm(backend: Backend, sizes: Sizes, random: np.random.Generator, eps: float) -> Case:
    shapes = (sizes.batch * sizes.length, sizes.width), (sizes.width,), (sizes.width,)
    inputs = [random.standard_normal(shape) for shape in shapes]
    forward = lambda x, gamma, beta: backend.layer_norm(x, gamma, beta, eps)  # noqa: E731
    return Case(inputs, forward, backend.layer_norm_backward)


def _dropout(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    x = random.standard_normal((sizes.batch * sizes.length, sizes.width))
    bits = _bits(random, sizes.batch, x.size)
    forward = lambda x: backend.dropout(x, bits, sizes.rate)  # noqa: E731
    return Case([x], forward, _one(backend.dropout_backward))


def _dropout_add_layer_norm(
    backend: Backend, sizes: Sizes, random: np.random.Generator, eps: float
) -> Case:
    rows = sizes.batch * sizes.length, sizes.width
    inputs = [random.standard_normal(s) for s in (rows, rows, (sizes.width,), (sizes.width,))]
    bits = _bits(random, sizes.batch, inputs[0].size)
    return Case(
        inputs,
        lambda x, y, gamma, beta: backend.dropout_add_layer_norm(
            x, y, gamma, beta, bits, sizes.rate, eps
        ),
        backend.dropout_add_layer_norm_backward,
    )


def _attention(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    batch, length, heads = sizes.batch, sizes.length, sizes.heads
    x = random.standard_normal((batch * length, 3 * heads * sizes.head_width))
    mask = np.arange(length) < random.integers(1, length + 1, batch)[:, None]
    bits = _bits(random, batch, batch * heads * length * length)
    return Case(
        [x],
        lambda x: backend.attention(x, mask, heads, bits, sizes.rate),
        _one(backend.attention_backward),
    )


def _gelu(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    x = 2.0 * random.standard_normal((sizes.batch * sizes.length, sizes.width))
    return Case([x], backend.gelu, _one(backend.gelu_backward))


def _gather(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    x = random.standard_normal((sizes.batch * sizes.length, sizes.width))
    positions = random.integers(0, sizes.length, (sizes.batch, sizes.slots))
    return Case(
        [x],
        lambda x: backend.gather_positions(x, positions),
        _one(backend.gather_positions_backward),
    )


def _vocabulary(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    shapes = (sizes.slots, sizes.width), (sizes.outputs, sizes.width), (sizes.outputs,)
    inputs = [random.standard_normal(shape) for shape in shapes]
    return Case(inputs, backend.vocabulary_logits, backend.vocabulary_logits_backward)


def _softmax(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    rows = sizes.batch * sizes.slots
    labels = random.integers(0, sizes.outputs, rows)
    weights = random.random(rows) < 0.8
    weights[0] = True
    return Case(
        [3.0 * random.standard_normal((rows, sizes.outputs))],
        lambda logits: backend.softmax_cross_entropy(logits, labels, weights),
        lambda dy, cache: (backend.softmax_cross_entropy_backward(float(dy), cache),),
    )


def _binary(backend: Backend, sizes: Sizes, random: np.random.Generator, _: float) -> Case:
    rows = sizes.batch * sizes.length
    labels, weights = random.random(rows) < 0.5, random.random(rows) < 0.8
    weights[0] = True
    return Case(
        [3.0 * random.standard_normal(rows)],
        lambda logits: backend.binary_cross_entropy(logits, labels, weights),
        lambda dy, cache: (backend.binary_cross_entropy_backward(float(dy), cache),),
    )


CASES: dict[str, Draw] = {
    "linear": _linear,
    "embed": _embed,
    "layer_norm": _layer_norm,
    "dropout": _dropout,
    "dropout_add_layer_norm": _dropout_add_layer_norm,
    "attention": _attention,
    "gelu": _gelu,
    "gather_positions": _gather,
    "vocabulary_logits": _vocabulary,
    "softmax_cross_entropy": _softmax,
    "binary_cross_entropy": _binary,
}
