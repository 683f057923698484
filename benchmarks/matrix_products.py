"""The matrix products of a training step: their FLOP, and the time NumPy needs for them alone.

``electra_ref.training.pretraining.products`` lists the products and has the formulas, for every
objective.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from electra_ref.training.pretraining.products import Product


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
