"""Sizes, initial values and the flat vector of the parameters."""

from __future__ import annotations

import hashlib
import math
import struct
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr

from electra_ref.backends import reference
from electra_ref.batch import Batch
from electra_ref.config.model import EncoderSize
from electra_ref.config.pretraining import PretrainingConfig, resolve_config
from electra_ref.errors import UserError
from electra_ref.model import objectives
from electra_ref.model.embeddings import EMBEDDING_SITE, word_embeddings
from electra_ref.model.encoder import SITES_PER_LAYER, encoder_specs
from electra_ref.model.losses import mean_losses
from electra_ref.model.objectives.table import objective_of
from electra_ref.model.parameters import (
    FlatParameters,
    Gradients,
    ParameterGroup,
    ParameterSpec,
    initial_values,
    parameter_table,
)
from electra_ref.rng import Purpose, RandomStream, random_words
from electra_ref.training.pretraining.task import evaluate_batch
from tests.tiny_electra import SPECIAL_TOKENS, tiny_config, tiny_model
from tests.variants import gradients_of_variant, output_of, variant_problem

GLOROT = ("embeddings_project.weight", "discriminator.head.output.weight")


def parameter_specs(config: PretrainingConfig) -> list[ParameterSpec]:
    """Return the table of the model that ``config`` describes."""
    return objectives.electra.parameter_specs(tiny_model(config))


def count(config: PretrainingConfig, prefixes: tuple[str, ...]) -> int:
    """Return the number of parameters whose names start with one of ``prefixes``."""
    specs = parameter_specs(config)
    return sum(math.prod(spec.shape) for spec in specs if spec.name.startswith(prefixes))


@pytest.mark.parametrize(
    ("preset", "discriminator", "joint"),
    [
        ("small", 13_549_057, 14_196_219),
        ("base", 109_483_009, 119_386_427),
        ("large", 335_142_913, 354_655_291),
    ],
)
def test_counts_are_those_of_the_original(preset: str, discriminator: int, joint: int) -> None:
    """Clark et al. 2020 give 14M, 110M and 335M for the discriminators."""
    config = resolve_config(preset=preset, settings=["vocab_size=30522"])
    assert config.max_vocab_size == 30522
    assert count(config, ("embeddings.", "discriminator.")) == discriminator
    assert count(config, ("",)) == joint


def test_names_are_unique_and_decaying_ones_come_first() -> None:
    specs = parameter_specs(tiny_config())
    assert len({spec.name for spec in specs}) == len(specs)
    decays = [spec.decays for spec in specs]
    assert decays == sorted(decays, reverse=True)
    decayed = sum(math.prod(spec.shape) for spec in specs if spec.decays)
    size = count(tiny_config(), ("",))
    groups = FlatParameters(specs, np.zeros(size)).groups()
    assert groups == [
        ParameterGroup(slice(0, decayed), True, 1.0),
        ParameterGroup(slice(decayed, size), False, 1.0),
    ]
    for spec in specs:
        # The original leaves out what LayerNorm, layer_norm or bias matches; tables do decay.
        assert spec.decays == ("layer_norm" not in spec.name and "bias" not in spec.name)


def test_initial_values_follow_the_original() -> None:
    """Truncated normal but for the layers that take TensorFlow's default; biases 0, scales 1."""
    config = tiny_config(vocab_size=300, embedding_size=64, hidden_size=128)
    specs = parameter_specs(config)
    flat = FlatParameters(specs, initial_values(specs, config.seed, config.initializer_range))
    for spec in specs:
        values = flat[spec.name]
        if spec.name.endswith(".bias"):
            assert not values.any(), spec.name
        elif "layer_norm" in spec.name:
            assert (values == 1).all(), spec.name
        elif spec.name.endswith(GLOROT):
            limit = math.sqrt(6 / sum(spec.shape))
            assert np.abs(values).max() <= limit
            assert np.abs(values).max() >= 0.9 * limit
            assert_moments(values, limit / math.sqrt(3), excess=1.8 - 1)
        else:
            assert np.abs(values).max() <= 2 * 0.02, spec.name
            assert_moments(values, 0.02 * CUT_DEVIATION, excess=CUT_KURTOSIS - 1)


# Of the normal distribution cut at two deviations: E x^2 and E x^4 by parts, with density phi
_PHI = math.exp(-2) / math.sqrt(2 * math.pi)
_SHARE = float(ndtr(2.0) - ndtr(-2.0))
CUT_VARIANCE = 1 - 4 * _PHI / _SHARE
CUT_DEVIATION = math.sqrt(CUT_VARIANCE)  # 0.8796
CUT_KURTOSIS = (3 * CUT_VARIANCE - 16 * _PHI / _SHARE) / CUT_VARIANCE**2


def assert_moments(values: np.ndarray, deviation: float, excess: float) -> None:
    """Assert mean 0 and variance within six standard errors (false alarm 2e-9 each).

    ``excess`` is the kurtosis less 1: the variance of x^2 over the square of the variance of x.
    """
    assert abs(values.mean()) <= 6 * deviation / math.sqrt(values.size)
    error = 6 * math.sqrt(excess / values.size)
    assert abs((values**2).mean() / deviation**2 - 1) <= error


def test_initial_values_depend_on_the_seed_and_the_tensor() -> None:
    config, other = tiny_config(seed=1), tiny_config(seed=2)
    specs = parameter_specs(config)
    values = initial_values(specs, config.seed, config.initializer_range)
    np.testing.assert_array_equal(
        values, initial_values(specs, config.seed, config.initializer_range)
    )
    drawn = values[(values != 0) & (values != 1)]
    assert np.unique(drawn).size == drawn.size
    same = values == initial_values(specs, other.seed, other.initializer_range)
    assert (same == ((values == 0) | (values == 1))).all()


def test_initial_loss_is_that_of_knowing_nothing() -> None:
    """ln V + 50 ln 2 = 44.98: every word is equally likely, every token as likely as not."""
    config = tiny_config(
        vocab_size=30522,
        embedding_size=64,
        hidden_size=64,
        num_hidden_layers=1,
        max_length=64,
        max_position_embeddings=64,
    )
    specs, random = parameter_specs(config), np.random.default_rng(0)
    parameters = FlatParameters(
        specs, initial_values(specs, config.seed, config.initializer_range).astype(np.float32)
    )
    ids = random.integers(5, 30522, (4, 64)).astype(np.int32)
    batch = Batch(ids, np.zeros_like(ids), np.ones(ids.shape, bool))
    output = evaluate_batch(config, reference, tiny_model(config), parameters, batch, 0)
    mlm, rtd = mean_losses(output.terms).values()
    assert mlm == pytest.approx(math.log(30522), abs=0.1)
    assert rtd == pytest.approx(math.log(2), abs=0.03)
    assert mlm + 50 * rtd == pytest.approx(44.98, abs=1.5)


def test_views_share_the_vector_and_sizes_are_checked() -> None:
    specs = parameter_specs(tiny_config())
    size = count(tiny_config(), ("",))
    flat = FlatParameters(specs, np.zeros(size))
    for number, spec in enumerate(specs):
        flat[spec.name][...] = number + 1
    assert np.array_equal(
        flat.vector,
        np.repeat(np.arange(len(specs)) + 1.0, [math.prod(spec.shape) for spec in specs]),
    )
    with pytest.raises(ValueError, match="do not fit"):
        FlatParameters(specs, np.zeros(size + 1))


def test_gradients_are_set_first_and_added_to_afterwards() -> None:
    specs = parameter_specs(tiny_config())[:1]
    gradients = Gradients(specs, np.full(math.prod(specs[0].shape), np.nan))
    for wanted in (1.0, 2.0):
        gradients.sum_of(specs[0].name).add(np.ones(specs[0].shape))
        assert (gradients.vector == wanted).all()
    gradients.restart()
    gradients.sum_of(specs[0].name).transpose().add(np.ones(specs[0].shape[::-1]))
    assert (gradients.vector == 1.0).all()


def test_a_gradient_that_nothing_wrote_is_refused_by_name() -> None:
    specs = parameter_specs(tiny_config())[:2]
    size = sum(math.prod(spec.shape) for spec in specs)
    gradients = Gradients(specs, np.zeros(size))
    gradients.sum_of(specs[0].name).add(np.ones(specs[0].shape))
    with pytest.raises(ValueError, match=specs[1].name) as refused:
        gradients.require_complete()
    assert specs[0].name not in str(refused.value)
    gradients.sum_of(specs[1].name).add(np.ones(specs[1].shape))
    gradients.require_complete()
    gradients.restart()
    with pytest.raises(ValueError, match=specs[0].name):
        gradients.require_complete()


def test_initial_values_depend_on_the_name_alone() -> None:
    """Another generator leaves the discriminator as it was, and so does the order of the table."""
    config = tiny_config()
    other = tiny_config(generator_layers=0.5, generator_hidden_size=1.0)
    specs, others = parameter_specs(config), parameter_specs(other)
    values = FlatParameters(specs, initial_values(specs, 1, 0.02))
    changed = FlatParameters(others, initial_values(others, 1, 0.02))
    for spec in specs:
        if not spec.name.startswith("generator."):
            np.testing.assert_array_equal(changed[spec.name], values[spec.name])
    turned = FlatParameters(specs[::-1], initial_values(specs[::-1], 1, 0.02))
    for spec in specs:
        np.testing.assert_array_equal(turned[spec.name], values[spec.name])


def test_groups_follow_rate_and_decay() -> None:
    """Parameters that are treated alike stand side by side, however the parts come."""
    specs = [
        ParameterSpec("a", (2,), "ones", True, 0.5),
        ParameterSpec("b", (3,), "ones", False),
        ParameterSpec("c", (4,), "ones", True),
        ParameterSpec("d", (5,), "ones", True, 0.5),
    ]
    table = parameter_table([specs[:2], specs[1:]])
    assert [spec.name for spec in table] == ["a", "d", "c", "b"]
    assert FlatParameters(table, np.zeros(14)).groups() == [
        ParameterGroup(slice(0, 7), True, 0.5),
        ParameterGroup(slice(7, 11), True, 1.0),
        ParameterGroup(slice(11, 14), False, 1.0),
    ]


def test_one_name_for_two_parameters_is_refused() -> None:
    a, b = ParameterSpec("a", (2,), "ones", True), ParameterSpec("a", (3,), "ones", True)
    with pytest.raises(ValueError, match="a is both"):
        parameter_table([[a], [b]])


def test_the_stream_of_a_parameter_is_named_by_the_hash_of_its_name() -> None:
    """Eight bytes of SHA-256, the first four as the step, the next four as the example."""
    spec = ParameterSpec("some.weight", (3, 5), "glorot_uniform", True)
    digest = hashlib.sha256(b"some.weight").digest()
    step, example = struct.unpack("<II", digest[:8])
    words = random_words(RandomStream(9, Purpose.INITIALIZE, step, example), 1, 15)[0]
    expected = math.sqrt(6 / 8) * (2 * (words + 0.5) / 2**32 - 1)
    np.testing.assert_allclose(initial_values([spec], 9, 0.02), expected, rtol=1e-15)


def test_networks_have_dropout_sites_of_their_own() -> None:
    """The numbers are part of what a seed means: another one would change every run."""
    model = tiny_model(tiny_config())
    assert model.generator is not None
    assert (model.generator.first_site, model.discriminator.first_site) == (0, 65536)
    assert EMBEDDING_SITE == 0
    assert word_embeddings(model.generator) == "embeddings.word_embeddings.weight"
    assert SITES_PER_LAYER == 3


def tables(config: PretrainingConfig) -> int:
    """Return the size of words, positions, segments and their layer norm."""
    rows = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
    return (rows + 2) * config.embedding_size


def layers(config: PretrainingConfig, size: EncoderSize) -> int:
    """Return the size of the layers, and of the projection of the embeddings if they need one."""
    c, f, e = size.hidden_size, size.intermediate_size, config.embedding_size
    one = 3 * c * (c + 1) + c * (c + 1) + 2 * c + c * f + f + f * c + c + 2 * c
    return size.num_hidden_layers * one + (0 if c == e else e * c + c)


def vocabulary_head_size(config: PretrainingConfig, size: EncoderSize) -> int:
    """Return the size of a transformation, its layer norm and the biases of the words."""
    c, e = size.hidden_size, config.embedding_size
    return c * e + e + 2 * e + config.vocab_size


def detection_head_size(size: EncoderSize) -> int:
    """Return the size of a transformation and one output."""
    c = size.hidden_size
    return c * c + c + c + 1


@pytest.mark.parametrize("objective", ["electra", "replace-mlm", "all-tokens-mlm", "mlm"])
@pytest.mark.parametrize("width", [8, 5])  # of the embeddings: as wide as the network, or not
@pytest.mark.parametrize(
    ("sharing", "own_tables", "width_share", "depth_share"),
    [  # tables beside the first ones
        ("embeddings", 0, 0.5, 1.0),
        ("embeddings", 0, 0.5, 0.5),
        ("embeddings", 0, 1.0, 0.5),
        ("embeddings", 0, 2.0, 2.0),
        ("none", 1, 0.5, 1.0),
        ("none", 1, 1.0, 1.0),
        ("gdes", 1, 0.5, 1.0),
        ("all", 0, 1.0, 1.0),
    ],
)
def test_counts_follow_sharing_and_sizes(
    sharing: str,
    own_tables: int,
    width_share: float,
    depth_share: float,
    width: int,
    objective: str,
) -> None:
    settings: dict[str, Any] = {
        "objective": objective, "sharing": sharing, "embedding_size": width,
        "generator_hidden_size": width_share, "generator_layers": depth_share,
    }  # fmt: skip
    if (objective == "mlm" and sharing != "embeddings") or (
        objective != "electra" and sharing == "gdes"
    ):
        with pytest.raises(UserError, match="sharing"):
            tiny_config(**settings)
        return
    config = tiny_config(**settings)
    generator = EncoderSize(int(8 * width_share), int(2 * depth_share), 1, 4 * int(8 * width_share))
    encoder = EncoderSize(8, 2, 2, 11)
    if sharing == "all":
        generator = encoder
    expected = tables(config) * (1 + own_tables) + layers(config, encoder)
    if objective in ("electra", "all-tokens-mlm"):
        expected += detection_head_size(encoder)
    if objective != "electra":
        expected += vocabulary_head_size(config, encoder)
    if objective != "mlm":
        expected += vocabulary_head_size(config, generator)
        expected += 0 if sharing == "all" else layers(config, generator)
    specs = objective_of(config).parameter_specs(model_of(config))
    assert sum(math.prod(spec.shape) for spec in specs) == expected


def model_of(config: PretrainingConfig) -> Any:
    return objective_of(config).model_of(config, config, SPECIAL_TOKENS)


@pytest.mark.parametrize(
    ("sharing", "generator", "discriminator"),
    [
        ("none", {"generator.embeddings", "generator.layer", "generator.embeddings_project"},
         {"embeddings", "discriminator.layer", "discriminator.embeddings_project"}),
        ("embeddings", {"embeddings", "generator.layer", "generator.embeddings_project"},
         {"embeddings", "discriminator.layer", "discriminator.embeddings_project"}),
        ("all", {"embeddings", "encoder.layer", "encoder.embeddings_project"},
         {"embeddings", "encoder.layer", "encoder.embeddings_project"}),
        ("gdes", {"embeddings", "generator.layer", "generator.embeddings_project"},
         {"discriminator.embeddings", "discriminator.layer", "discriminator.embeddings_project"}),
    ],
)  # fmt: skip
def test_names_are_shared_as_configured(
    sharing: str, generator: set[str], discriminator: set[str]
) -> None:
    shares = {"generator_hidden_size": 1.0, "generator_layers": 1.0} if sharing == "all" else {}
    model = model_of(tiny_config(sharing=sharing, **shares))
    for network, expected in ((model.generator, generator), (model.discriminator, discriminator)):
        names = [spec.name for spec in encoder_specs(network)]
        assert all(any(name.startswith(f"{prefix}.") for name in names) for prefix in expected)
        assert all(name.startswith(tuple(f"{prefix}." for prefix in expected)) for name in names)


def test_the_difference_of_gdes_begins_at_zero_and_learns_from_detection_alone() -> None:
    """Without the MLM loss, the tables of the generator have a gradient of exactly 0."""
    problem = variant_problem("sharing-gdes", 0.5, 3, generator_weight=0.0)
    for spec in problem.specs:
        if spec.name.startswith("discriminator.embeddings.") and "layer_norm" not in spec.name:
            assert spec.initializer == "zeros", spec.name
            assert spec.decays
    gradients = gradients_of_variant(problem)
    for name, gradient in gradients.views.items():
        assert gradient.any() == name.startswith("discriminator."), name
    alone = variant_problem("sharing-gdes", 0.5, 3, discriminator_weight=0.0)
    for name, gradient in gradients_of_variant(alone).views.items():
        assert gradient.any() != name.startswith("discriminator."), name


def test_gdes_begins_as_if_the_embeddings_were_shared() -> None:
    """All other initial values have the same names, and a layer norm begins as one."""
    outputs, batch = [], variant_problem("electra", 0.5, 3).batch
    for variant in ("electra", "sharing-gdes"):
        problem = variant_problem(variant, 0.5, 3)._replace(batch=batch)
        vector = initial_values(problem.specs, 1, 0.3)
        outputs.append(output_of(problem, vector))
    shared, gdes = outputs
    np.testing.assert_array_equal(gdes.generator_logits, shared.generator_logits)
    np.testing.assert_array_equal(gdes.discriminator_logits, shared.discriminator_logits)
    assert shared.discriminator_logits.any()
