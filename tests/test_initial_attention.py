"""Initial values with which attention begins at the neighbours: the formula, and in a model."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from electra_ref.backends import open_backend
from electra_ref.config.model import ModelConfig
from electra_ref.model.encoder import encoder_specs
from electra_ref.model.initial_attention import PEAK, neighbour_projections, rates, sinusoids
from electra_ref.model.networks import Network, full_size_encoder, generator_of
from electra_ref.model.parameters import FlatParameters, ParameterSpec, initial_values

DISTANCES = (-1, 1, -2, 2)
CONFIG = ModelConfig(
    vocab_size=50, embedding_size=128, hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=128, max_position_embeddings=40, initializer_range=0.08,
    initial_attention="neighbours", generator_hidden_size=0.25,
)  # fmt: skip


def scores_of_positions(width: int, heads: int, positions: int) -> np.ndarray:
    """Return the scores (heads, T, T) that rows of sinusoids of amplitude 1 give each other."""
    table = sinusoids(positions, width, deviation=np.sqrt(0.5))
    queries, keys = np.split(table @ neighbour_projections(width, heads), 2, axis=1)
    q, k = (x.reshape(positions, heads, -1).transpose(1, 0, 2) for x in (queries, keys))
    scores: np.ndarray = q @ k.swapaxes(1, 2) / np.sqrt(width // heads)
    return scores


@pytest.mark.parametrize(("width", "heads"), [(128, 4), (128, 2), (64, 2), (24, 3)])
def test_scores_are_a_sum_of_cosines_of_the_distance(width: int, heads: int) -> None:
    scores = scores_of_positions(width, heads, positions=12)
    half = width // heads // 2
    place = np.arange(12)
    for head, distance in enumerate((-1, 1, -2, 2)[:heads]):
        apart = place[:, None] + distance - place  # t + s - u
        expected = PEAK / half * np.cos(rates(half) * apart[..., None]).sum(axis=-1)
        np.testing.assert_allclose(scores[head], expected, rtol=1e-9, atol=1e-9 * PEAK)


def test_each_head_looks_at_its_own_neighbour() -> None:
    scores = scores_of_positions(128, 4, positions=40)
    for head, distance in enumerate(DISTANCES):
        there = np.arange(2, 38)
        assert (scores[head].argmax(axis=1)[there] == there + distance).all()
        np.testing.assert_allclose(scores[head, there, there + distance], PEAK, rtol=1e-12)
        others = scores[head][there]
        others[np.arange(36), there + distance] = 0.0
        assert others.max() < 0.5 * PEAK


def test_the_table_of_positions_is_as_large_as_the_others() -> None:
    table = sinusoids(40, 128, deviation=0.08)
    assert np.sqrt((table**2).mean()) == pytest.approx(0.08, rel=1e-12)
    assert table[0, 64:] == pytest.approx(0.08 * np.sqrt(2.0))
    np.testing.assert_array_equal(table[0, :64], 0.0)


def spec_of(network: Network, name: str) -> ParameterSpec:
    (found,) = (spec for spec in encoder_specs(network) if spec.name == name)
    return found


def test_only_the_first_queries_and_keys_are_not_random() -> None:
    random = dataclasses.replace(CONFIG, initial_attention="random")
    values = []
    for config in (CONFIG, random):
        specs = list(encoder_specs(full_size_encoder(config)))
        vector = initial_values(specs, 3, config.initializer_range)
        values.append(FlatParameters(specs, vector))
    ours, theirs = values
    first = "encoder.layer.0.attention.query_key_value.weight"
    positions = "embeddings.position_embeddings.weight"
    np.testing.assert_array_equal(ours[first][:, :256], neighbour_projections(128, 4))
    np.testing.assert_array_equal(ours[first][:, 256:], theirs[first][:, 256:])
    np.testing.assert_array_equal(ours[positions], sinusoids(40, 128, 0.08))
    assert [(spec.name, spec.decays) for spec in ours.specs] == [
        (spec.name, spec.decays) for spec in theirs.specs
    ]
    for spec in ours.specs:
        if spec.name not in (first, positions):
            np.testing.assert_array_equal(ours[spec.name], theirs[spec.name])


def test_a_network_that_projects_its_embeddings_begins_with_random_queries() -> None:
    name = "generator.layer.0.attention.query_key_value.weight"
    assert spec_of(generator_of(CONFIG), name).initializer == "truncated_normal"
    wide = dataclasses.replace(CONFIG, generator_hidden_size=1.0)
    found = spec_of(generator_of(wide), name)
    assert (found.initializer, found.heads) == ("neighbours", 2)  # heads of 64
    one = dataclasses.replace(wide, sharing="all")
    name = "encoder.layer.0.attention.query_key_value.weight"
    assert spec_of(generator_of(one), name).heads == 4


def test_words_read_their_neighbours_at_the_first_step() -> None:
    """The whole first layer norm and the words are between the table and the queries."""
    network = full_size_encoder(CONFIG)
    specs = list(encoder_specs(network))
    vector = initial_values(specs, 0, CONFIG.initializer_range)
    parameters = FlatParameters(specs, vector)
    backend = open_backend("reference", "float64").backend
    random = np.random.default_rng(0)
    ids = random.integers(50, size=(8, 40), dtype=np.int32)
    word, position, segment = (
        parameters[f"embeddings.{name}_embeddings.weight"]
        for name in ("word", "position", "token_type")
    )
    x, _ = backend.embed(word, position, segment, ids, np.zeros_like(ids))
    x, _ = backend.layer_norm(x, np.ones(128), np.zeros(128), CONFIG.layer_norm_eps)
    name = "encoder.layer.0.attention.query_key_value.weight"
    qkv = (x @ parameters[name]).reshape(8, 40, 3, 4, 32).transpose(2, 0, 3, 1, 4)
    scores = qkv[0] @ qkv[1].swapaxes(-1, -2) / np.sqrt(32)
    weights = np.exp(scores)
    weights /= weights.sum(axis=-1, keepdims=True)
    for head, distance in enumerate(DISTANCES):
        there = np.arange(2, 38)
        assert weights[:, head, there, there + distance].mean() > 0.3  # uniform: 0.025


@pytest.mark.parametrize(
    "changes", [{"embedding_size": 64}, {"num_attention_heads": 128}, {"embedding_size": 63}]
)
def test_sizes_that_have_no_such_start_begin_with_random_numbers(changes: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIG, **changes)
    specs = list(encoder_specs(full_size_encoder(config)))
    assert "neighbours" not in {spec.initializer for spec in specs}
    initial_values(specs, 0, config.initializer_range)


def test_positions_turn_by_falling_rates_from_pi_on() -> None:
    np.testing.assert_allclose(rates(3), np.pi * np.array([1.0, 0.9, 0.81]), rtol=1e-15)
    table = sinusoids(2, 6, deviation=np.sqrt(0.5))
    np.testing.assert_allclose(table[1, :3], np.sin(rates(3)), rtol=0, atol=1e-15)
    np.testing.assert_allclose(table[1, 3:], np.cos(rates(3)), rtol=1e-12)


def test_odd_widths_are_errors() -> None:
    with pytest.raises(ValueError, match="width of 7"):
        sinusoids(4, 7, 1.0)
    with pytest.raises(ValueError, match="even parts"):
        neighbour_projections(6, 2)
