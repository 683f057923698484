"""Single operations against PyTorch's, on extreme inputs that a normal model never makes.

Logits in the thousands, rows far from zero, saturated softmax: no overflow, and equal results.
The errors are norms of differences relative to norms, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from electra_ref.arrays import Array
from electra_ref.backends import Backend, reference
from electra_ref.gradient import GradientSum
from tests.oracle.huggingface_weights import relative_error

torch = pytest.importorskip("torch", reason="needs the extra: oracle")
pytestmark = pytest.mark.oracle

BACKEND: Backend = reference
RELATIVE_ERROR = 1e-10


def their_gradients(
    function: Callable[..., Any], inputs: tuple[Array, ...], dy: Array | float
) -> tuple[Array, list[Array]]:
    """Return the result of ``function`` at ``inputs``, and autograd's gradients for ``dy``."""
    torch.set_num_threads(1)
    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    y = function(*tensors)
    y.backward(torch.tensor(dy, dtype=torch.float64))
    return y.detach().numpy(), [tensor.grad.numpy() for tensor in tensors]


def assert_all_close(actual: list[Array], expected: list[Array]) -> None:
    """Compare arrays one by one; both sides must be finite."""
    for number, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        assert ours.shape == theirs.shape
        assert relative_error(ours, theirs) <= RELATIVE_ERROR, number


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_softmax_cross_entropy(scale: float) -> None:
    random = np.random.default_rng(1)
    logits, labels = scale * random.standard_normal((7, 11)), random.integers(0, 11, 7)
    weights = np.array([True, True, False, True, False, True, True])
    loss, cache = BACKEND.softmax_cross_entropy(logits, labels, weights)
    dlogits = BACKEND.softmax_cross_entropy_backward(0.3, cache)

    def theirs(x: Any) -> Any:
        losses = torch.nn.functional.cross_entropy(x, torch.tensor(labels), reduction="none")
        return losses[torch.tensor(weights)].sum()

    y, gradients = their_gradients(theirs, (logits,), 0.3)
    assert_all_close([loss, dlogits], [y, *gradients])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_binary_cross_entropy(scale: float) -> None:
    random = np.random.default_rng(2)
    logits, labels = scale * random.standard_normal(40), random.random(40) < 0.5
    weights = random.random(40) < 0.7
    loss, cache = BACKEND.binary_cross_entropy(logits, labels, weights)
    dlogits = BACKEND.binary_cross_entropy_backward(0.3, cache)

    def theirs(x: Any) -> Any:
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            x, torch.tensor(labels).double(), reduction="none"
        )
        return losses[torch.tensor(weights)].sum()

    y, gradients = their_gradients(theirs, (logits,), 0.3)
    assert_all_close([loss, dlogits], [y, *gradients])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0])
def test_gelu(scale: float) -> None:
    random = np.random.default_rng(3)
    x, dy = scale * random.standard_normal((6, 9)), random.standard_normal((6, 9))
    y, cache = BACKEND.gelu(x)
    dx = BACKEND.gelu_backward(dy, cache)
    expected, gradients = their_gradients(torch.nn.functional.gelu, (x,), dy)
    assert_all_close([y, dx], [expected, *gradients])


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e-3, 10.0), (1e3, -1e4)])
def test_layer_norm(scale: float, offset: float) -> None:
    random = np.random.default_rng(4)
    x = offset + scale * random.standard_normal((6, 9))
    gamma, beta = random.standard_normal((2, 9))
    dy = random.standard_normal((6, 9))
    y, cache = BACKEND.layer_norm(x, gamma, beta, 1e-12)
    dgamma, dbeta = (GradientSum(np.full(9, np.nan), is_empty=True) for _ in range(2))
    dx = BACKEND.layer_norm_backward(dy, cache, dgamma, dbeta)
    expected, gradients = their_gradients(
        lambda x, gamma, beta: torch.nn.functional.layer_norm(x, (9,), gamma, beta, 1e-12),
        (x, gamma, beta),
        dy,
    )
    assert_all_close([y, dx, dgamma.array, dbeta.array], [expected, *gradients])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0])
@pytest.mark.parametrize("heads", [1, 3])
def test_attention(scale: float, heads: int) -> None:
    """PyTorch's fused attention; scores reach 1000 at the largest scale."""
    random = np.random.default_rng(5)
    batch, length, width = 3, 7, 12
    query_key_value = scale * random.standard_normal((batch * length, 3 * width))
    mask = np.arange(length) < np.array([7, 4, 1])[:, None]
    dcontext = random.standard_normal((batch * length, width))
    context, cache = BACKEND.attention(query_key_value, mask, heads, None, 0.0)
    actual = BACKEND.attention_backward(dcontext, cache)

    def theirs(x: Any) -> Any:
        q, k, v = x.reshape(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        context = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=torch.tensor(mask)[:, None, None, :]
        )
        return context.transpose(1, 2).reshape(batch * length, width)

    expected, gradients = their_gradients(theirs, (query_key_value,), dcontext)
    assert_all_close([context, actual], [expected, *gradients])
