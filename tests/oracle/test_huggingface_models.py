"""The same parameters in Hugging Face's ELECTRA and here: logits, losses, gradients, training.

All in float64. Errors are norms of differences relative to norms, tensor by tensor, q, k and v
apart. Measured with transformers 4.57.6 and 5.23.0: 1e-13 at worst, in a pass and after ten
optimizer steps.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import numpy as np
import pytest

from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.model.losses import mean_losses
from electra_ref.model.parameters import FlatParameters
from electra_ref.sampling import CorruptedBatch
from tests.oracle.cases import SIZES, SMALL_SIZES, STEPS, case_config, draw_corrupted_batch
from tests.oracle.fixture_files import FOLDER, read_fixture
from tests.oracle.huggingface_weights import (
    NETWORKS,
    StateDicts,
    from_huggingface,
    relative_error,
    relative_errors,
    to_huggingface,
)
from tests.oracle.reference_model import draw_parameters, run_pass, run_training

pytest.importorskip("torch", reason="needs the extra: oracle")
pytest.importorskip("transformers", reason="needs the extra: oracle")
joint_model = importlib.import_module("tests.oracle.joint_model")  # imports the two above
pytestmark = pytest.mark.oracle

RELATIVE_ERROR = 1e-10
CASES = [  # size, scale of the parameters: near the start of a training, and far from it
    *[(size, scale) for size in SMALL_SIZES for scale in (0.02, 0.5)],
    *[("many-heads", scale) for scale in (0.02, 0.1)],
]
TRAININGS = [(1, 0), (1, 3), (STEPS, 0), (STEPS, 3)]  # steps, of them warm-up


def in_their_layout(config: PretrainingConfig, tensors: FlatParameters) -> StateDicts:
    """Return ours, parameters or gradients, as two state dicts."""
    return {network: to_huggingface(config, tensors, network) for network in NETWORKS}


def assert_close(actual: StateDicts, expected: StateDicts) -> None:
    """Compare tensor by tensor, and name the worst."""
    errors = relative_errors(actual, expected)
    name = max(errors, key=lambda key: errors[key])
    assert errors[name] <= RELATIVE_ERROR, f"{name}: {errors[name]:.1e}"


@pytest.mark.parametrize("size", SIZES)
def test_the_mapping_of_names_is_one_to_one(size: str) -> None:
    """Every tensor of theirs is set (``load_state_dict`` is strict), and nothing is lost."""
    parameters = draw_parameters(case_config(size), 1.0, seed=1)
    joint = joint_model.load_joint_model(case_config(size), parameters)
    back = from_huggingface(case_config(size), joint_model.state_dicts(joint))
    assert np.array_equal(back.vector, parameters.vector)
    assert sum(tensor.numel() for tensor in joint.parameters()) == parameters.vector.size


@pytest.mark.parametrize(("size", "scale"), CASES)
def test_logits_and_losses(size: str, scale: float) -> None:
    config, corrupted = case_config(size), draw_corrupted_batch(case_config(size), seed=2)
    parameters = draw_parameters(config, scale, seed=1)
    apart = {n: joint_model.load_network(config, parameters, n) for n in NETWORKS}
    theirs = joint_model.forward(apart, corrupted)
    ours = run_pass(config, parameters, corrupted)

    used, tokens = corrupted.masked.weights, corrupted.masked.batch.attention_mask
    rows, slots = used.nonzero()
    logits = theirs.generator_logits.detach().numpy()
    error = relative_error(
        ours.output.generator_logits[used.reshape(-1)],
        logits[rows, corrupted.masked.positions[rows, slots]],
    )
    assert error <= RELATIVE_ERROR
    logits = theirs.discriminator_logits.detach().numpy()
    error = relative_error(ours.output.discriminator_logits[tokens.reshape(-1)], logits[tokens])
    assert error <= RELATIVE_ERROR

    mlm_loss, rtd_loss = mean_losses(ours.output.terms).values()
    assert mlm_loss == pytest.approx(theirs.mlm_loss.item(), rel=RELATIVE_ERROR, abs=0)
    assert rtd_loss == pytest.approx(theirs.rtd_loss.item(), rel=RELATIVE_ERROR, abs=0)
    # Theirs is rounded to float32, see ``joint_model.forward``.
    assert rtd_loss == pytest.approx(theirs.their_rtd_loss.item(), rel=1e-6, abs=0)


@pytest.mark.parametrize(("size", "scale"), CASES)
def test_gradients_of_both_networks(size: str, scale: float) -> None:
    config, corrupted = case_config(size), draw_corrupted_batch(case_config(size), seed=2)
    parameters = draw_parameters(config, scale, seed=1)
    joint = joint_model.load_joint_model(config, parameters)
    loss = joint_model.backward(config, joint, joint_model.forward(joint, corrupted))
    ours = run_pass(config, parameters, corrupted)
    assert ours.loss == pytest.approx(loss.item(), rel=RELATIVE_ERROR, abs=0)
    assert_close(
        in_their_layout(config, ours.gradients), joint_model.state_dicts(joint, gradients=True)
    )


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0)], ids=["MLM", "RTD"])
def test_gradients_of_one_loss(weights: tuple[float, float]) -> None:
    """50 RTD dwarfs MLM in the shared tensors: each alone shows its own errors."""
    config = case_config("projected", generator_weight=weights[0], discriminator_weight=weights[1])
    corrupted = draw_corrupted_batch(config, seed=2)
    parameters = draw_parameters(config, 0.5, seed=1)
    joint = joint_model.load_joint_model(config, parameters)
    joint_model.backward(config, joint, joint_model.forward(joint, corrupted))
    ours = in_their_layout(config, run_pass(config, parameters, corrupted).gradients)
    theirs = joint_model.state_dicts(joint, gradients=True)
    network = NETWORKS[weights.index(1.0)]
    assert_close({network: ours[network]}, {network: theirs[network]})


def corrupted_by_padding() -> CorruptedBatch:
    """Return a batch in which a generator put [PAD] in place of a token."""
    corrupted = draw_corrupted_batch(case_config("projected"), seed=2)
    row, position = np.argwhere(corrupted.replaced)[0]
    ids = corrupted.corrupted_ids.copy()
    ids[row, position] = 0
    return corrupted._replace(corrupted_ids=ids)


@pytest.mark.parametrize("left_out", [True, False], ids=["as it is", "padding_idx = None"])
def test_their_table_leaves_the_row_of_padding_out(left_out: bool) -> None:
    """The one difference: ours, as the original's, moves [PAD] if the generator proposes it."""
    config, corrupted = case_config("projected"), corrupted_by_padding()
    parameters = draw_parameters(config, 0.5, seed=1)
    joint = joint_model.load_joint_model(config, parameters)
    word_embeddings = joint["discriminator"].electra.embeddings.word_embeddings
    if not left_out:
        word_embeddings.padding_idx = None
    joint_model.backward(config, joint, joint_model.forward(joint, corrupted))
    ours = run_pass(config, parameters, corrupted).gradients["embeddings.word_embeddings.weight"]
    theirs = word_embeddings.weight.grad.numpy()
    assert relative_error(ours[1:], theirs[1:]) <= RELATIVE_ERROR
    assert (relative_error(ours[:1], theirs[:1]) > 1e-3) == left_out


@pytest.mark.parametrize(
    ("size", "scale", "steps", "warmup_steps"),
    [
        *[(size, 0.1, steps, warmup) for size in SMALL_SIZES for steps, warmup in TRAININGS],
        ("many-heads", 0.02, STEPS, 0),
    ],
)
def test_training(size: str, scale: float, steps: int, warmup_steps: int) -> None:
    """Losses, norms and parameters; with warm-up, the first step moves the moments only."""
    config = case_config(size, warmup_steps=warmup_steps)
    parameters = draw_parameters(config, scale, seed=1)
    batches = [draw_corrupted_batch(config, seed=100 + step) for step in range(steps)]
    joint = joint_model.load_joint_model(config, parameters)
    losses, norms = joint_model.train(config, joint, batches)
    our_losses, our_norms, our_parameters = run_training(config, parameters, batches)
    np.testing.assert_allclose(our_losses, losses, rtol=RELATIVE_ERROR)
    np.testing.assert_allclose(our_norms, norms, rtol=RELATIVE_ERROR)
    assert_close(in_their_layout(config, our_parameters), joint_model.state_dicts(joint))
    moved = relative_error(our_parameters.vector, parameters.vector)
    assert (moved > 1e-4) == (steps > 1 or warmup_steps == 0)


@pytest.mark.parametrize("size", SMALL_SIZES)
def test_the_fixture_files_hold_what_the_classes_answer(size: str) -> None:
    """Whatever versions made them."""
    fixture = read_fixture(FOLDER, size)
    answers: Any = joint_model.answer(fixture.config, fixture.parameters, fixture.batches)
    for field, recorded in fixture.answers._asdict().items():
        if field == "gradients":
            assert_close(answers.gradients, recorded)
        else:
            error = relative_error(np.array(getattr(answers, field)), np.array(recorded))
            assert error <= RELATIVE_ERROR, field
    assert dataclasses.replace(fixture.config, preset="tiny") == case_config(
        size, batch_size=fixture.config.batch_size
    )
