"""AdamW, clipping and the optimizer step against closed forms in extended precision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.backends import reference
from electra_ref.backends.reference.adamw import adamw
from electra_ref.backends.reference.global_norm import global_norm
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.model.parameters import Gradients, ParameterSpec
from electra_ref.training.optimizer import TrainingState, optimizer_step
from electra_ref.training.schedule import learning_rate
from tests.gradient_checks import Array
from tests.mutants import Instrument, Mutant, instrumented
from tests.operation_cases import SEEDS
from tests.tiny_electra import tiny_config


def test_adamw_by_hand() -> None:
    """m = v = 1 after one gradient of 4, halved; the update is 1 / (1 + 1) + 0.1 * 10 = 1.5."""
    w, m, v = np.array([10.0]), np.zeros(1), np.zeros(1)
    gradient = np.array([4.0])
    gradient.flags.writeable = False
    reference.adamw(
        w,
        gradient,
        m,
        v,
        gradient_scale=0.5,
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
    settings = {
        "gradient_scale": 1.0,
        "beta1": 0.9,
        "beta2": 0.999,
        "epsilon": 1e-6,
        "weight_decay": 0.01,
    }
    for step in range(steps):
        reference.adamw(w, gradients[step], m, v, learning_rate=0.01 * step, **settings)
        first, second = moments(gradients[: step + 1], 0.9, 0.999)
        update = first / (np.sqrt(second) + np.longdouble(1e-6)) + np.longdouble(0.01) * exact
        exact -= np.longdouble(0.01 * step) * update
    assert w.dtype == m.dtype == v.dtype == dtype
    scale = np.abs(start).max() + np.abs(gradients).max() + np.abs(exact).max()
    for got, wanted in ((w, exact), (m, first), (v, second)):
        assert np.abs(got - wanted).max() <= 16 * steps * np.finfo(dtype).eps * scale


def moments(gradients: Array, beta1: float, beta2: float) -> tuple[Array, Array]:
    """Return Adam's moments after ``gradients`` (steps, P), from their definition as sums."""
    ages = np.arange(len(gradients))[::-1, None].astype(np.longdouble)
    exact = gradients.astype(np.longdouble)
    first = ((1 - np.longdouble(beta1)) * np.longdouble(beta1) ** ages * exact).sum(axis=0)
    second = (1 - np.longdouble(beta2)) * np.longdouble(beta2) ** ages * exact**2
    return first, second.sum(axis=0)


def exact_state(
    config: PretrainingConfig, gradients: Array, start: Array, decays: Array, scales: Array
) -> Array:
    """Return the parameters after one step on each of ``gradients`` (steps, P).

    ``decays`` (P,) says where weight decay applies, ``scales`` (P,) multiply the rate.
    """
    w = start.astype(np.longdouble)
    clipped = gradients.astype(np.longdouble)
    norms = np.sqrt((clipped**2).sum(axis=1, keepdims=True))
    clipped /= np.maximum(norms / np.longdouble(config.gradient_clip), 1)
    decay = np.where(decays, np.longdouble(config.weight_decay), 0)
    for step in range(len(gradients)):
        first, second = moments(clipped[: step + 1], config.adam_beta1, config.adam_beta2)
        rate = np.longdouble(config.learning_rate)
        rate *= (1 - np.longdouble(step) / config.steps) ** config.lr_decay_power
        rate *= np.minimum(np.longdouble(step) / config.warmup_steps, 1)
        update = first / (np.sqrt(second) + np.longdouble(config.adam_epsilon)) + decay * w
        w -= rate * scales * update
    return w


SPECS = [
    ParameterSpec("a", (7, 3), "ones", True, 0.5),
    ParameterSpec("b", (5, 4), "ones", True),
    ParameterSpec("c", (3,), "ones", False, 0.25),
    ParameterSpec("d", (6,), "ones", False),
]


def complete(gradient: Array) -> Gradients:
    """Return gradients that hold ``gradient`` (P,), all of them written."""
    gradients = Gradients(SPECS, gradient.copy())
    for spec in SPECS:
        gradients.sum_of(spec.name)
    return gradients


class Run:
    """A few optimizer steps on drawn gradients, some of which are clipped; nothing is a default."""

    def __init__(self, steps: int = 5) -> None:
        self.config = tiny_config(
            steps=20,
            warmup_steps=3,
            learning_rate=0.1,
            lr_decay_power=3.0,
            weight_decay=0.3,
            adam_beta1=0.8,
            adam_beta2=0.95,
            adam_epsilon=1e-3,
            gradient_clip=0.7,
        )
        random = np.random.default_rng(0)
        sizes = [math.prod(spec.shape) for spec in SPECS]
        self.start = random.standard_normal(sum(sizes))
        scales = np.array([0.001, 1.0, 0.01, 0.1, 3.0])[:steps, None]
        self.gradients = scales * random.standard_normal((steps, sum(sizes)))
        decays = np.repeat([spec.decays for spec in SPECS], sizes)
        rate_scales = np.repeat([spec.rate_scale for spec in SPECS], sizes)
        self.exact = exact_state(self.config, self.gradients, self.start, decays, rate_scales)

    def begin(self) -> TrainingState:
        """Return the state before the first step."""
        return TrainingState(reference, SPECS, self.start.copy())

    def error(self) -> float:
        """Return the largest error of a parameter after all steps, or of a reported norm."""
        state = self.begin()
        errors = []
        for gradient in self.gradients:
            norm = optimizer_step(self.config, reference, state, complete(gradient))
            errors.append(abs(norm / float(np.linalg.norm(gradient)) - 1))
        errors.append(float(np.abs(state.parameters.vector - self.exact).max()))
        return float(np.max(errors))  # NaN if one is


def test_optimizer_step_matches_the_closed_form() -> None:
    """Joint clipping, schedule, rates and decay by groups, moments kept between steps."""
    assert Run().error() <= 1e-14


def test_first_update_fills_the_moments_alone() -> None:
    run = Run(steps=1)
    state = run.begin()
    norm = optimizer_step(run.config, reference, state, complete(run.gradients[0]))
    assert norm == pytest.approx(np.linalg.norm(run.gradients[0]), rel=1e-14)
    np.testing.assert_array_equal(state.parameters.vector, run.start)
    assert state.first_moment.vector.all()
    assert state.second_moment.vector.all()
    assert state.step == 1


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(poison: float) -> None:
    run = Run()
    state = run.begin()
    gradient = run.gradients[0].copy()
    gradient[7] = poison
    assert not np.isfinite(optimizer_step(run.config, reference, state, complete(gradient)))
    np.testing.assert_array_equal(state.parameters.vector, run.start)
    assert not state.first_moment.vector.any()
    assert not state.second_moment.vector.any()
    assert state.step == 0


def test_a_parameter_without_a_gradient_is_refused() -> None:
    """It would move by what the vector held before."""
    run = Run()
    state = run.begin()
    gradients = Gradients(SPECS, run.gradients[0].copy())
    for spec in SPECS[1:]:
        gradients.sum_of(spec.name)
    with pytest.raises(ValueError, match=r"no gradient was computed for a$"):
        optimizer_step(run.config, reference, state, gradients)
    np.testing.assert_array_equal(state.parameters.vector, run.start)
    assert state.step == 0


def test_every_mutant_of_the_optimizer_is_noticed() -> None:
    """The same operators as for gradients (``mutants``), and all terms, as for gradients."""
    equivalent = {  # of the argument of ``global_norm``, which sees neither order nor signs
        "training.optimizer.optimizer_step: gradients.vector [roll]",
        "training.optimizer.optimizer_step: gradients.vector [sign]",
    }
    functions: list[Any] = [adamw, global_norm, learning_rate, optimizer_step]
    run = Run()
    with instrumented(functions) as instrument:
        with instrument.watching():
            run.error()
        survived = [m for m in instrument.mutants if not noticed(instrument, m, run)]
    assert len(instrument.mutants) >= 350
    assert {instrument.name(mutant) for mutant in survived} == equivalent


def noticed(instrument: Instrument, mutant: Mutant, run: Run) -> bool:
    """Return whether the steps of ``run`` raise or end elsewhere under ``mutant``."""
    with instrument.mutating(mutant), np.errstate(all="ignore"):
        try:
            return not run.error() <= 1e-12
        except Exception:  # a wrong shape, or a norm that is complex
            return True
