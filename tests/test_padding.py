"""Padding takes no part in training: no products, and no bit of a gradient depends on it."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from electra_ref import rng
from electra_ref.arrays import Array
from electra_ref.backends import Backend, cpu, reference
from electra_ref.backends.cpu import bfloat16
from electra_ref.batch import Batch
from electra_ref.model.encoder import encode, encode_backward, encoder_specs
from electra_ref.model.networks import discriminator_of
from electra_ref.model.parameters import FlatParameters, Gradients, initial_values
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.rng import Purpose, RandomStream
from tests.tiny_electra import tiny_config

BACKENDS: list[tuple[Backend, str]] = [(cast("Backend", cpu), "float32"), (reference, "float64")]
CONFIG = tiny_config(hidden_dropout=0.3, attention_dropout=0.0, max_position_embeddings=40)
NETWORK = discriminator_of(CONFIG)
LENGTHS = 7, 3, 5
STREAM = RandomStream(5, Purpose.MASK, 2)


def rows_padded_to(length: int) -> Batch:
    """Return the same rows of tokens, with other ids in the padding for each length."""
    tokens = np.arange(length) < np.array(LENGTHS)[:, None]
    ids = np.random.default_rng(length).integers(0, CONFIG.vocab_size, tokens.shape)
    ids[tokens] = np.random.default_rng(0).integers(5, CONFIG.vocab_size, sum(LENGTHS))
    return Batch(ids.astype(np.int32), np.zeros(ids.shape, np.int32), tokens)


def hidden_and_gradient(backend: Backend, dtype: str, length: int) -> tuple[Array, Gradients]:
    """Return the hidden states of the tokens, and the gradients for drawn dhidden."""
    specs, batch = list(encoder_specs(NETWORK)), rows_padded_to(length)
    parameters = FlatParameters(specs, initial_values(specs, 0, 0.5, dtype))
    gradients = Gradients(specs, np.full_like(parameters.vector, np.nan))
    hidden, cache = encode(ForwardPass(backend, parameters, STREAM), NETWORK, batch)
    tokens = batch.attention_mask.ravel()
    assert not hidden[~tokens].any()
    dhidden = np.random.default_rng(1).standard_normal(hidden.shape).astype(dtype)
    dhidden[tokens] = np.random.default_rng(2).standard_normal(hidden[tokens].shape)
    encode_backward(BackwardPass(backend, gradients), NETWORK, dhidden, cache)
    gradients.require_complete()
    return hidden[tokens], gradients


@pytest.mark.parametrize(("backend", "dtype"), BACKENDS, ids=["cpu", "reference"])
def test_no_bit_depends_on_padding(backend: Backend, dtype: str) -> None:
    """With dropout, too: its bits are those of the place in the row.

    The embeddings have rows for padding, and their layer norm sums so many rows at a time. On the
    reference, attention's products are as large as the padded rows.
    """
    hidden, gradients = hidden_and_gradient(backend, dtype, max(LENGTHS))
    assert np.isfinite(gradients.vector).all()
    for length in (8, 16, 33):
        other_hidden, other = hidden_and_gradient(backend, dtype, length)
        pairs = [(other_hidden, hidden, False)]
        pairs += [
            (other[name], wanted, name.startswith("embeddings.layer_norm"))
            for name, wanted in gradients.views.items()
        ]
        for got, wanted, may_round in pairs:
            if backend is reference or may_round:
                bound = 64 * np.finfo(dtype).eps * np.linalg.norm(wanted)
                assert np.linalg.norm(got - wanted) <= bound
            else:
                np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [*BACKENDS, (cast("Backend", bfloat16), "float32")],
    ids=["cpu", "reference", "bfloat16"],
)
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_attention_without_rows_for_padding(backend: Backend, dtype: str, rate: float) -> None:
    """Also where padding lies between tokens, and where a row has no token."""
    tokens = np.array([[1, 1, 1, 0, 0], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    random, is_token = np.random.default_rng(3), tokens.ravel()
    x = random.standard_normal((20, 24)).astype(dtype)
    bits = backend.dropout_bits(RandomStream(9, Purpose.DROPOUT, 1), 4, 2 * 5 * 5)
    dcontext = random.standard_normal((20, 8)).astype(dtype) * is_token[:, None]
    context, cache = backend.attention(x, tokens, 2, bits, rate)
    dx = backend.attention_backward(dcontext.astype(dtype), cache)
    got, cache = backend.attention(x[is_token], tokens, 2, bits, rate)
    np.testing.assert_array_equal(got, context[is_token])
    got = backend.attention_backward(dcontext[is_token].astype(dtype), cache)
    error = np.linalg.norm(got - dx[is_token])  # sums that zeros take part in
    assert error <= 4 * np.finfo(dtype).eps * np.linalg.norm(dx)
    with pytest.raises(ValueError, match=r"12 rows are neither the 20 .* nor .* 11 tokens"):
        backend.attention(x[:12], tokens, 2, bits, rate)


def test_operations_of_a_layer_have_a_row_for_each_token() -> None:
    heights: dict[str, set[int]] = {}

    class Watching:
        def __getattr__(self, name: str) -> Any:
            operation = getattr(reference, name)

            def call(x: Any, *arguments: Any, **options: Any) -> Any:
                if name in ("linear", "attention", "gelu", "dropout_add_layer_norm"):
                    heights.setdefault(name, set()).add(x.shape[0])
                return operation(x, *arguments, **options)

            return call

    hidden_and_gradient(cast("Backend", Watching()), "float64", 16)
    places = len(LENGTHS) * 16  # of the embeddings, whose projection reads all
    assert heights["linear"] - {places} == {sum(LENGTHS)}
    for name in ("attention", "gelu", "dropout_add_layer_norm"):
        assert heights[name] == {sum(LENGTHS)}


@pytest.mark.parametrize(("backend", "dtype"), BACKENDS, ids=["cpu", "reference"])
def test_the_bits_of_chosen_rows_are_those_of_all_rows(backend: Backend, dtype: str) -> None:
    """Six rows of four numbers: two examples of three."""
    stream, rows = RandomStream(9, Purpose.DROPOUT, 1), np.array([0, 2, 5])
    bits = backend.bits_of_rows(backend.dropout_bits(stream, 2, 12), rows, 6)
    y, cache = backend.dropout(np.ones((3, 4), dtype), bits, 0.5)
    keep = (rng.dropout_bits(stream, 2, 12).reshape(6, 4) >= 1 << 15)[rows]
    np.testing.assert_array_equal(y, 2.0 * keep)
    np.testing.assert_array_equal(backend.dropout_backward(np.ones((3, 4), dtype), cache), y)
