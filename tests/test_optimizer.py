"""AdamW, clipping and the optimizer step against closed forms in extended precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.backends.reference import ReferenceBackend
from electra_ref.backends.reference.adamw import adamw
from electra_ref.backends.reference.global_norm import clip_by_global_norm, global_norm
from electra_ref.config import Config
from electra_ref.training.optimizer import TrainingState, optimizer_step
from electra_ref.training.schedule import learning_rate
from tests.gradient_checks import Array
from tests.mutants import Instrument, Mutant, instrumented
from tests.operation_cases import SEEDS
from tests.tiny_electra import tiny_config

BACKEND = ReferenceBackend()


def test_adamw_by_hand() -> None:
    """m = 1 and v = 1 after one gradient of 2; the update is 1 / (1 + 1) + 0.1 * 10 = 1.5."""
    w, m, v = np.array([10.0]), np.zeros(1), np.zeros(1)
    gradient = np.array([2.0])
    gradient.flags.writeable = False
    BACKEND.adamw(
        w,
        gradient,
        m,
        v,
        learning_rate=0.2,
        beta1=0.5,
        beta2=0.75,
        epsilon=1.0,
        weight_decay=0.1,
    )
    assert (m.item(), v.item()) == (1.0, 1.0)
    assert w.item() == pytest.approx(9.7, rel=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(size=st.integers(1, 9), steps=st.integers(1, 8), seed=SEEDS)
def test_adamw_matches_the_sum_of_all_gradients(
    dtype: Any, size: int, steps: int, seed: int
) -> None:
    """Moments are weighted sums of the past; no bias correction, eps outside the root."""
    random = np.random.default_rng(seed)
    gradients = random.standard_normal((steps, size)).astype(dtype)
    start = random.standard_normal(size).astype(dtype)
    w, m, v = start.copy(), np.zeros(size, dtype), np.zeros(size, dtype)
    exact = start.astype(np.longdouble)
    settings = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6, "weight_decay": 0.01}
    for step in range(steps):
        BACKEND.adamw(w, gradients[step], m, v, learning_rate=0.01 * step, **settings)
        first, second = moments(gradients[: step + 1])
        update = first / (np.sqrt(second) + np.longdouble(1e-6)) + np.longdouble(0.01) * exact
        exact -= np.longdouble(0.01 * step) * update
    assert w.dtype == m.dtype == v.dtype == dtype
    scale = np.abs(start).max() + np.abs(gradients).max() + np.abs(exact).max()
    for got, wanted in ((w, exact), (m, first), (v, second)):
        assert np.abs(got - wanted).max() <= 16 * steps * np.finfo(dtype).eps * scale


def moments(gradients: Array) -> tuple[Array, Array]:
    """Return Adam's moments after ``gradients`` (steps, P), from their definition as sums."""
    ages = np.arange(len(gradients))[::-1, None].astype(np.longdouble)
    exact = gradients.astype(np.longdouble)
    first = ((1 - np.longdouble(0.9)) * np.longdouble(0.9) ** ages * exact).sum(axis=0)
    second = (1 - np.longdouble(0.999)) * np.longdouble(0.999) ** ages * exact**2
    return first, second.sum(axis=0)


@given(size=st.integers(1, 50), scale=st.sampled_from([1e-3, 1.0, 1e3]), seed=SEEDS)
def test_clipping_bounds_the_norm_and_keeps_the_direction(
    size: int, scale: float, seed: int
) -> None:
    gradients = scale * np.random.default_rng(seed).standard_normal(size)
    norm = np.sqrt((gradients.astype(np.longdouble) ** 2).sum())
    clipped = gradients.copy()
    BACKEND.clip_by_global_norm(clipped, BACKEND.global_norm(clipped), 1.0)
    wanted = gradients / max(norm, np.longdouble(1.0))
    np.testing.assert_allclose(clipped, wanted.astype(float), rtol=1e-14)
    if norm < 0.999:
        np.testing.assert_array_equal(clipped, gradients)


def exact_state(config: Config, gradients: Array, start: Array, decayed: int) -> Array:
    """Return the parameters after one step on each of ``gradients`` (steps, P)."""
    w = start.astype(np.longdouble)
    clipped = gradients.astype(np.longdouble)
    norms = np.sqrt((clipped**2).sum(axis=1, keepdims=True))
    clipped /= np.maximum(norms / np.longdouble(config.gradient_clip), 1)
    decay = np.where(np.arange(w.size) < decayed, np.longdouble(config.weight_decay), 0)
    for step in range(len(gradients)):
        first, second = moments(clipped[: step + 1])
        rate = np.longdouble(config.learning_rate) * (1 - np.longdouble(step) / config.steps)
        rate *= np.minimum(np.longdouble(step) / config.warmup_steps, 1)
        w -= rate * (first / (np.sqrt(second) + np.longdouble(1e-6)) + decay * w)
    return w


class Run:
    """A few optimizer steps on drawn gradients, some of which are clipped."""

    def __init__(self, steps: int = 5) -> None:
        self.config = tiny_config(steps=20, warmup_steps=3, learning_rate=0.1, weight_decay=0.3)
        random = np.random.default_rng(0)
        state = TrainingState(self.config, BACKEND, "float64")
        size = state.parameters.vector.size
        self.start = state.parameters.vector + random.standard_normal(size)
        scales = np.array([0.001, 1.0, 0.01, 0.1, 3.0])[:steps, None]
        self.gradients = scales * random.standard_normal((steps, size))
        self.exact = exact_state(self.config, self.gradients, self.start, state.parameters.decayed)

    def error(self) -> float:
        """Return the largest error of a parameter after all steps, or of a reported norm."""
        state = TrainingState(self.config, BACKEND, "float64")
        state.parameters.vector[...] = self.start
        errors = []
        for gradient in self.gradients:
            state.gradients.vector[...] = gradient
            norm = float(optimizer_step(self.config, BACKEND, state))
            errors.append(abs(norm / float(np.linalg.norm(gradient)) - 1))
        errors.append(float(np.abs(state.parameters.vector - self.exact).max()))
        return float(np.max(errors))  # NaN if one is


def test_optimizer_step_matches_the_closed_form() -> None:
    """Joint clipping, schedule, decay on matrices and tables only, moments kept between steps."""
    assert Run().error() <= 1e-14


def test_first_update_fills_the_moments_alone() -> None:
    run = Run(steps=1)
    state = TrainingState(run.config, BACKEND, "float64")
    before = state.parameters.vector.copy()
    state.gradients.vector[...] = run.gradients[0]
    norm = optimizer_step(run.config, BACKEND, state)
    assert norm == pytest.approx(np.linalg.norm(run.gradients[0]), rel=1e-14)
    np.testing.assert_array_equal(state.parameters.vector, before)
    assert state.first_moment.vector.all()
    assert state.second_moment.vector.all()
    assert state.step == 1


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(poison: float) -> None:
    state = TrainingState(tiny_config(), BACKEND, "float32")
    before = state.parameters.vector.copy()
    state.gradients.vector[7] = poison
    assert not np.isfinite(optimizer_step(tiny_config(), BACKEND, state))
    np.testing.assert_array_equal(state.parameters.vector, before)
    assert not state.first_moment.vector.any()
    assert not state.second_moment.vector.any()
    assert state.step == 0


def test_every_mutant_of_the_optimizer_is_noticed() -> None:
    """The same operators as for gradients (``mutants``), and all terms, as for gradients."""
    equivalent = {  # of the argument of ``global_norm``, which sees neither order nor signs
        "training.optimizer.optimizer_step: state.gradients.vector [roll]",
        "training.optimizer.optimizer_step: state.gradients.vector [sign]",
    }
    functions: list[Any] = [adamw, clip_by_global_norm, global_norm, learning_rate, optimizer_step]
    run = Run()
    with instrumented(functions) as instrument:
        with instrument.watching():
            run.error()
        survived = [m for m in instrument.mutants if not noticed(instrument, m, run)]
    assert len(instrument.mutants) >= 400
    assert {instrument.name(mutant) for mutant in survived} == equivalent


def noticed(instrument: Instrument, mutant: Mutant, run: Run) -> bool:
    """Return whether the steps of ``run`` raise or end elsewhere under ``mutant``."""
    with instrument.mutating(mutant), np.errstate(all="ignore"):
        try:
            return not run.error() <= 1e-12
        except Exception:  # a wrong shape, or a norm that is complex
            return True
