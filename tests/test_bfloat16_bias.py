"""Rounding to bfloat16 has no bias: the size of a whole result stays the same.

The bounds for single numbers are a few hundredths wide and would hide a coefficient that is wrong
by a thousandth. The size of a whole result is <y, y'> / <y, y> with y' the fast one. There the
roundings of 2**-8, up as often as down, average out over thousands of numbers, and the size must be
1 to within half of a thousandth. Every gradient is tested; query, key and value separately.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from electra_ref.backends import Backend, reference
from electra_ref.backends.cpu import bfloat16
from electra_ref.gradient import GradientSum
from electra_ref.rng import Purpose, RandomStream
from tests.fast_operations import draw

ROWS = 512
WRONG = 1e-3  # the size of a coefficient that is to be noticed
BACKENDS: list[tuple[Backend, Any]] = [(bfloat16, np.float32), (reference, np.float64)]


def size_of(fast: npt.NDArray[Any], exact: npt.NDArray[Any]) -> float:
    return float((fast.astype(np.float64) * exact).sum() / (exact * exact).sum())


def assert_same_size(fast: list[npt.NDArray[Any]], exact: list[npt.NDArray[Any]]) -> None:
    for number, (got, wanted) in enumerate(zip(fast, exact, strict=True)):
        assert abs(size_of(got, wanted) - 1.0) <= WRONG / 2, number


@pytest.mark.parametrize("transposed", [False, True])
def test_products_keep_their_size(transposed: bool) -> None:
    random = np.random.default_rng(0)
    shape = (320, 192) if transposed else (192, 320)
    inputs, (dy,) = draw(random, (ROWS, 192), shape, (320,)), draw(random, (ROWS, 320))
    results = []
    for backend, dtype in BACKENDS:
        x, table, bias = (array.astype(dtype) for array in inputs)
        y, cache = backend.linear(x, table.T if transposed else table, bias)
        dtable, dbias = (
            GradientSum(np.empty_like(array), is_empty=True) for array in (table, bias)
        )
        dweight = dtable.transpose() if transposed else dtable
        dx = backend.linear_backward(dy.astype(dtype), cache, dweight, dbias)
        results.append([y, dx, dtable.array, dbias.array])
    assert_same_size(*results)


def test_operations_over_a_vocabulary_keep_their_size() -> None:
    """Logits of about 1, lest their rounding change the likelihoods themselves."""
    random = np.random.default_rng(0)
    logits, noise, x, dx = draw(random, *[(ROWS, 320)] * 2, *[(ROWS, 192)] * 2)
    table, bias, dy = draw(random, (320, 192), (320,), (ROWS,))
    ids, x = random.integers(0, 320, ROWS), x / 16
    results = []
    for backend, dtype in BACKENDS:
        a, n, b, db, t, c, d = (y.astype(dtype) for y in (logits, noise, x, dx, table, bias, dy))
        sums = [GradientSum(np.empty_like(array), is_empty=True) for array in (t, t, c)]
        delta, cache = backend.relax_embeddings(a, n, 0.7, t, ids, False)
        of_logits = backend.relax_embeddings_backward(db, cache, sums[0])
        likelihood, kept = backend.vocabulary_log_likelihood(b, t, c, ids)
        of_x = backend.vocabulary_log_likelihood_backward(d, kept, *sums[1:])
        results.append([delta, of_logits, likelihood, of_x, *(total.array for total in sums)])
    assert_same_size(*results)


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_attention_keeps_its_size(rate: float) -> None:
    random, heads = np.random.default_rng(0), 4
    x, dy = draw(random, (ROWS, 3 * 128), (ROWS, 128))
    mask = np.arange(64) < np.array([64, 50, 33, 64, 7, 64, 64, 21])[:, None]
    stream = RandomStream(7, Purpose.DROPOUT, 3)
    results = []
    for backend, dtype in BACKENDS:
        bits = backend.dropout_bits(stream, 8, heads * 64 * 64)
        y, cache = backend.attention(x.astype(dtype), mask, heads, bits, rate)
        dx = backend.attention_backward(dy.astype(dtype), cache)
        results.append([y, *np.split(dx, 3, axis=1)])
    assert_same_size(*results)
