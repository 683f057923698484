"""The matrix products of a training step: their FLOP, and the time NumPy needs for them alone.

A product (M, K) x (K, N) is 2 M K N FLOP. Every linear map has three of the same size:

    y = x W,    dx = dy Wᵀ,    dW = xᵀ dy

Attention has six for each row and head, of 2 T T D FLOP: S = q kᵀ and A v forward, and
dv = Aᵀ dcontext, dA = dcontext vᵀ, dq = dS k, dk = dSᵀ q backward. The cost of all else in a step
(layer norm, GELU, softmax, dropout, the optimizer) is proportional to its input and is not counted.
A layer has W = 4 C^2 + 2 C F weights. The FLOP of a token are:

    6 W + 12 T C   a layer,   6 E V M / T   for the scores of the vocabulary

So only attention grows faster than the number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.config.model import EncoderSize, discriminator_size, generator_size
from electra_ref.config.pretraining import PretrainingConfig


class Product(NamedTuple):
    """``repeats`` equal products of stacks of (rows, inner) and (inner, columns)."""

    name: str
    operation: str  # the backend's name for what computes it
    repeats: int
    stack: int
    rows: int
    inner: int
    columns: int
    left_transposed: bool = False  # stored as (inner, rows)
    right_transposed: bool = False  # stored as (columns, inner)

    @property
    def flop(self) -> int:
        return 2 * self.repeats * self.stack * self.rows * self.inner * self.columns


def step_products(config: PretrainingConfig, masked_slots: int) -> list[Product]:
    """Return all matrix products of one training step, in any order.

    ``masked_slots`` is M, the masked positions of a row.
    """
    batch, length, embedding = config.batch_size, config.max_length, config.embedding_size
    tokens, masked = batch * length, batch * masked_slots
    generator, discriminator = generator_size(config), discriminator_size(config)
    width = discriminator.hidden_size
    return [
        *_encoder("generator", generator, batch, length, embedding),
        *_linear("generator.head.dense", 1, masked, generator.hidden_size, embedding),
        *_linear_of_a_table("generator.head.output", masked, embedding, config.vocab_size),
        *_encoder("discriminator", discriminator, batch, length, embedding),
        *_linear("discriminator.head.dense", 1, tokens, width, width),
        *_linear("discriminator.head.output", 1, tokens, width, 1),
    ]


def flop_by(field: str, products: list[Product]) -> dict[str, int]:
    """Return the FLOP of the products by their ``field``, which is ``name`` or ``operation``."""
    flop: dict[str, int] = {}
    for product in products:
        key = getattr(product, field)
        flop[key] = flop.get(key, 0) + product.flop
    return flop


def prepare_floor(products: list[Product]) -> Callable[[Any], dict[str, float]]:
    """Return a step that computes ``products`` in float32 by ``np.matmul(out=)``, and only those.

    Every kind of product has its own operands and uses them ``repeats`` times. A model has other
    weights and activations in every layer, so it cannot be faster than this floor.
    """
    kinds = [(product, *_operands(product)) for product in products]

    def step(_: Any) -> dict[str, float]:
        for product, left, right, out in kinds:
            for _ in range(product.repeats):
                np.matmul(left, right, out=out)
        return {}

    return step


def _encoder(
    network: str, size: EncoderSize, batch: int, length: int, embedding_size: int
) -> Iterator[Product]:
    tokens, width, layers = batch * length, size.hidden_size, size.num_hidden_layers
    if width != embedding_size:
        yield from _linear(f"{network}.embeddings_project", 1, tokens, embedding_size, width)
    yield from _linear(f"{network}.query_key_value", layers, tokens, width, 3 * width)
    yield from _linear(f"{network}.attention.output", layers, tokens, width, width)
    yield from _linear(f"{network}.intermediate", layers, tokens, width, size.intermediate_size)
    yield from _linear(f"{network}.output", layers, tokens, size.intermediate_size, width)
    heads = batch * size.num_attention_heads
    yield from _attention(
        f"{network}.attention", layers, heads, length, width // size.num_attention_heads
    )


def _linear(name: str, repeats: int, rows: int, inputs: int, outputs: int) -> Iterator[Product]:
    forward, backward = "linear", "linear_backward"
    yield Product(f"{name} y", forward, repeats, 1, rows, inputs, outputs)
    yield Product(f"{name} dx", backward, repeats, 1, rows, outputs, inputs, right_transposed=True)
    yield Product(f"{name} dW", backward, repeats, 1, inputs, rows, outputs, left_transposed=True)


def _attention(
    name: str, repeats: int, heads: int, length: int, head_width: int
) -> Iterator[Product]:
    scores = (repeats, heads, length, head_width, length)
    sums = (repeats, heads, length, length, head_width)
    forward, backward = "attention", "attention_backward"
    yield Product(f"{name} q kT", forward, *scores, right_transposed=True)
    yield Product(f"{name} A v", forward, *sums)
    yield Product(f"{name} dcontext vT", backward, *scores, right_transposed=True)
    yield Product(f"{name} AT dcontext", backward, *sums, left_transposed=True)
    yield Product(f"{name} dS k", backward, *sums)
    yield Product(f"{name} dST q", backward, *sums, left_transposed=True)


def _linear_of_a_table(name: str, rows: int, inputs: int, outputs: int) -> Iterator[Product]:
    """Yield the products of a linear map whose weight is a transposed table."""
    forward, backward = "linear", "linear_backward"
    yield Product(f"{name} y", forward, 1, 1, rows, inputs, outputs, right_transposed=True)
    yield Product(f"{name} dx", backward, 1, 1, rows, outputs, inputs)
    yield Product(f"{name} dE", backward, 1, 1, outputs, rows, inputs, left_transposed=True)


def _operands(
    product: Product,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    left = _matrices(rng, product.stack, product.rows, product.inner, product.left_transposed)
    right = _matrices(rng, product.stack, product.inner, product.columns, product.right_transposed)
    out = np.empty((product.stack, product.rows, product.columns), np.float32)
    if product.stack == 1:  # in the model it is no stack, and NumPy calls the BLAS in another way
        return left[0], right[0], out[0]
    return left, right, out


def _matrices(
    rng: np.random.Generator, stack: int, rows: int, columns: int, transposed: bool
) -> npt.NDArray[np.float32]:
    shape = (stack, columns, rows) if transposed else (stack, rows, columns)
    values = rng.standard_normal(shape, np.float32)
    return values.swapaxes(1, 2) if transposed else values
