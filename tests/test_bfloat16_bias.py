"""Rounding to bfloat16 has no direction: over many numbers, results keep their size.

The bounds of single numbers are a few hundredths wide and would hide a coefficient that is wrong by
a thousandth. In the size of a whole result, <y, y'> / <y, y> with y' the fast one, roundings of
2**-8 that err up and down alike are averaged over thousands of numbers: it is 1 to within half of
that. It is looked for in each gradient; query, key and value are taken apart.
"""

from __future__ import annotations

import numpy as np
import pytest

from electra_ref.backends.cpu.bfloat16 import Bfloat16Backend
from electra_ref.backends.reference import ReferenceBackend
from electra_ref.rng import Purpose, RandomStream
from tests.rounding_bounds import Float64
from tests.test_cpu_backend_operations import draw

ROWS = 512
WRONG = 1e-3  # the size of a coefficient that is to be noticed
FAST, EXACT = Bfloat16Backend(), ReferenceBackend()


def size_of(fast: Float64, exact: Float64) -> float:
    return float((fast.astype(np.float64) * exact).sum() / (exact * exact).sum())


def assert_same_size(fast: list[Float64], exact: list[Float64]) -> None:
    for number, (got, wanted) in enumerate(zip(fast, exact, strict=True)):
        assert abs(size_of(got, wanted) - 1.0) <= WRONG / 2, number


@pytest.mark.parametrize("name", ["linear", "vocabulary_logits"])
def test_products_keep_their_size(name: str) -> None:
    random = np.random.default_rng(0)
    shape = (192, 320) if name == "linear" else (320, 192)
    inputs, (dy,) = draw(random, (ROWS, 192), shape, (320,)), draw(random, (ROWS, 320))
    results = []
    for backend, dtype in ((FAST, np.float32), (EXACT, np.float64)):
        y, cache = getattr(backend, name)(*(x.astype(dtype) for x in inputs))
        results.append([y, *getattr(backend, name + "_backward")(dy.astype(dtype), cache)])
    assert_same_size(*results)


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_attention_keeps_its_size(rate: float) -> None:
    random, heads = np.random.default_rng(0), 4
    x, dy = draw(random, (ROWS, 3 * 128), (ROWS, 128))
    mask = np.arange(64) < np.array([64, 50, 33, 64, 7, 64, 64, 21])[:, None]
    stream = RandomStream(7, Purpose.DROPOUT, 3)
    results = []
    for backend, dtype in ((FAST, np.float32), (EXACT, np.float64)):
        bits = backend.dropout_bits(stream, 8, heads * 64 * 64)
        y, cache = backend.attention(x.astype(dtype), mask, heads, bits, rate)
        dx = backend.attention_backward(dy.astype(dtype), cache)
        results.append([y, *np.split(dx, 3, axis=1)])
    assert_same_size(*results)
