"""How far float32 may be from the exact result of each operation: derived bounds, not tuned ones.

Each function takes the arguments of an operation, all in float64. It returns one array of bounds
for the result and one for each gradient. The rules, with u = 2**-24, the relative error of one
rounding to float32:

* A sum of n products has an error of at most n u times the sum of their sizes, in any order, with
  fused multiply-adds or without: a product is rounded once and is in at most n - 1 additions
  (Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1). For a sum of n
  numbers the factor is (n - 1) u.
* Every other operation adds u of its result. It passes on the errors of its arguments, multiplied
  by its derivative. A constant that is rounded to float32 adds u.
* exp has a relative error of at most ``EXP``, Phi an error of at most ``PHI``;
  ``test_exponential`` shows both for every float. NumPy's functions have a relative error of at
  most ``LIBRARY``.

The comments count the roundings. Products of errors are left out; ``SECOND_ORDER`` covers them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.operation_cases import SMOOTH_EPS, Sizes

Float64 = npt.NDArray[np.float64]

U = 2.0**-24
EXP = 2 * U
PHI = 4e-7
LIBRARY = 8 * U  # NumPy 1.17 release notes: exp and log within 4 units in the last place
BFLOAT16 = 2.0**-8  # the relative error of one rounding to bfloat16
TINY = 1e-33  # what underflows: exp below e^-87, 2e-38, times factors
SECOND_ORDER = 1.01


def layer_norm(
    inputs: list[Float64], dy: Float64, input_error: Float64 | float = 0.0
) -> list[Float64]:
    """Bounds for y, dx, dgamma, dbeta, if ``x`` itself is off by ``input_error``."""
    x, gamma, beta = inputs
    rows, width = x.shape
    mean = _mean(x)
    deviation = x - mean
    variance = _mean(deviation**2)
    rstd = 1.0 / np.sqrt(variance + SMOOTH_EPS)
    xhat = deviation * rstd
    mean_error = _mean(input_error + 0.0 * x) + width * U * _mean(np.abs(x))  # sum, division
    deviation_error = input_error + mean_error + U * np.abs(deviation)
    # square, sum, division
    variance_error = _mean(2 * np.abs(deviation) * deviation_error) + (width + 1) * U * variance
    # relative; half of: eps and its addition; then root and division
    rstd_error = 0.5 * variance_error * rstd**2 + 3 * U
    xhat_error = rstd * deviation_error + np.abs(xhat) * (rstd_error + U)
    y_error = np.abs(gamma) * xhat_error + U * (2 * np.abs(gamma * xhat) + np.abs(beta))

    g = gamma * dy
    slope = _mean(g * xhat)
    g_mean_error = (width + 1) * U * _mean(np.abs(g))  # g, sum, division
    # g, product, sum, division
    slope_error = _mean(np.abs(g) * (xhat_error + (width + 2) * U * np.abs(xhat)))
    sizes = np.abs(g) + np.abs(_mean(g)) + np.abs(xhat * slope)
    # a product and two subtractions, in any order
    inner_error = (
        3 * U * sizes + g_mean_error + np.abs(xhat) * slope_error + xhat_error * np.abs(slope)
    )
    dx = rstd * (g - _mean(g) - xhat * slope)
    dx_error = rstd * inner_error + np.abs(dx) * (rstd_error + U)
    dgamma_error = (np.abs(dy) * (xhat_error + rows * U * np.abs(xhat))).sum(axis=0)
    dbeta_error = (rows - 1) * U * np.abs(dy).sum(axis=0)
    return [y_error, dx_error, dgamma_error, dbeta_error]


def _mean(x: Float64) -> Float64:
    mean: Float64 = x.mean(axis=-1, keepdims=True)
    return mean


def dropout(x: Float64, scales: Float64) -> Float64:
    """Bound for ``x`` times ``scales``, 0 or 1 / (1 - p): the scale and the product."""
    return 2 * U * np.abs(x * scales)


def dropout_add_layer_norm(inputs: list[Float64], dy: Float64, scales: Float64) -> list[Float64]:
    """Bounds for y, dx, dresidual, dgamma, dbeta; ``scales`` are 0 or 1 / (1 - p)."""
    x, residual, gamma, beta = inputs
    total = x * scales + residual
    error = dropout(x, scales) + U * np.abs(total)
    y, dresidual, *parameters = layer_norm([total, gamma, beta], dy, error)
    size = np.abs(_layer_norm_gradient(total, gamma, dy))
    return [y, scales * dresidual + dropout(size, scales), dresidual, *parameters]


def _layer_norm_gradient(x: Float64, gamma: Float64, dy: Float64) -> Float64:
    deviation = x - _mean(x)
    rstd = 1.0 / np.sqrt(_mean(deviation**2) + SMOOTH_EPS)
    xhat, g = deviation * rstd, gamma * dy
    gradient: Float64 = rstd * (g - _mean(g) - xhat * _mean(g * xhat))
    return gradient


def linear(
    inputs: list[Float64],
    dy: Float64,
    factor_error: float = 0.0,
    starts: Sequence[Float64 | float] = (0.0, 0.0, 0.0),
) -> list[Float64]:
    """Bounds for y, dx, dweight, dbias.

    ``factor_error`` is the relative error of each factor, BFLOAT16 where they are rounded to it;
    ``starts`` are what the sums for dx, dweight and dbias start with.
    """
    x, weight, bias = (np.abs(array) for array in inputs)
    dx_start, dweight_start, dbias_start = (np.abs(start) for start in starts)
    dy, product = np.abs(dy), factor_error * (2.0 + factor_error)

    def bound(left: Float64, right: Float64, start: Float64) -> Float64:
        size: Float64 = left @ right
        # the start is one more addition
        allowed: Float64 = (left.shape[1] + 1) * U * (size + start) + product * size
        return allowed

    return [
        bound(x, weight, bias),
        bound(dy, weight.T, dx_start),
        bound(x.T, dy, dweight_start),
        x.shape[0] * U * (dy.sum(axis=0) + dbias_start),
    ]


def gelu(inputs: list[Float64], dy: Float64) -> list[Float64]:
    """Bounds for y and dx: Phi's error, times x."""
    (x,) = inputs
    density = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi)
    # phi: its constant, x^2 / 2 as an argument of exp, the product; then x times it
    term_error = np.abs(x) * density * (EXP + (3 + 0.5 * x**2) * U)
    # the sum of both, which is below 1.13, and the product with dy
    return [np.abs(x) * (PHI + U), np.abs(dy) * (PHI + term_error + 2 * 1.13 * U)]


def softmax_cross_entropy(
    inputs: list[Float64], dy: Float64, labels: npt.NDArray[np.int64], weights: Float64
) -> list[Float64]:
    """Bounds for the loss and dlogits; ``weights`` are any real numbers."""
    (logits,), weights = inputs, np.abs(weights)
    rows, width = logits.shape
    below = logits.max(axis=-1, keepdims=True) - logits
    probabilities = np.exp(-below) / np.exp(-below).sum(axis=-1, keepdims=True)
    # relative: exp, the sum, and the rounding of each argument of exp
    sum_error = EXP + (width - 1) * U + U * (probabilities * below).sum(axis=-1)
    at_label, logs = below[np.arange(rows), labels], np.log(np.exp(-below).sum(axis=-1))
    losses = logs + at_label
    row_error = sum_error + LIBRARY * logs + U * (at_label + losses)
    loss_error = (weights * (row_error + rows * U * losses)).sum()
    factor = np.abs(dy) * weights[:, None]
    # factor by weight, by sum, by exp
    relative = EXP + below * U + sum_error[:, None] + 3 * U
    dlogits = factor * (probabilities * relative + TINY)
    dlogits[np.arange(rows), labels] += 2 * U * factor[:, 0]  # factor and subtraction
    return [np.asarray(loss_error), dlogits]


def binary_cross_entropy(inputs: list[Float64], dy: Float64, weights: Float64) -> list[Float64]:
    """Bounds for the loss and dlogits: NumPy's exp and log1p, label, sums, weight, sum."""
    (z,) = inputs
    sizes = np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))) + np.abs(z)
    loss = (weights * sizes).sum() * (2 * LIBRARY + (3 + z.size) * U)
    # exp, its sum and quotient; the difference and two factors
    return [np.asarray(loss), np.abs(dy) * weights * (LIBRARY + 5 * U)]


def relax_embeddings(
    inputs: list[Float64],
    ddelta: Float64,
    noise: Float64,
    temperature: float,
    sampled_ids: npt.NDArray[np.int64],
    factor_error: float = 0.0,
    dtable_start: Float64 | float = 0.0,
) -> list[Float64]:
    """Bounds for delta, dlogits and dtable; ``factor_error`` is that of the products' factors."""
    logits, table = inputs
    rows, words = logits.shape
    product = factor_error * (2.0 + factor_error)
    total = logits + noise
    below = (total.max(axis=-1, keepdims=True) - total) / temperature
    p = np.exp(-below) / np.exp(-below).sum(axis=-1, keepdims=True)
    # exp; in its argument: sum of logit and noise, difference, 1 / temperature, product
    relative = EXP + U * np.abs(total) / temperature + 3 * U * below
    # the sum, the quotient
    relative = relative + (p * relative).sum(axis=-1, keepdims=True) + words * U
    p_error, excess = p * relative, p.copy()
    excess[np.arange(rows), sampled_ids] -= 1.0
    excess_error, excess = p_error + U * np.abs(excess), np.abs(excess)

    def bound(left: Float64, right: Float64, start: Float64 | float = 0.0) -> Float64:
        size: Float64 = left @ right
        allowed: Float64 = (left.shape[1] + 1) * U * (size + np.abs(start)) + product * size
        return allowed

    delta_error = excess_error @ np.abs(table) + bound(excess, np.abs(table))
    dtable_error = excess_error.T @ np.abs(ddelta) + bound(excess.T, np.abs(ddelta), dtable_start)
    dp, dp_error = ddelta @ table.T, bound(np.abs(ddelta), np.abs(table.T))
    mean, sizes = (p * dp).sum(axis=-1, keepdims=True), p * np.abs(dp)
    mean_error = (p_error * np.abs(dp) + p * dp_error + words * U * sizes).sum(
        axis=-1, keepdims=True
    )
    # difference, 1 / temperature, two products
    inner_error = dp_error + mean_error + 4 * U * (np.abs(dp) + np.abs(mean))
    dlogits_error = (p * inner_error + p_error * np.abs(dp - mean)) / temperature
    return [delta_error, dlogits_error, dtable_error]


def vocabulary_log_likelihood(
    inputs: list[Float64],
    dlog_likelihood: Float64,
    labels: npt.NDArray[np.int64],
    factor_error: float = 0.0,
    starts: Sequence[Float64 | float] = (0.0, 0.0),
) -> list[Float64]:
    """Bounds for the log-likelihood, dx, dtable, dbias.

    ``factor_error`` is the relative error of the products' factors, ``starts`` what the sums for
    dtable and dbias start with. The sums over the rows are taken in parts: at most one addition
    more for each row. The errors of logits may be large in bfloat16, so their effect is not
    linearized: a likelihood changes by as much as the logits do, a probability by its exponential.
    """
    x, table, bias = inputs
    rows, (words, width) = np.arange(x.shape[0]), table.shape
    product = factor_error * (2.0 + factor_error)
    logits, size = x @ table.T + bias, np.abs(x) @ np.abs(table.T)
    logits_error = (width + 1) * U * (size + np.abs(bias)) + product * size
    below = logits.max(axis=-1, keepdims=True) - logits
    p = np.exp(-below) / np.exp(-below).sum(axis=-1, keepdims=True)
    largest_error = logits_error.max(axis=-1)
    # relative: exp, the sum, and the rounding of each argument of exp
    sum_error = EXP + (words - 1) * U + U * (p * below).sum(axis=-1)
    at_label, logs = below[rows, labels], np.log(np.exp(-below).sum(axis=-1))
    likelihood_error = logits_error[rows, labels] + largest_error
    likelihood_error += sum_error + LIBRARY * logs + U * (2 * at_label + logs)

    relative = np.expm1(logits_error + largest_error[:, None])
    # factor by sum, by exp
    relative += EXP + below * U + sum_error[:, None] + 2 * U
    factor = np.abs(dlog_likelihood)[:, None]
    dlogits, dlogits_error = factor * p, factor * p * relative
    dlogits[rows, labels] -= factor[:, 0]
    dlogits_error[rows, labels] += U * np.abs(dlogits[rows, labels])
    dlogits = np.abs(dlogits)

    def bound(left: Float64, left_error: Float64, right: Float64, start: Any, terms: int) -> Any:
        size, error = left @ right, left_error @ right
        return error + product * (size + error) + terms * U * (size + np.abs(start))

    return [
        likelihood_error,
        bound(dlogits, dlogits_error, np.abs(table), 0.0, words + 1),
        bound(dlogits.T, dlogits_error.T, np.abs(x), starts[0], 2 * rows.size + 1),
        dlogits_error.sum(axis=0)
        + (2 * rows.size + 1) * U * (dlogits.sum(axis=0) + np.abs(starts[1])),
    ]


def copy_gate_cross_entropy(
    inputs: list[Float64], dy: Float64, is_copy: npt.NDArray[np.bool_], weights: Float64
) -> list[Float64]:
    """Bounds for the loss, dgate_logits and dlog_likelihoods: NumPy's exp and log1p."""
    z, log_q = inputs
    weights, difference = np.abs(weights), np.abs(z + log_q)
    sizes = np.abs(z) + np.abs(log_q) + np.log1p(np.exp(-np.abs(z))) + np.log1p(np.exp(-difference))
    # z + log q, two softplus, their sum, log q; weight, sum
    loss = (weights * sizes).sum() * (2 * LIBRARY + (5 + z.size) * U)
    gate_error = LIBRARY + 3 * U  # exp, sum, quotient
    posterior_error = gate_error + difference * U  # z + log q
    drawn = np.where(is_copy, 1.0 / (1.0 + np.exp(-z - log_q)), 1.0)
    replaced, factor = 1.0 / (1.0 + np.exp(-z)), np.abs(dy) * weights
    terms = (1.0 - drawn) * replaced + drawn * (1.0 - replaced)
    # two products, the difference; dy by weight
    dgate = factor * terms * (gate_error + posterior_error + 5 * U)
    return [np.asarray(loss), dgate, factor * drawn * (posterior_error + 2 * U)]


def attention(
    inputs: list[Float64], dy: Float64, sizes: Sizes, mask: npt.NDArray[np.bool_], scales: Float64
) -> list[Float64]:
    """Bounds for the context and dquery_key_value; ``scales`` are (B, H, T, T)."""
    length, head_width = sizes.length, sizes.head_width

    def heads(x: Float64) -> Float64:
        return x.reshape(sizes.batch, length, sizes.heads, head_width).swapaxes(1, 2)

    def rows(x: Float64) -> Float64:
        return x.swapaxes(1, 2).reshape(sizes.batch * length, -1)

    query, key, value = (heads(part) for part in np.split(inputs[0], 3, axis=1))
    dcontext, factor = heads(dy), 1.0 / np.sqrt(head_width)
    used = mask[:, None, None, :]
    scores = np.where(used, query @ _t(key) * factor, -np.inf)
    below = scores.max(axis=-1, keepdims=True) - scores
    p = np.exp(-below) / np.exp(-below).sum(axis=-1, keepdims=True)
    below = np.where(used, below, 0.0)
    score_error = (head_width + 3) * U * (np.abs(query) @ _t(np.abs(key))) * factor
    score_error = np.where(used, score_error, 0.0).max(axis=-1, keepdims=True)
    relative = 2 * score_error + 2 * EXP + (below + below.max(axis=-1, keepdims=True)) * U
    p_error = p * (relative + (length + 5) * U)
    dropped, dropped_error = p * scales, (p_error + 2 * U * p) * scales
    context = (dropped_error + length * U * dropped) @ np.abs(value)

    dp = dcontext @ _t(value) * scales
    dp_error = (head_width + 2) * U * (np.abs(dcontext) @ _t(np.abs(value))) * scales
    product_error = p_error * np.abs(dp) + p * dp_error + (length + 2) * U * p * np.abs(dp)
    total = (p * dp).sum(axis=-1, keepdims=True)
    total_error = product_error.sum(axis=-1, keepdims=True)
    ds_error = factor * (
        p_error * (np.abs(dp) + np.abs(total))
        + p * (dp_error + total_error)
        + 5 * U * p * (np.abs(dp) + np.abs(total))
    )
    ds = np.abs(factor * p * (dp - total))
    ds_error = ds_error + length * U * ds
    dquery = ds_error @ np.abs(key)
    dkey = _t(ds_error) @ np.abs(query)
    dvalue = _t(dropped_error + length * U * dropped) @ np.abs(dcontext)
    return [rows(context), np.concatenate([rows(d) for d in (dquery, dkey, dvalue)], axis=1)]


def _t(x: Float64) -> Float64:
    return x.swapaxes(-1, -2)


LINEAR_MAPS: dict[str, Callable[[Sizes], float]] = {  # additions for one number, at most
    "embed": lambda sizes: 3 + sizes.batch * sizes.length,
    "gather_positions": lambda sizes: sizes.slots,
    "dropout": lambda _: 2,
}
