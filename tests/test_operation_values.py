"""Every operation on an example computed by hand, and at its edge cases."""

from __future__ import annotations

import decimal
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.arrays import get_xp, sum_rows_by_index
from electra_ref.backends import Backend, reference
from electra_ref.gradient import GradientSum
from tests.gradient_checks import Array
from tests.operation_cases import SEEDS

BACKEND: Backend = reference
LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)


def close(got: Array, wanted: Any) -> None:
    """Assert equality but for the last bits, and of the shapes."""
    assert np.shape(got) == np.shape(wanted)
    np.testing.assert_allclose(got, wanted, rtol=1e-15, atol=1e-15)


def empty(*shape: int) -> GradientSum:
    """Return a sum that nothing was added to."""
    return GradientSum(np.full(shape, np.nan), is_empty=True)


def test_linear() -> None:
    x, weight = np.array([[1.0, 2.0]]), np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    y, cache = BACKEND.linear(x, weight, np.array([0.5, 0.0, -1.0]))
    close(y, [[9.5, 12.0, 14.0]])
    dy, dweight, dbias = np.array([[1.0, 0.0, 2.0]]), empty(2, 3), empty(3)
    close(BACKEND.linear_backward(dy, cache, dweight, dbias), [[7.0, 16.0]])
    close(dweight.array, [[1.0, 0.0, 2.0], [2.0, 0.0, 4.0]])
    close(dbias.array, [1.0, 0.0, 2.0])


def test_linear_adds_to_what_is_there() -> None:
    """To the sums of the parameters, and to the part of dx that comes from elsewhere."""
    x, weight = np.array([[1.0, 2.0]]), np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    _, cache = BACKEND.linear(x, weight, np.zeros(3))
    dweight, dbias = GradientSum(np.ones((2, 3)), False), GradientSum(np.full(3, 0.5), False)
    dy, elsewhere = np.array([[1.0, 0.0, 2.0]]), np.array([[100.0, -100.0]])
    close(BACKEND.linear_backward(dy, cache, dweight, dbias, elsewhere), [[107.0, -84.0]])
    close(dweight.array, [[2.0, 1.0, 3.0], [3.0, 1.0, 5.0]])
    close(dbias.array, [1.5, 0.5, 2.5])


def test_linear_of_a_transposed_table() -> None:
    """As the generator's output layer: three words of width 2 score one row."""
    words = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    logits, cache = BACKEND.linear(np.array([[3.0, 5.0]]), words.T, np.array([0.5, 0.0, 1.0]))
    close(logits, [[3.5, 5.0, 17.0]])
    dwords, dbias = empty(3, 2), empty(3)
    dlogits = np.array([[1.0, 2.0, 0.5]])
    close(BACKEND.linear_backward(dlogits, cache, dwords.transpose(), dbias), [[2.0, 3.0]])
    close(dwords.array, [[3.0, 5.0], [6.0, 10.0], [1.5, 2.5]])
    close(dbias.array, [1.0, 2.0, 0.5])


def test_embed() -> None:
    word, position = np.array([[0.0], [1.0], [2.0]]), np.array([[10.0], [20.0], [30.0]])
    ids, types = np.array([[2, 2], [1, 2]]), np.array([[0, 1], [1, 1]])
    x, cache = BACKEND.embed(word, position, np.array([[100.0], [200.0]]), ids, types)
    close(x, [[112.0], [222.0], [211.0], [222.0]])
    dx = np.array([[1.0], [2.0], [4.0], [8.0]])
    dword, dposition, dsegment = empty(3, 1), empty(3, 1), GradientSum(np.ones((2, 1)), False)
    BACKEND.embed_backward(dx, cache, dword, dposition, dsegment)
    close(dword.array, [[0.0], [4.0], [11.0]])
    close(dposition.array, [[5.0], [10.0], [0.0]])
    close(dsegment.array, [[2.0], [15.0]])


def test_layer_norm() -> None:
    """Mean 2, variance 1; with eps = 3 the inverse deviation is 1/2."""
    gamma, beta = np.array([2.0, 3.0]), np.array([1.0, -1.0])
    y, cache = BACKEND.layer_norm(np.array([[1.0, 3.0]]), gamma, beta, 3.0)
    close(y, [[0.0, 0.5]])
    dgamma, dbeta = empty(2), GradientSum(np.ones(2), False)
    dx = BACKEND.layer_norm_backward(np.array([[1.0, 1.0]]), cache, dgamma, dbeta)
    close(dx, [[-0.1875, 0.1875]])
    close(dgamma.array, [-0.5, 0.5])
    close(dbeta.array, [2.0, 2.0])


@given(rows=st.integers(1, 5), width=st.integers(4, 9), seed=SEEDS)
def test_layer_norm_gradient_has_no_erased_direction(rows: int, width: int, seed: int) -> None:
    """A shift of the row and a stretch of it change nothing, so dx has no part along them."""
    random = np.random.default_rng(seed)
    x, gamma, dy = (random.standard_normal(s) for s in ((rows, width), width, (rows, width)))
    _, cache = BACKEND.layer_norm(x, gamma, gamma, 0.0)
    dx = BACKEND.layer_norm_backward(dy, cache, empty(width), empty(width))
    bound = 1e-13 * np.abs(cache.rstd * gamma * dy).max(axis=-1)  # of what is projected
    assert (np.abs(dx.sum(axis=-1)) <= bound).all()
    assert (np.abs((dx * cache.xhat).sum(axis=-1)) <= bound).all()


def test_dropout() -> None:
    """A rate of 1/4 keeps the bits from 16384 on, and scales by 4/3."""
    x = np.array([[3.0, 6.0], [9.0, -3.0]])
    bits = np.array([[0, 65535], [16383, 16384]], np.uint16)
    y, cache = BACKEND.dropout(x, bits, 0.25)
    close(y, [[0.0, 8.0], [0.0, -4.0]])
    close(BACKEND.dropout_backward(np.ones((2, 2)), cache), [[0.0, 4 / 3], [0.0, 4 / 3]])


@given(seed=SEEDS, rate=st.floats(0.0, 0.999))
def test_dropout_keeps_what_its_bits_say(seed: int, rate: float) -> None:
    """All 65536 values of the bits once: what is kept, scaled, has the mean of what was there."""
    bits = np.random.default_rng(seed).permutation(1 << 16).astype(np.uint16)[None]
    y, cache = BACKEND.dropout(np.ones((256, 256)), bits, rate)
    dx = BACKEND.dropout_backward(np.ones((256, 256)), cache)
    np.testing.assert_array_equal(y, dx)
    dropped = round(rate * 65536)
    assert np.count_nonzero(y == 0.0) == dropped
    assert set(np.unique(y)) <= {0.0, 65536 / (65536 - dropped)}
    assert abs(y.mean() - 1.0) <= 1e-12
    np.testing.assert_array_equal((bits >= dropped).reshape(y.shape), y != 0.0)


def test_dropout_passes_everything_in_evaluation_and_at_rate_zero() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4))
    bits = np.zeros((3, 4), np.uint16)
    for arguments in ((None, 0.5), (bits, 0.0)):
        y, cache = BACKEND.dropout(x, *arguments)
        np.testing.assert_array_equal(y, x)
        np.testing.assert_array_equal(BACKEND.dropout_backward(x, cache), x)


def test_dropout_never_drops_everything_and_refuses_rates_outside() -> None:
    bits = np.array([[65535]], np.uint16)
    y, _ = BACKEND.dropout(np.ones((1, 1)), bits, 0.999999999)
    assert y.item() == 65536.0
    for rate in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="dropout rate"):
            BACKEND.dropout(np.ones((1, 1)), bits, rate)


def test_dropout_add_layer_norm() -> None:
    """Dropping half of x = (1, 1) with scale 2 gives the row (1, 3) of ``test_layer_norm``."""
    gamma, beta = np.array([2.0, 3.0]), np.array([1.0, -1.0])
    bits = np.array([[0, 65535]], np.uint16)
    y, cache = BACKEND.dropout_add_layer_norm(
        np.ones((1, 2)), np.ones((1, 2)), gamma, beta, bits, 0.5, 3.0
    )
    close(y, [[0.0, 0.5]])
    dgamma, dbeta = empty(2), empty(2)
    dx, dresidual = BACKEND.dropout_add_layer_norm_backward(np.ones((1, 2)), cache, dgamma, dbeta)
    close(dx, [[0.0, 0.375]])
    close(dresidual, [[-0.1875, 0.1875]])
    close(dgamma.array, [-0.5, 0.5])
    close(dbeta.array, [1.0, 1.0])


def test_gelu() -> None:
    """The normal distribution and density at 1 are 0.841344... and 0.241970..."""
    y, cache = BACKEND.gelu(np.array([[0.0, 1.0, -1.0, 40.0, -40.0]]))
    close(y, [[0.0, 0.8413447460685429, -0.15865525393145707, 40.0, 0.0]])
    dx = BACKEND.gelu_backward(np.ones((1, 5)), cache)
    close(dx, [[0.5, 1.0833154705876863, -0.08331547058768618, 1.0, 0.0]])


def test_attention() -> None:
    """One head of width 1, two tokens: the rows of P are (1/2, 1/2) and (1/4, 3/4)."""
    query_key_value = np.array([[0.0, 0.0, 2.0], [1.0, LN3, 6.0]])
    mask = np.ones((1, 2), bool)
    context, cache = BACKEND.attention(query_key_value, mask, 1, None, 0.0)
    close(context, [[4.0], [5.0]])
    gradient = BACKEND.attention_backward(np.array([[1.0], [2.0]]), cache)
    close(gradient, [[LN3, -1.5, 1.0], [1.5 * LN3, 1.5, 2.0]])


def test_attention_drops_probabilities() -> None:
    """The second row loses its first probability and doubles its second: 3/2 of 6."""
    query_key_value = np.array([[0.0, 0.0, 2.0], [1.0, LN3, 6.0]])
    bits = np.array([[65535, 65535, 0, 65535]], np.uint16)
    context, _ = BACKEND.attention(query_key_value, np.ones((1, 2), bool), 1, bits, 0.5)
    close(context, [[8.0], [9.0]])


def test_attention_never_looks_at_padding() -> None:
    """Only the first token counts: its value is everyone's, and scores have no gradient."""
    random = np.random.default_rng(0)
    query_key_value = random.standard_normal((3, 6))
    mask = np.array([[True, False, False]])
    context, cache = BACKEND.attention(query_key_value, mask, 2, None, 0.0)
    np.testing.assert_array_equal(context, np.tile(query_key_value[0, 4:], (3, 1)))
    gradient = BACKEND.attention_backward(np.ones((3, 2)), cache)
    assert not gradient[:, :4].any()
    np.testing.assert_array_equal(gradient[:, 4:], [[3.0, 3.0], [0.0, 0.0], [0.0, 0.0]])


def test_attention_heads_lie_side_by_side() -> None:
    """Two heads are two attentions of half the width."""
    random = np.random.default_rng(1)
    both, mask = random.standard_normal((4, 12)), np.ones((1, 4), bool)
    context, _ = BACKEND.attention(both, mask, 2, None, 0.0)
    columns = both.reshape(4, 3, 2, 2)
    for head in range(2):
        alone = columns[:, :, head].reshape(4, 6)
        expected, _ = BACKEND.attention(alone, mask, 1, None, 0.0)
        close(context[:, 2 * head : 2 * head + 2], expected)


def test_gather_positions() -> None:
    """Position 1 of the second row is row 4; rows that are read twice get both gradients."""
    x = np.arange(6.0)[:, None]
    y, cache = BACKEND.gather_positions(x, np.array([[2, 0], [1, 1]]))
    close(y, [[2.0], [0.0], [4.0], [4.0]])
    dx = BACKEND.gather_positions_backward(np.array([[1.0], [2.0], [4.0], [8.0]]), cache)
    close(dx, [[2.0], [0.0], [1.0], [0.0], [12.0], [0.0]])


def test_softmax_cross_entropy() -> None:
    """Probabilities 1/4 and 3/4; the second row has weight 0."""
    logits = np.array([[0.0, LN3], [5.0, 7.0]])
    labels, weights = np.array([1, 0]), np.array([True, False])
    loss, cache = BACKEND.softmax_cross_entropy(logits, labels, weights)
    close(loss, LN4 - LN3)
    dlogits = BACKEND.softmax_cross_entropy_backward(2.0, cache)
    close(dlogits, [[0.5, -0.5], [0.0, 0.0]])


def test_binary_cross_entropy() -> None:
    logits = np.array([0.0, LN3, LN3, 9.0])
    labels, weights = np.array([1, 0, 1, 0]), np.array([1, 1, 1, 0])
    loss, cache = BACKEND.binary_cross_entropy(logits, labels, weights)
    close(loss, LN2 + LN4 + LN4 - LN3)
    dlogits = BACKEND.binary_cross_entropy_backward(2.0, cache)
    close(dlogits, [-1.0, 1.5, -0.5, 0.0])


def test_softmax_cross_entropy_with_negative_weights() -> None:
    """A weight is what a slot is worth: the loss of the first row counts with -2."""
    logits, weights = np.array([[0.0, LN3], [0.0, 0.0]]), np.array([-2.0, 0.5])
    loss, cache = BACKEND.softmax_cross_entropy(logits, np.array([1, 0]), weights)
    close(loss, -2.0 * (LN4 - LN3) + 0.5 * LN2)
    dlogits = BACKEND.softmax_cross_entropy_backward(1.0, cache)
    close(dlogits, [[-0.5, 0.5], [-0.25, 0.25]])


def test_binary_cross_entropy_with_soft_targets() -> None:
    """A label of 1/4 weighs both losses: 1/4 log(4/3) + 3/4 log 4."""
    logits, labels, weights = np.array([LN3, 0.0]), np.array([0.25, 0.5]), np.array([1, 1])
    loss, cache = BACKEND.binary_cross_entropy(logits, labels, weights)
    close(loss, 0.25 * (LN4 - LN3) + 0.75 * LN4 + LN2)
    close(BACKEND.binary_cross_entropy_backward(2.0, cache), [1.0, 0.0])


RELAXATION = (  # the second word has twice the distance log 3 at a temperature of 2: 1/4 and 3/4
    np.array([[1.0, 1.0]]),
    np.array([[0.0, 2 * LN3]]),
    2.0,
    np.array([[4.0], [8.0]]),
    np.array([1]),
)


def test_relax_embeddings() -> None:
    """The mixture is 7, the embedding of the sampled word 8."""
    delta, cache = BACKEND.relax_embeddings(*RELAXATION, False)
    close(delta, [[-1.0]])
    dtable = empty(2, 1)
    close(BACKEND.relax_embeddings_backward(np.array([[2.0]]), cache, dtable), [[-0.75, 0.75]])
    close(dtable.array, [[0.5], [-0.5]])


def test_relax_embeddings_straight_through() -> None:
    """The value of the sampled word, the gradient of the mixture; complex numbers carry it."""
    delta, cache = BACKEND.relax_embeddings(*RELAXATION, True)
    np.testing.assert_array_equal(delta, [[0.0]])
    assert delta.dtype == np.float64
    dlogits = BACKEND.relax_embeddings_backward(np.array([[2.0]]), cache, None)
    close(dlogits, [[-0.75, 0.75]])
    moved = RELAXATION[0] + 1j * np.array([[0.0, 1e-30]])
    delta, _ = BACKEND.relax_embeddings(moved, *RELAXATION[1:], True)
    assert delta.real == 0.0
    close(2.0 * delta.imag / 1e-30, [[0.75]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_relax_embeddings_of_extreme_logits(dtype: Any) -> None:
    """One word takes all, and nothing overflows, however low the temperature."""
    logits, table = np.array([[0, 1e4], [-1e4, 0], [3e4, -3e4]], dtype), np.eye(2, dtype=dtype)
    for temperature in (1e-30, 1.0, 1e30):
        arguments = logits, 0 * logits, temperature, table, np.array([1, 0, 1])
        delta, cache = BACKEND.relax_embeddings(*arguments, False)
        if temperature <= 1.0:
            close(delta, [[0, 0], [-1, 1], [1, -1]])
        else:
            np.testing.assert_allclose(delta[0], [0.5, -0.5], rtol=1e-6)
        dlogits = BACKEND.relax_embeddings_backward(np.ones((3, 2), dtype), cache, None)
        np.testing.assert_array_equal(dlogits, np.zeros((3, 2)))


def test_vocabulary_log_likelihood() -> None:
    """Logits (0, log 3) and (-log 4, -log 4): probabilities 3/4 and 1/2."""
    x, table = np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[LN4, 0.5], [LN3 + LN4, 5.0]])
    bias, labels = np.full(2, -LN4), np.array([1, 0])
    likelihood, cache = BACKEND.vocabulary_log_likelihood(x, table, bias, labels)
    close(likelihood, [LN3 - LN4, -LN2])
    dtable, dbias = empty(2, 2), GradientSum(np.ones(2), False)
    dlikelihood = np.array([2.0, 4.0])
    dx = BACKEND.vocabulary_log_likelihood_backward(dlikelihood, cache, dtable, dbias)
    close(dx, [[0.5 * LN3, 2.25], [-2.0 * LN3, -9.0]])
    close(dtable.array, [[-0.5, 0.0], [0.5, 0.0]])
    close(dbias.array, [2.5, -0.5])


def test_vocabulary_log_likelihood_of_extreme_logits() -> None:
    x, table = np.array([[1.0], [-1.0]]), np.array([[-1e4], [1e4]])
    arguments = x, table, np.zeros(2), np.array([0, 0])
    likelihood, cache = BACKEND.vocabulary_log_likelihood(*arguments)
    np.testing.assert_array_equal(likelihood, [-2e4, 0.0])
    dtable, dbias = empty(2, 1), empty(2)
    dx = BACKEND.vocabulary_log_likelihood_backward(np.ones(2), cache, dtable, dbias)
    np.testing.assert_array_equal(dx, [[-2e4], [0.0]])


def test_copy_gate_cross_entropy() -> None:
    """Copied or drawn: 1/2 + 1/2 1/2; drawn only: 3/4 1/2; no token: NaN has no effect."""
    gates, likelihoods = np.array([0.0, LN3, math.nan]), np.array([-LN2, -LN2, -math.inf])
    is_copy, weights = np.array([True, False, True]), np.array([1.0, -2.0, 0.0])
    loss, cache = BACKEND.copy_gate_cross_entropy(gates, likelihoods, is_copy, weights)
    close(loss, LN4 - LN3 - 2.0 * (LN4 + LN2 - LN3))
    dgates, dlikelihoods = BACKEND.copy_gate_cross_entropy_backward(3.0, cache)
    close(dgates, [0.5, 1.5, 0.0])
    close(dlikelihoods, [-1.0, 6.0, 0.0])


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-4), (np.float64, 1e-12)])
def test_copy_gate_of_extreme_logits(dtype: Any, rtol: float) -> None:
    """Against decimals of 60 digits. exp(80.1) loses 80 u, and here at most ten times as much.

    What is below the smallest number may be zero.
    """
    sizes = (0.0, -0.1, 0.1, -80.0, 80.0, -1e4, 1e4)
    for gate, likelihood, is_copy in itertools.product(sizes, sizes[1::2], (True, False)):
        z, log_q = np.array([gate], dtype), np.array([likelihood], dtype)
        loss, cache = BACKEND.copy_gate_cross_entropy(z, log_q, np.array([is_copy]), np.ones(1))
        got = loss, *BACKEND.copy_gate_cross_entropy_backward(1.0, cache)
        wanted = copy_gate_in_decimals(float(dtype(gate)), float(dtype(likelihood)), is_copy)
        smallest = np.finfo(dtype).tiny
        for number, exact in zip(got, wanted, strict=True):
            assert number.dtype == dtype
            np.testing.assert_allclose(number, exact, rtol=rtol, atol=2 * smallest)


def copy_gate_in_decimals(gate: float, likelihood: float, is_copy: bool) -> tuple[float, ...]:
    """Return the loss of one token and its gradients: the formulas, without logarithms."""
    with decimal.localcontext(prec=60):
        replaced = 1 / (1 + (-decimal.Decimal(gate)).exp())
        kept = 1 / (1 + decimal.Decimal(gate).exp())
        drawn = replaced * decimal.Decimal(likelihood).exp()
        copied = kept if is_copy else 0 * kept
        dgate = copied * replaced - drawn * kept
        total = copied + drawn
        return float(-total.ln()), float(dgate / total), float(-drawn / total)


@given(rows=st.integers(1, 4), words=st.integers(2, 9), shift=st.floats(-1e3, 1e3), seed=SEEDS)
def test_softmax_does_not_see_a_shift(rows: int, words: int, shift: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits, labels = random.standard_normal((rows, words)), random.integers(0, words, rows)
    weights = np.ones(rows, bool)
    loss, cache = BACKEND.softmax_cross_entropy(logits, labels, weights)
    shifted, _ = BACKEND.softmax_cross_entropy(logits + shift, labels, weights)
    np.testing.assert_allclose(loss, shifted, rtol=0, atol=1e-12 * rows * (1 + abs(shift)))
    dlogits = BACKEND.softmax_cross_entropy_backward(1.0, cache)
    assert np.abs(dlogits.sum(axis=-1)).max() <= 1e-14


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_losses_of_extreme_logits(dtype: Any, size: float) -> None:
    """The loss is the distance itself; no overflow, no NaN, gradients at their limits."""
    logits = np.array([[0.0, size]], dtype)
    labels, ones = np.array([0]), np.ones(1, bool)
    loss, cache = BACKEND.softmax_cross_entropy(logits, labels, ones)
    assert loss == max(size, 0.0)
    close(BACKEND.softmax_cross_entropy_backward(1.0, cache), [[-1, 1] if size > 0 else [0, 0]])
    for label in (0, 1):
        loss, kept = BACKEND.binary_cross_entropy(logits[0, 1:], np.array([label]), ones)
        assert loss == max(size, 0.0) - label * size
        close(BACKEND.binary_cross_entropy_backward(1.0, kept), [float(size > 0) - label])


@given(count=st.integers(1, 5), rows=st.integers(1, 20), seed=SEEDS)
def test_sum_rows_by_index_adds_in_the_order_of_the_rows(count: int, rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    values, indices = random.standard_normal((rows, 3)), random.integers(0, count, rows)
    expected = np.zeros((count, 3))
    np.add.at(expected, indices, values)
    np.testing.assert_allclose(
        sum_rows_by_index(values, indices, count), expected, rtol=0, atol=1e-14
    )


@given(rows=st.integers(1, 40), seed=SEEDS)
def test_rows_of_zeros_do_not_change_a_bit_of_a_sum(rows: int, seed: int) -> None:
    """Whatever index they carry: this is what lets padding hold anything."""
    random = np.random.default_rng(seed)
    values, indices = random.standard_normal((rows, 3)), random.integers(0, 2, rows)
    expected = sum_rows_by_index(values, indices, 2)
    places = np.sort(random.integers(0, rows + 1, 2 * rows))
    values = np.insert(values, places, 0.0, axis=0)
    indices = np.insert(indices, places, random.integers(0, 2, 2 * rows))
    np.testing.assert_array_equal(sum_rows_by_index(values, indices, 2), expected)
    assert not sum_rows_by_index(np.zeros((rows, 3)), indices[:rows], 2).any()


def test_global_norm_and_the_sum_of_gradients() -> None:
    gradients = np.array([3.0, -4.0])
    assert BACKEND.global_norm(gradients) == 5.0
    assert BACKEND.global_norm(np.zeros(2)) == 0.0
    BACKEND.add_gradients(gradients, np.array([0.5, 1.0]))
    np.testing.assert_array_equal(gradients, [3.5, -3.0])


def test_adamw() -> None:
    """A gradient of 4, scaled to 2; moments 2 and 1; beta1 = 1/2, beta2 = 1/4: 2 and 3.25."""
    parameters, first, second = np.array([10.0]), np.array([2.0]), np.array([1.0])
    BACKEND.adamw(
        parameters,
        np.array([4.0]),
        first,
        second,
        gradient_scale=0.5,
        learning_rate=0.25,
        beta1=0.5,
        beta2=0.25,
        epsilon=0.0,
        weight_decay=0.125,
    )
    close(first, [2.0])
    close(second, [3.25])
    close(parameters, [10.0 - 0.25 * (2.0 / math.sqrt(3.25) + 1.25)])


def test_operations_refuse_shapes_that_do_not_fit() -> None:
    """NumPy would broadcast some of these into a wrong result."""
    x, one = np.ones((2, 3)), np.ones(1)
    ids = np.zeros((1, 5), int)
    with pytest.raises(ValueError, match="do not fit"):
        BACKEND.linear(x, np.ones((3, 4)), one)
    with pytest.raises(ValueError, match="gamma"):
        BACKEND.layer_norm(x, np.ones(3), one, 1e-12)
    with pytest.raises(ValueError, match="4 position embeddings"):
        BACKEND.embed(np.ones((9, 3)), np.ones((4, 3)), np.ones((2, 3)), ids, ids)
    with pytest.raises(ValueError, match="heads do not divide"):
        BACKEND.attention(np.ones((2, 9)), np.ones((1, 2), bool), 2, None, 0.0)
    with pytest.raises(ValueError, match="cannot hold a batch"):
        BACKEND.gather_positions(np.ones((5, 3)), np.zeros((2, 1), int))


def test_operations_over_a_vocabulary_refuse_shapes_that_do_not_fit() -> None:
    x, one, logits, ids = np.ones((2, 3)), np.ones(1), np.ones((2, 5)), np.zeros(2, int)
    right: dict[str, Any] = {
        "logits": logits,
        "noise": logits,
        "temperature": 1.0,
        "table": np.ones((5, 3)),
        "sampled_ids": ids,
        "straight_through": False,
    }
    BACKEND.relax_embeddings(**right)
    wrong = {"noise": logits[:1], "table": x, "sampled_ids": ids[:1]}
    for name, array in (*wrong.items(), ("noise", logits.astype(np.float32))):
        with pytest.raises(ValueError, match="do not fit"):
            BACKEND.relax_embeddings(**{**right, name: array})
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"positive and finite, got {temperature}"):
            BACKEND.relax_embeddings(**{**right, "temperature": temperature})
    for arrays in ((x, x.T, one, ids), (x, x, one, ids), (x, x, x[:, 0], ids[:1])):
        with pytest.raises(ValueError, match="do not fit"):
            BACKEND.vocabulary_log_likelihood(*arrays)
    for number in range(4):
        four: Any = [one if n == number else np.ones(3) for n in range(4)]
        with pytest.raises(ValueError, match="one shape"):
            BACKEND.copy_gate_cross_entropy(*four)
    with pytest.raises(ValueError, match="one shape"):
        BACKEND.copy_gate_cross_entropy(x, x, x > 0, x)


def test_arrays_of_other_libraries_are_refused() -> None:
    assert get_xp(np.ones(1), np.ones((2, 2), bool)) is np
    not_an_array: Any = [1.0]
    with pytest.raises(TypeError, match="NumPy's or all be CuPy's"):
        get_xp(not_an_array)
