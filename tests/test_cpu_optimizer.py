"""What the optimizer asks of the CPU, against its formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests import fast_operations as tested
from tests.fast_operations import REFERENCE, as_float32, draw
from tests.operation_cases import SEEDS
from tests.rounding_bounds import SECOND_ORDER, U


@given(count=st.integers(1, 20_000), seed=SEEDS)
def test_global_norm(count: int, seed: int) -> None:
    """The squares of a chunk within n u, halved by the root."""
    (gradients,) = draw(np.random.default_rng(seed), (count,))
    norm, exact = (
        tested.CPU.global_norm(gradients.astype(np.float32)),
        REFERENCE.global_norm(gradients),
    )
    assert norm.dtype == np.float32
    bound = (min(count, 4096) / 2 + 1) * U * exact
    assert abs(float(norm) - exact) <= SECOND_ORDER * bound


@given(count=st.integers(1, 5000), seed=SEEDS)
def test_add_gradients(count: int, seed: int) -> None:
    """One rounding, as NumPy's."""
    total, part = np.random.default_rng(seed).standard_normal((2, count), np.float32)
    expected = total + part
    tested.CPU.add_gradients(total, part)
    np.testing.assert_array_equal(total, expected)


@given(
    count=st.integers(1, 5000),
    decay=st.sampled_from([0.0, 0.01, 0.5]),
    learning_rate=st.sampled_from([5e-4, 0.5]),
    epsilon=st.sampled_from([1e-6, 0.03]),
    gradient_scale=st.sampled_from([1.0, 0.3]),
    seed=SEEDS,
)
def test_adamw(
    count: int, decay: float, learning_rate: float, epsilon: float, gradient_scale: float, seed: int
) -> None:
    """One step: every term within a few u of its size, settings rounded to float32 included."""
    random = np.random.default_rng(seed)
    w, g, m, v = draw(random, *[(count,)] * 4)
    v = as_float32(v**2)
    settings: dict[str, Any] = {
        "gradient_scale": gradient_scale,
        "learning_rate": learning_rate,
        "beta1": 0.9,
        "beta2": 0.999,
        "epsilon": epsilon,
        "weight_decay": decay,
    }
    exact = [array.copy() for array in (w, g, m, v)]
    fast = [array.astype(np.float32) for array in (w, g, m, v)]
    tested.CPU.adamw(*fast, **settings)
    REFERENCE.adamw(*exact, **settings)
    scaled = gradient_scale * g  # its scale and product: 2 u
    # beta, product, sum; and what the gradient brings
    moment = U * (3 * 0.9 * np.abs(m) + 5 * 0.1 * np.abs(scaled))
    # and the square, which doubles it
    square = U * (3 * 0.999 * v + 8 * 0.001 * scaled**2)
    root = np.sqrt(exact[3])
    ratio = np.abs(exact[2]) / (root + epsilon)
    # root (half of its argument's error, and its own), epsilon, their sum, the quotient
    ratio_error = moment / (root + epsilon) + (0.5 * square / exact[3] + 4 * U) * ratio
    # decay and its product, the sum; rate and its product; the subtraction
    update_error = ratio_error + 2 * U * decay * np.abs(w) + 3 * U * (ratio + decay * np.abs(w))
    step = learning_rate * update_error + U * np.abs(exact[0])
    for got, wanted, bound in zip(fast, exact, (step, 0.0 * g, moment, square), strict=True):
        assert (np.abs(got - wanted) <= SECOND_ORDER * bound).all()
