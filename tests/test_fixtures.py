"""The reference backend gives what Hugging Face's classes gave when ``tests/data`` was written.

Logits, losses and gradients of one batch and the losses of ten optimizer steps, in float64. The
errors are norms of differences relative to norms, tensor by tensor. Measured: 4e-14 at worst.
"""

from __future__ import annotations

import numpy as np
import pytest

from electra_ref.model.losses import mean_losses
from electra_ref.model.parameters import FlatParameters
from tests.oracle.cases import SMALL_SIZES, STEPS
from tests.oracle.fixture_files import FOLDER, Fixture, read_fixture
from tests.oracle.huggingface_weights import (
    NETWORKS,
    relative_error,
    relative_errors,
    to_huggingface,
)
from tests.oracle.reference_model import run_pass, run_training

RELATIVE_ERROR = 1e-10


def errors_of_a_pass(fixture: Fixture, parameters: FlatParameters) -> dict[str, float]:
    """Return the relative errors of logits, losses and gradients at ``parameters``."""
    corrupted, answers = fixture.batches[0], fixture.answers
    done = run_pass(fixture.config, parameters, corrupted)
    rows, slots = corrupted.masked.weights.nonzero()
    used = corrupted.masked.weights.reshape(-1)
    tokens = corrupted.masked.batch.attention_mask
    gradients = {
        network: to_huggingface(fixture.config, done.gradients, network) for network in NETWORKS
    }
    return {
        "generator logits": relative_error(
            done.output.generator_logits[used],
            answers.generator_logits[rows, corrupted.masked.positions[rows, slots]],
        ),
        "discriminator logits": relative_error(
            done.output.discriminator_logits[tokens.reshape(-1)],
            answers.discriminator_logits[tokens],
        ),
        "MLM loss": relative_error(mean_losses(done.output.terms)["mlm_loss"], answers.mlm_loss),
        "RTD loss": relative_error(mean_losses(done.output.terms)["rtd_loss"], answers.rtd_loss),
        "loss": relative_error(done.loss, answers.loss),
        **relative_errors(gradients, answers.gradients),
    }


@pytest.fixture(params=SMALL_SIZES)
def fixture(request: pytest.FixtureRequest) -> Fixture:
    """Return the contents of one pair of files."""
    return read_fixture(FOLDER, request.param)


def test_files_say_what_they_are(fixture: Fixture) -> None:
    assert set(fixture.made_by) == {"python", "numpy", "torch", "transformers"}
    assert len(fixture.batches) == len(fixture.answers.losses) == STEPS
    lengths = fixture.batches[0].masked.batch.attention_mask.sum(axis=1)
    assert len(set(lengths.tolist())) == 3, "rows of different length"
    assert all(corrupted.replaced.any() for corrupted in fixture.batches)


def test_logits_losses_and_gradients(fixture: Fixture) -> None:
    errors = errors_of_a_pass(fixture, fixture.parameters)
    name = max(errors, key=lambda key: errors[key])
    assert errors[name] <= RELATIVE_ERROR, f"{name}: {errors[name]:.1e}"


def test_ten_optimizer_steps(fixture: Fixture) -> None:
    losses, norms, _ = run_training(fixture.config, fixture.parameters, fixture.batches)
    np.testing.assert_allclose(losses, fixture.answers.losses, rtol=RELATIVE_ERROR)
    np.testing.assert_allclose(norms, fixture.answers.gradient_norms, rtol=RELATIVE_ERROR)


def test_some_steps_are_clipped_and_some_are_not() -> None:
    fixtures = [read_fixture(FOLDER, size) for size in SMALL_SIZES]
    clipped = [
        norm > fixture.config.gradient_clip
        for fixture in fixtures
        for norm in fixture.answers.gradient_norms
    ]
    assert len(clipped) / 4 < sum(clipped) < len(clipped) * 3 / 4


def test_a_change_of_any_parameter_by_1e_7_is_noticed() -> None:
    fixture, random = read_fixture(FOLDER, "projected"), np.random.default_rng(0)
    for spec in fixture.parameters.specs:
        changed = FlatParameters(fixture.parameters.specs, fixture.parameters.vector.copy())
        changed[spec.name][...] += random.choice([-1e-7, 1e-7], spec.shape)
        errors = errors_of_a_pass(fixture, changed)
        assert max(errors.values()) > 10 * RELATIVE_ERROR, spec.name
