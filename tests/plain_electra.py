"""ELECTRA's forward pass a second time, in plain NumPy from the papers: no code of the package.

Only random bits come from the package (``rng.dropout_bits``). It is slow, has no gradient, and
takes nothing by name from a table of settings: each rate and epsilon is written where it belongs.

Source: Devlin et al. 2019, arXiv:1810.04805; Clark et al. 2020, arXiv:2003.10555; google-research/
electra model/modeling.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import erf, log_expit, log_softmax, softmax

from electra_ref.arrays import Array
from electra_ref.rng import RandomStream, dropout_bits


class Rates(NamedTuple):
    """What drops how much, and from which bits."""

    hidden: float
    attention: float
    stream: RandomStream | None  # None drops nothing
    first_site: int  # 0x100 for the generator, 0x10100 for the discriminator


def encode(
    parameters: Mapping[str, Array],
    network: str,
    heads: int,
    layers: int,
    eps: float,
    rates: Rates,
    ids: Array,
    types: Array,
    tokens: Array,
) -> Array:
    """Return the hidden states (B, T, C) of ``ids``; ``tokens`` is True for tokens, both (B, T)."""

    def linear(name: str, x: Array) -> Array:
        return x @ parameters[f"{name}.weight"] + parameters[f"{name}.bias"]

    def norm(name: str, x: Array) -> Array:
        deviation = np.sqrt(x.var(axis=-1, keepdims=True) + eps)
        x = (x - x.mean(axis=-1, keepdims=True)) / deviation
        return parameters[f"{name}.weight"] * x + parameters[f"{name}.bias"]

    def drop(site: int, rate: float, x: Array) -> Array:
        threshold = round(rate * 65536)
        if rates.stream is None or threshold == 0:
            return x
        stream = rates.stream._replace(purpose=rates.first_site + site)
        bits = dropout_bits(stream, len(x), x[0].size).reshape(x.shape)
        return np.where(bits >= threshold, x * 65536 / (65536 - threshold), 0.0)

    x = parameters["embeddings.word_embeddings.weight"][ids]
    x = x + parameters["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = x + parameters["embeddings.token_type_embeddings.weight"][types]
    x = drop(0, rates.hidden, norm("embeddings.layer_norm", x))
    if f"{network}.embeddings_project.weight" in parameters:
        x = linear(f"{network}.embeddings_project", x)
    for number in range(layers):
        name = f"{network}.layer.{number}"
        parts = np.split(linear(f"{name}.attention.query_key_value", x), 3, axis=-1)
        query, key, value = (
            np.stack(np.split(part, heads, axis=-1), axis=1) for part in parts
        )  # (B, H, T, D)
        scores = np.einsum("bhqd,bhkd->bhqk", query, key) / np.sqrt(query.shape[-1])
        weights = softmax(scores - 10000.0 * ~tokens[:, None, None, :], axis=-1)
        weights = drop(1 + 3 * number, rates.attention, weights)
        context = np.concatenate(list(np.swapaxes(weights @ value, 0, 1)), axis=-1)
        out = drop(2 + 3 * number, rates.hidden, linear(f"{name}.attention.output", context))
        x = norm(f"{name}.attention.layer_norm", x + out)
        out = linear(f"{name}.output", gelu(linear(f"{name}.intermediate", x)))
        x = norm(f"{name}.layer_norm", x + drop(3 + 3 * number, rates.hidden, out))
    return x


def guess_words(parameters: Mapping[str, Array], hidden: Array, eps: float) -> Array:
    """Return the generator's logits (B, T, V) at every position."""
    h = hidden @ parameters["generator.head.dense.weight"] + parameters["generator.head.dense.bias"]
    h = gelu(h)
    h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + eps)
    h = h * parameters["generator.head.layer_norm.weight"]
    h = h + parameters["generator.head.layer_norm.bias"]
    tables = "generator.head.output_embeddings.weight", "embeddings.word_embeddings.weight"
    table = next(parameters[name] for name in tables if name in parameters)
    logits: Array = h @ table.T + parameters["generator.head.output.bias"]
    return logits


def detect(parameters: Mapping[str, Array], hidden: Array) -> Array:
    """Return the discriminator's logits (B, T)."""
    name = "discriminator.head"
    h = gelu(hidden @ parameters[f"{name}.dense.weight"] + parameters[f"{name}.dense.bias"])
    logits: Array = h @ parameters[f"{name}.output.weight"] + parameters[f"{name}.output.bias"]
    return logits[..., 0]


def gelu(x: Array) -> Array:
    """Return x Phi(x)."""
    result: Array = x * (1 + erf(x / np.sqrt(2))) / 2
    return result


def mlm_losses(logits: Array, labels: Array) -> Array:
    """Return the cross entropy of each row of ``logits`` (n, V)."""
    losses: Array = -log_softmax(logits, axis=-1)[np.arange(len(labels)), labels]
    return losses


def rtd_losses(logits: Array, replaced: Array) -> Array:
    """Return the binary cross entropy of each logit."""
    losses: Array = -log_expit(np.where(replaced, logits, -logits))
    return losses
