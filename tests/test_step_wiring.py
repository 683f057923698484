"""A whole step computed again from its parts: every setting reaches what it is meant for.

The other computation is ``plain_electra``. No setting has its default value and no two rates are
equal, so a setting that is ignored, swapped with another or used twice shows in the sixth digit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from electra_ref.arrays import Array
from electra_ref.backends import reference
from electra_ref.batch import Batch
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.masking import mask_tokens
from electra_ref.model.objectives import electra
from electra_ref.model.parameters import FlatParameters, Gradients
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.rng import EVALUATION, Purpose, RandomStream
from electra_ref.sampling import CorruptedBatch, corrupt, sample_tokens
from electra_ref.training.optimizer import TrainingState
from electra_ref.training.pretraining.task import evaluate_batch
from electra_ref.training.step import train_step
from tests import plain_electra
from tests.plain_electra import Rates
from tests.test_metamorphic import draw_rows
from tests.test_optimizer import moments
from tests.tiny_electra import SPECIAL_TOKENS, tiny_config, tiny_model, tiny_state

CONFIG = tiny_config(
    generator_hidden_size=0.75, generator_layers=0.5, hidden_dropout=0.3, attention_dropout=0.15,
    layer_norm_eps=1e-3, initializer_range=0.3, mask_probability=0.4, temperature=1.7,
    generator_weight=3.0, discriminator_weight=7.0, steps=50, batch_size=6, accumulate=2,
    learning_rate=0.02, warmup_steps=8, lr_decay_power=3.0, weight_decay=0.3, adam_beta1=0.8,
    adam_beta2=0.95, adam_epsilon=1e-3, gradient_clip=0.7, seed=11,
)  # fmt: skip
STEP = 5  # within the warm-up, behind the first step
SITES = {"generator": 0x100, "discriminator": 0x10100}


class Expected(NamedTuple):
    """What the plain computation says of some rows."""

    mlm: Array  # (masked positions,)  losses
    rtd: Array  # (tokens,)  losses
    corrupted: CorruptedBatch
    generator_logits: Array  # (B M, V)
    discriminator_logits: Array  # (B T,)


def plain(
    config: PretrainingConfig,
    parameters: FlatParameters,
    batch: Batch,
    stream: RandomStream,
    *,
    drop: bool,
) -> Expected:
    """Mask, generate, sample, corrupt and discriminate; masks and samples are the package's own."""
    masked = mask_tokens(batch, SPECIAL_TOKENS, config.mask_probability, stream)
    heads, layers = {"generator": 1, "discriminator": 2}, {"generator": 1, "discriminator": 2}

    def encode(network: str, ids: Array) -> Array:
        rates = Rates(
            config.hidden_dropout,
            config.attention_dropout,
            stream if drop else None,
            SITES[network],
        )
        sizes = heads[network], layers[network], config.layer_norm_eps
        return plain_electra.encode(
            parameters.views, network, *sizes, rates, ids, batch.token_type_ids,
            batch.attention_mask,
        )  # fmt: skip

    hidden = encode("generator", masked.masked_ids)
    logits = plain_electra.guess_words(parameters.views, hidden, config.layer_norm_eps)
    rows = np.arange(len(logits))[:, None]
    logits = logits[rows, masked.positions].reshape(-1, logits.shape[-1])
    slots = masked.positions.shape[1]
    sampled = sample_tokens(logits, config.temperature, stream, slots)
    corrupted = corrupt(masked, sampled)
    hidden = encode("discriminator", corrupted.corrupted_ids)
    detected = plain_electra.detect(parameters.views, hidden)
    used, tokens = masked.weights.reshape(-1), batch.attention_mask
    return Expected(
        plain_electra.mlm_losses(logits[used], masked.labels.reshape(-1)[used]),
        plain_electra.rtd_losses(detected[tokens], corrupted.replaced[tokens]),
        corrupted,
        logits,
        detected.reshape(-1),
    )


def begin() -> tuple[TrainingState, list[Batch]]:
    """Return a state in the midst of a training, and two micro-batches of unequal tokens."""
    state, random = tiny_state(CONFIG, "float64"), np.random.default_rng(0)
    state.parameters.vector[...] += 0.1 * random.standard_normal(state.parameters.vector.size)
    state.first_moment.vector[...] = 0.01 * random.standard_normal(state.parameters.vector.size)
    state.second_moment.vector[...] = 1e-4 * random.random(state.parameters.vector.size)
    state.step = STEP
    return state, [draw_rows(3, CONFIG.max_length, seed) for seed in (1, 2)]


def streams() -> list[RandomStream]:
    return [RandomStream(11, Purpose.MASK, STEP, first) for first in (0, 3)]


def test_losses_rate_and_tokens_of_a_step() -> None:
    state, batches = begin()
    parts = [
        plain(CONFIG, state.parameters, batch, stream, drop=True)
        for batch, stream in zip(batches, streams(), strict=True)
    ]
    assert all(part.corrupted.replaced.any() for part in parts)
    mlm = np.concatenate([part.mlm for part in parts]).mean()
    rtd = np.concatenate([part.rtd for part in parts]).mean()
    result = train_step(CONFIG, reference, electra, tiny_model(CONFIG), state, batches)
    assert result.losses == {
        "mlm_loss": pytest.approx(mlm, rel=1e-12),
        "rtd_loss": pytest.approx(rtd, rel=1e-12),
    }
    assert result.loss == pytest.approx(3.0 * mlm + 7.0 * rtd, rel=1e-12)
    assert result.learning_rate == pytest.approx(0.02 * (5 / 8) * (45 / 50) ** 3, rel=1e-14)
    assert result.tokens == sum(batch.attention_mask.sum() for batch in batches)
    assert state.step == STEP + 1


def test_the_update_of_a_step() -> None:
    """From the gradients of each micro-batch, which ``test_electra_gradients`` proves."""
    state, batches = begin()
    before, model = state.parameters.vector.copy(), tiny_model(CONFIG)
    first, second = (flat.vector.copy() for flat in (state.first_moment, state.second_moment))
    counts = [electra.count_losses(model, batch) for batch in batches]
    total = {name: counts[0][name] + counts[1][name] for name in ("mlm", "rtd")}
    gradient = np.zeros_like(before)
    for batch, stream in zip(batches, streams(), strict=True):
        gradients = Gradients(state.parameters.specs, np.full_like(before, np.nan))
        run = ForwardPass(reference, state.parameters, stream)
        _, cache = electra.forward(run, model, batch, stream)
        electra.backward(BackwardPass(reference, gradients), model, total, cache)
        gradient += gradients.vector
    norm = np.linalg.norm(gradient)
    assert norm > CONFIG.gradient_clip
    result = train_step(CONFIG, reference, electra, model, state, batches)
    assert result.gradient_norm == pytest.approx(norm, rel=1e-12)
    new_first, new_second = moments((gradient * 0.7 / norm)[None], 0.8, 0.95)
    new_first, new_second = new_first + 0.8 * first, new_second + 0.95 * second
    decays = np.repeat(
        [0.3 * spec.decays for spec in state.parameters.specs],
        [int(np.prod(spec.shape)) for spec in state.parameters.specs],
    )
    update = new_first / (np.sqrt(new_second) + 1e-3) + decays * before
    expected = before - result.learning_rate * update
    np.testing.assert_allclose(state.parameters.vector, expected.astype(float), rtol=1e-11)
    np.testing.assert_allclose(state.first_moment.vector, new_first.astype(float), rtol=1e-11)
    np.testing.assert_allclose(state.second_moment.vector, new_second.astype(float), rtol=1e-11)


def test_logits_of_an_evaluation_are_those_of_an_undropped_pass() -> None:
    """Other random numbers than in training, those of step 0, named by the first row's number."""
    state, (batch, _) = begin()
    stream = RandomStream(11, Purpose.MASK | EVALUATION, 0, 4)
    expected = plain(CONFIG, state.parameters, batch, stream, drop=False)
    output = evaluate_batch(CONFIG, reference, tiny_model(CONFIG), state.parameters, batch, 4)
    for name in ("corrupted_ids", "sampled_ids", "replaced"):
        np.testing.assert_array_equal(
            getattr(output.corrupted, name), getattr(expected.corrupted, name)
        )
    np.testing.assert_allclose(output.generator_logits, expected.generator_logits, rtol=1e-10)
    tokens = batch.attention_mask.ravel()  # logits of padding mean nothing
    np.testing.assert_allclose(
        output.discriminator_logits[tokens], expected.discriminator_logits[tokens], rtol=1e-10
    )
    mlm, rtd = output.terms
    assert (mlm.name, mlm.places, mlm.weight) == ("mlm", expected.mlm.size, 3.0)
    assert (rtd.name, rtd.places, rtd.weight) == ("rtd", expected.rtd.size, 7.0)
    assert float(mlm.sum) == pytest.approx(expected.mlm.sum(), rel=1e-12)
    assert float(rtd.sum) == pytest.approx(expected.rtd.sum(), rel=1e-12)


def test_every_dropout_site_has_bits_of_its_own() -> None:
    """No two sites of a step, of either network, share a stream."""
    seen: list[tuple[RandomStream, int]] = []

    class Watching:
        def __getattr__(self, name: str) -> object:
            return getattr(reference, name)

        def dropout_bits(self, stream: RandomStream, examples: int, count: int) -> Array:
            seen.append((stream, count))
            return reference.dropout_bits(stream, examples, count)

    state, (batch, _) = begin()
    run = ForwardPass(Watching(), state.parameters, streams()[1])  # type: ignore[arg-type]
    electra.forward(run, tiny_model(CONFIG), batch, streams()[1])
    purposes = [stream.purpose for stream, _ in seen]
    assert len(purposes) == (1 + 3 * 1) + (1 + 3 * 2)
    assert len(set(purposes)) == len(purposes)
    assert {stream._replace(purpose=0) for stream, _ in seen} == {RandomStream(11, 0, STEP, 3)}
