"""The losses of every variant a second time, from the definitions: no code of the package.

The other computation is ``plain_electra``. Only masks, samples, noise and random bits are the
package's own. No weight and no rate has its default, the temperature is not 1, and rows are padded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
from scipy.special import expit, log_expit, softmax

from electra_ref.arrays import Array
from electra_ref.backends import reference
from electra_ref.config.objective import AdversarialConfig
from electra_ref.gumbel import gumbel_noise
from electra_ref.model.generation import Samples
from electra_ref.model.losses import total_loss
from electra_ref.model.objectives import electra
from electra_ref.model.objectives.output import Output
from electra_ref.model.parameters import FlatParameters, Gradients
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.model.reinforce import reinforce_backward
from electra_ref.model.relaxation import Relaxation, relax, relax_backward
from electra_ref.sampling import corrupt
from tests import plain_electra
from tests.plain_electra import Rates
from tests.tiny_electra import SPECIAL_TOKENS, VOCAB_SIZE
from tests.variants import (
    VARIANTS,
    VariantProblem,
    gradients_of_variant,
    output_of,
    variant_problem,
)

SETTINGS: dict[str, Any] = {
    "hidden_dropout": 0.3, "attention_dropout": 0.15, "layer_norm_eps": 1e-3, "temperature": 1.7,
}  # fmt: skip
OF_ELECTRA: dict[str, Any] = {**SETTINGS, "generator_weight": 3.0, "discriminator_weight": 7.0}
ADVERSARIAL = {"adversarial_weight": 2.5}
RELATIVE = 1e-12


class Expected(NamedTuple):
    """What the definitions say of one term."""

    losses: Array  # of each place
    places: int  # that the sum is divided by
    weight: float


def problem_of(variant: str, seed: int = 3) -> VariantProblem:
    """Return a variant; none of the weights that it has is the default."""
    settings = VARIANTS[variant]
    objective = settings.get("objective", "electra")
    adversarial = ADVERSARIAL if "adversarial" in settings else {}
    changes: dict[str, Any] = {**SETTINGS, **adversarial}
    if objective in ("electra", "electra-15"):
        changes["discriminator_weight"] = 7.0
    else:
        changes["encoder_weight"] = 2.0
    if objective != "mlm" and not settings.get("uniform_generator"):
        changes["generator_weight"] = 0.0 if variant == "reinforce alone" else 3.0
    return variant_problem(variant, 0.5, seed, **changes)


def tables_of(problem: VariantProblem, network: str) -> dict[str, Array]:
    """Return the parameters of a network under the names that ``plain_electra`` reads."""
    views = dict(FlatParameters(problem.specs, problem.vector).views)
    sharing = problem.config.sharing
    guesses = {n.replace("encoder.", "generator.", 1): x for n, x in views.items()}
    if network == "encoder":
        kept = {n: x for n, x in guesses.items() if n.startswith("generator.head.")}
        gate = {n.replace("encoder.gate.", "discriminator.", 1): x for n, x in views.items()}
        return {**views, **gate, **kept}
    if sharing == "all":
        for name in [n for n in views if n.startswith("encoder.") and ".head." not in n]:
            views[name.replace("encoder", network, 1)] = views[name]
    if sharing == "none" and network == "generator":
        views.update({n.removeprefix("generator."): x for n, x in views.items()
                      if n.startswith("generator.embeddings.")})  # fmt: skip
    if sharing == "gdes" and network == "discriminator":
        own = {n.removeprefix("discriminator."): x for n, x in views.items()
               if n.startswith("discriminator.embeddings.")}  # fmt: skip
        views.update({n: x if "layer_norm" in n else views[n] + x for n, x in own.items()})
    return views


def encode(
    problem: VariantProblem, network: str, views: Mapping[str, Array], rows: tuple[Array, ...]
) -> Array:
    """Return the hidden states (B, T, C) of ``rows``: ids, segments, and which are tokens."""
    config = problem.config
    first = 0x100 if network == "generator" else 0x10100
    rates = Rates(config.hidden_dropout, config.attention_dropout, problem.stream, first)
    heads = 1 if network == "generator" else config.num_attention_heads
    sizes = heads, 1, config.layer_norm_eps
    return plain_electra.encode(views, network, *sizes, rates, *rows)


def guesses_of(
    problem: VariantProblem, network: str, ids: Array, output: Output
) -> tuple[Array, Array]:
    """Return hidden states and logits of ``network`` at all positions (B, T, ...)."""
    views, batch = tables_of(problem, network), output.masked.batch
    hidden = encode(problem, network, views, (ids, batch.token_type_ids, batch.attention_mask))
    return hidden, plain_electra.guess_words(views, hidden, problem.config.layer_norm_eps)


def at_slots(values: Array, positions: Array) -> Array:
    """Return the values (B, M, ...) at ``positions`` (B, M)."""
    return values[np.arange(len(positions))[:, None], positions]


def pair_by_hand(output: Output) -> tuple[Array, Array, Array, Array, Array]:
    """Return ids, segments, tokens, answers, and the place of each slot, token by token."""
    assert output.corrupted is not None
    original, corrupted = output.masked.batch, output.corrupted.corrupted_ids
    rows, length = original.input_ids.shape
    ids, types = np.zeros((rows, 2 * length - 1), int), np.zeros((rows, 2 * length - 1), int)
    tokens, answers = np.zeros(ids.shape, bool), np.zeros(ids.shape, bool)
    places = np.zeros(output.masked.positions.shape, int)
    for row, count in enumerate(original.attention_mask.sum(axis=1)):
        second = corrupted[row, 1:count]
        differs = second != original.input_ids[row, 1:count]
        whole = [*original.input_ids[row, :count], *second]
        ids[row, : len(whole)], tokens[row, : len(whole)] = whole, True
        types[row, count : len(whole)] = 1
        answers[row, count : len(whole)] = differs
        for slot in np.flatnonzero(output.masked.weights[row]):
            places[row, slot] = count + output.masked.positions[row, slot] - 1
    return ids, types, tokens, answers, places


def read_by_hand(problem: VariantProblem, output: Output) -> tuple[Array, ...]:
    """Return what the discriminator reads, as ``pair_by_hand``."""
    assert output.corrupted is not None
    if problem.config.discriminator_input == "paired":
        return pair_by_hand(output)
    batch, ids = output.masked.batch, output.corrupted.corrupted_ids
    positions = output.masked.positions
    return ids, batch.token_type_ids, batch.attention_mask, ids != batch.input_ids, positions


def detect(problem: VariantProblem, output: Output, logits: Array | None) -> tuple[Array, ...]:
    """Return detection logits, tokens and answers (B, T'), and the places of the slots (B, M).

    Mixtures of words are rows that are put behind the table.
    """
    views, config = tables_of(problem, "discriminator"), problem.config
    ids, types, tokens, answers, places = read_by_hand(problem, output)
    if logits is not None and not config.straight_through:
        noise = gumbel_noise(problem.stream, len(logits), places.shape[1], VOCAB_SIZE, float)
        scores = (logits / config.temperature + noise) / config.gumbel_temperature
        table = views["embeddings.word_embeddings.weight"]
        mixtures = softmax(scores, axis=-1) @ table
        views["embeddings.word_embeddings.weight"] = np.concatenate([table, mixtures])
        numbers = VOCAB_SIZE + np.arange(len(logits)).reshape(places.shape)
        ids, used = ids.copy(), output.masked.weights
        ids[np.nonzero(used)[0], places[used]] = numbers[used]
    hidden = encode(problem, "discriminator", views, (ids, types, tokens))
    return plain_electra.detect(views, hidden), tokens, answers, places


def policy_of(
    problem: VariantProblem, output: Output, rewards: Array, states: Array, logits: Array
) -> tuple[Array, Array]:
    """Return the losses of policy and baseline at each used slot, n of them.

    ``rewards`` (n,) are losses of the discriminator, ``states`` (n, C) the generator's.
    """
    views, name = FlatParameters(problem.specs, problem.vector).views, "generator.head.baseline"
    x = states @ views[f"{name}.weight"][:, 0] + views[f"{name}.bias"][0]
    assert output.corrupted is not None
    sampled = output.corrupted.sampled_ids[output.masked.weights]
    chosen = -plain_electra.mlm_losses(logits / 1.7, sampled)
    right = np.exp(-rewards)
    baseline = -right * log_expit(x) - (1 - right) * log_expit(-x)
    return -(rewards + log_expit(x)) * chosen, baseline


def expected_of(problem: VariantProblem, output: Output) -> dict[str, Expected]:
    """Return every term of the loss."""
    config, masked = problem.config, output.masked
    used, labels = masked.weights, masked.labels[masked.weights]
    count = int(used.sum())
    expected: dict[str, Expected] = {}
    hidden = logits = None
    if config.objective != "mlm" and not config.uniform_generator:
        hidden, everywhere = guesses_of(problem, "generator", masked.masked_ids, output)
        logits = at_slots(everywhere, masked.positions)
        losses = plain_electra.mlm_losses(logits[used], labels)
        expected["mlm"] = Expected(losses, count, config.generator_weight)
    if config.objective in ("mlm", "replace-mlm"):
        name = config.objective.replace("-", "_")
        ids = masked.masked_ids if name == "mlm" else read_by_hand(problem, output)[0]
        _, everywhere = guesses_of(problem, "encoder", ids, output)
        losses = plain_electra.mlm_losses(at_slots(everywhere, masked.positions)[used], labels)
        expected[name] = Expected(losses, count, 2.0)
    elif config.objective == "all-tokens-mlm":
        ids, _, tokens, _, _ = read_by_hand(problem, output)
        states, everywhere = guesses_of(problem, "encoder", ids, output)
        copies = expit(-plain_electra.detect(tables_of(problem, "encoder"), states))[tokens]
        originals = masked.batch.input_ids[tokens]
        drawn = softmax(everywhere[tokens], axis=-1)[np.arange(len(originals)), originals]
        losses = -np.log(copies * (ids[tokens] == originals) + (1 - copies) * drawn)
        expected["all_tokens"] = Expected(losses, int(tokens.sum()), 2.0)
    else:
        relaxed = config.adversarial == "gumbel-softmax"
        flat = logits.reshape(-1, VOCAB_SIZE) if relaxed and logits is not None else None
        detections, tokens, answers, places = detect(problem, output, flat)
        if config.objective == "electra-15":
            rows = np.nonzero(used)[0]
            losses = plain_electra.rtd_losses(
                detections[rows, places[used]], answers[rows, places[used]]
            )
        else:
            losses = plain_electra.rtd_losses(detections[tokens], answers[tokens])
        expected["rtd"] = Expected(losses, len(losses), 7.0)
        if config.adversarial == "reinforce":
            assert logits is not None
            assert hidden is not None
            rewards = plain_electra.rtd_losses(
                at_slots(detections, places)[used], at_slots(answers, places)[used]
            )
            states = at_slots(hidden, masked.positions)[used]
            policy, baseline = policy_of(problem, output, rewards, states, logits[used])
            expected["policy"] = Expected(policy, len(losses), 2.5)
            expected["baseline"] = Expected(baseline, count, 1.0)
    return expected


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "two stages"])
def test_terms_and_total_are_the_definitions(variant: str) -> None:
    problem = problem_of(variant)
    output = output_of(problem, problem.vector)
    expected = expected_of(problem, output)
    assert output.corrupted is None or output.corrupted.replaced.any()
    assert {t.name: (t.places, t.weight) for t in output.terms} == {
        name: (term.places, term.weight) for name, term in expected.items()
    }
    total = 0.0
    for term in output.terms:
        losses = expected[term.name].losses
        scale = np.abs(losses).sum()
        assert abs(float(term.sum) - losses.sum()) <= RELATIVE * scale, term.name
        total += expected[term.name].weight * losses.sum() / expected[term.name].places
    assert float(total_loss(output.terms)) == pytest.approx(total, rel=1e-11)
    assert SPECIAL_TOKENS.pad == 0  # which ``pair_by_hand`` fills rows with


@pytest.mark.parametrize(
    "variant", [v for v in VARIANTS if "replace-mlm" in v or "all-tokens-mlm" in v]
)
def test_in_evaluation_the_encoder_guesses_behind_mask(variant: str) -> None:
    problem = problem_of(variant)
    parameters = FlatParameters(problem.specs, problem.vector)
    run = ForwardPass(reference, parameters, problem.stream)
    output = problem.objective.evaluate(run, problem.model, problem.batch, problem.stream)
    masked, found = output.masked, output.encoder_guesses
    _, everywhere = guesses_of(problem, "encoder", masked.masked_ids, output)
    expected = at_slots(everywhere, masked.positions)
    used = masked.weights.reshape(-1)
    np.testing.assert_allclose(
        found.logits[used], expected[masked.weights], rtol=1e-9, atol=1e-11 * np.abs(expected).max()
    )


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "straight-through" in v])
def test_straight_through_has_the_losses_of_the_sampled_tokens(variant: str) -> None:
    """Bit for bit those of ``adversarial`` = none, given the same samples."""
    problem = problem_of(variant)
    output = output_of(problem, problem.vector)
    assert output.corrupted is not None
    settings = dataclasses.replace(
        problem.model.settings, **dataclasses.asdict(AdversarialConfig())
    )
    plain = problem.model._replace(settings=settings)
    samples = Samples(output.corrupted, None)
    with mock.patch.object(electra, "sample", return_value=samples):
        hard = output_of(problem._replace(model=plain), problem.vector)
    assert [(t.name, float(t.sum)) for t in output.terms] == [
        (t.name, float(t.sum)) for t in hard.terms
    ]


@pytest.mark.parametrize("weight", [2.5, -2.5])
def test_the_sign_of_the_weight_fools_or_helps(weight: float) -> None:
    """Down the hand-written gradient the relaxed RTD loss rises, or falls: MLM has no weight.

    Only the generator moves. Its gradient is -weight / discriminator_weight times that of the RTD
    term, which the mixtures make a smooth function of the generator's parameters.
    """
    changes = {
        **OF_ELECTRA,
        "generator_weight": 0.0,
        "sharing": "none",
        "adversarial_weight": weight,
    }
    problem = variant_problem("gumbel-softmax, soft", 0.5, 3, **changes)
    gradients = gradients_of_variant(problem)
    step = FlatParameters(problem.specs, np.zeros_like(problem.vector))
    for name, gradient in gradients.views.items():
        if name.startswith("generator."):
            step[name][...] = gradient
    length = 1e-6 / np.linalg.norm(step.vector)
    with mock.patch.object(electra, "sample", return_value=drawn_by(problem)):
        before, after = (
            float(output_of(problem, problem.vector - t * step.vector).terms[1].sum)
            for t in (0.0, length)
        )
    count = problem.counts["rtd"]
    slope = step.vector @ step.vector / weight  # of the mean along the step
    assert (after - before) / count == pytest.approx(length * slope, rel=1e-3)
    assert (after > before) == (weight > 0)


def drawn_by(problem: VariantProblem) -> Samples:
    """Return the samples of the problem, so that a small move cannot change them."""
    corrupted = output_of(problem, problem.vector).corrupted
    assert corrupted is not None
    rows, slots = corrupted.masked.positions.shape
    noise = gumbel_noise(problem.stream, rows * slots, slots, VOCAB_SIZE, float)
    return Samples(corrupted, noise)


def test_policy_gradient_is_exact_on_average_over_all_samples() -> None:
    """Every token takes one slot, weighted by its probability; the others stay as they are.

    The average is the derivative of -weight sum over v of p_v R_v / tokens by the logits of the
    slot, R_v being the discriminator's loss there. The baseline has no part in it.
    """
    problem = problem_of("reinforce")
    output = output_of(problem, problem.vector)
    assert output.corrupted is not None
    assert output.guesses is not None
    row, slot = 1, 2
    assert output.masked.weights[row, slot]
    number = row * output.masked.weights.shape[1] + slot
    p = softmax(output.guesses.logits[number] / 1.7)
    rewards, average = np.empty(VOCAB_SIZE), np.zeros(VOCAB_SIZE)
    for token in range(VOCAB_SIZE):
        sampled_ids = output.corrupted.sampled_ids.copy()
        sampled_ids[row, slot] = token
        samples = Samples(corrupt(output.masked, sampled_ids), None)
        with mock.patch.object(electra, "sample", return_value=samples):
            run = ForwardPass(
                reference, FlatParameters(problem.specs, problem.vector), problem.stream
            )
            got, cache = electra.forward(run, problem.model, problem.batch, problem.stream)
        assert cache.reinforce is not None
        assert problem.model.generator is not None
        detections, _, answers, places = detect(problem, got, None)
        place = row, places[row, slot]
        rewards[token] = plain_electra.rtd_losses(detections[place], answers[place])
        gradients = Gradients(problem.specs, np.zeros_like(problem.vector))
        backward = BackwardPass(reference, gradients)
        dlogits = reinforce_backward(
            backward, problem.model.generator, problem.counts, cache.reinforce
        )
        average += p[token] * dlogits[number]
    exact = -2.5 * p * (rewards - p @ rewards) / 1.7 / problem.batch.attention_mask.sum()
    np.testing.assert_allclose(average, exact, rtol=1e-10)


def test_straight_through_takes_the_gradient_of_the_mixture_at_hard_inputs() -> None:
    """Slot by slot, (diag p - p pᵀ) (table dx) / tau; unused slots and the table have none."""
    random, rows = np.random.default_rng(5), 4
    logits, noise, table = (random.standard_normal((n, 7)) for n in (rows, rows, 5))
    table, x, dx = table.T, random.standard_normal((6, 5)), random.standard_normal((6, 5))
    positions, weights = np.array([[1, 2], [1, 0]]), np.array([[1.0], [1.0], [1.0], [0.0]])
    sampled = (logits + noise).argmax(axis=1)
    relaxation = Relaxation(logits, noise, 0.6, sampled, positions, weights, True)
    run = ForwardPass(reference, FlatParameters([], np.zeros(0)), None)
    y, cache = relax(run, table, x, relaxation)
    np.testing.assert_array_equal(y, x)
    backward = BackwardPass(reference, Gradients([], np.zeros(0)))
    dlogits = relax_backward(backward, "no table", dx, cache)
    for row, place in enumerate((1, 2, 4)):
        p = softmax((logits[row] + noise[row]) / 0.6)
        expected = (np.diag(p) - np.outer(p, p)) @ (table @ dx[place]) / 0.6
        np.testing.assert_allclose(dlogits[row], expected, rtol=1e-12)
    assert not dlogits[3].any()
