"""The post-LN BERT encoder of either network, and its gradient.

    x = embeddings                                                           (N, C)
    twelve times or so:
        x = layer_norm(x + dropout(attention(x W_qkv + b) W_o + b))
        x = layer_norm(x + dropout(gelu(x W_1 + b) W_2 + b))

The hidden states are the last x. Or they are the sum of all x, that of the embeddings included.

Padding has no x: only attention sees where it stands. What others read there is 0, and the gradient
of that is dropped.

The backward functions are the forward ones read upward, line for line. Each half layer reads x
twice, so two gradients meet there: ``linear`` adds the other one to its own. If the layers are
summed, the gradient of the sum is added to that of each x.
Source: Devlin et al. 2019, arXiv:1810.04805, section 3; google-research/electra model/modeling.py
(``transformer_model``). The sum: Peters et al. 2018, arXiv:1802.05365, equation 1 with equal
weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from electra_ref.arrays import Array, get_xp, spread_rows
from electra_ref.backends import Bits, Cache
from electra_ref.batch import Batch
from electra_ref.config.model import begins_at_neighbours
from electra_ref.model.embeddings import (
    EMBEDDING_SITE,
    EmbeddingsCache,
    embeddings,
    embeddings_backward,
    embeddings_specs,
)
from electra_ref.model.networks import Network
from electra_ref.model.parameters import ParameterSpec
from electra_ref.model.passes import BackwardPass, ForwardPass, layer_norm_specs, linear_specs
from electra_ref.model.relaxation import Relaxation

SITES_PER_LAYER = 3  # of dropout


def encoder_specs(network: Network) -> Iterator[ParameterSpec]:
    """Yield the specs of the embeddings and the layers of ``network``; its head has its own."""
    yield from embeddings_specs(network)
    width, intermediate = network.size.hidden_size, network.size.intermediate_size
    for number in range(network.size.num_hidden_layers):
        name = f"{network.layers}.layer.{number}"
        weight, bias = linear_specs(f"{name}.attention.query_key_value", width, 3 * width)
        yield weight._replace(**_neighbours(network)) if number == 0 else weight
        yield bias
        yield from linear_specs(f"{name}.attention.output", width, width)
        yield from layer_norm_specs(f"{name}.attention.layer_norm", width)
        yield from linear_specs(f"{name}.intermediate", width, intermediate)
        yield from linear_specs(f"{name}.output", intermediate, width)
        yield from layer_norm_specs(f"{name}.layer_norm", width)


def _neighbours(network: Network) -> dict[str, Any]:
    """Return what the specs of the first queries and keys have in place of random numbers."""
    if not begins_at_neighbours(network.config, network.size):
        return {}
    return {"initializer": "neighbours", "heads": network.size.num_attention_heads}


class LayerCache(NamedTuple):
    """One cache for each operation of a layer, in the order they run."""

    query_key_value: Cache
    attention: Cache
    attention_output: Cache
    attention_layer_norm: Cache
    intermediate: Cache
    gelu: Cache
    output: Cache
    layer_norm: Cache


class Tokens(NamedTuple):
    """Where the tokens of a batch stand."""

    mask: Array  # (B, T)  True for a token
    rows: Array  # (n,)  their numbers among all N = B T places

    def without_padding(self, x: Array) -> Array:
        """Return (n, C), the rows of the tokens of ``x`` (N, C)."""
        return x if self.rows.size == self.mask.size else x[self.rows]

    def with_padding(self, x: Array) -> Array:
        """Return (N, C) with the rows of ``x`` (n, C) at the tokens and 0 elsewhere."""
        if self.rows.size == self.mask.size:
            return x
        return spread_rows(x, self.rows, self.mask.size)


class EncoderCache(NamedTuple):
    """The caches of the parts of the encoder, in the order they run."""

    embeddings: EmbeddingsCache
    tokens: Tokens
    layers: list[LayerCache]
    sum_layers: bool


def encode(
    run: ForwardPass,
    network: Network,
    batch: Batch,
    relaxation: Relaxation | None = None,
    *,
    sum_layers: bool = False,
) -> tuple[Array, EncoderCache]:
    """Return the hidden states (N, C) of ``batch``, whose arrays are on the device.

    A ``relaxation`` names the places whose words are mixtures.
    """
    x, embeddings_cache = embeddings(run, network, batch, relaxation)
    tokens = _tokens_of(batch)
    x = hidden = tokens.without_padding(x)
    layers = []
    for number in range(network.size.num_hidden_layers):
        x, cache = _layer(run, network, number, x, tokens)
        hidden = hidden + x if sum_layers else x
        layers.append(cache)
    return tokens.with_padding(hidden), EncoderCache(embeddings_cache, tokens, layers, sum_layers)


def hidden_states(
    run: ForwardPass, network: Network, batch: Batch, *, sum_layers: bool = False
) -> Array:
    """Return the hidden states (N, C) of ``batch``, without the caches that ``encode`` returns.

    Only the activations of one layer are held at a time.
    """
    x, _ = embeddings(run, network, batch)
    tokens = _tokens_of(batch)
    x = hidden = tokens.without_padding(x)
    for number in range(network.size.num_hidden_layers):
        x, _ = _layer(run, network, number, x, tokens)
        hidden = hidden + x if sum_layers else x
    return tokens.with_padding(hidden)


def encode_backward(
    run: BackwardPass, network: Network, dhidden: Array, cache: EncoderCache
) -> Array | None:
    """Add to the gradients what ``dhidden`` (N, C), that of the hidden states, implies.

    Return the gradient of the relaxation's logits, None if there was none. Consumes the cache: its
    layers are taken out one by one, so that their memory is free again.
    """
    tokens = cache.tokens
    dx = dhidden = tokens.without_padding(dhidden)
    for number in reversed(range(network.size.num_hidden_layers)):
        dx = _layer_backward(run, network, number, dx, cache.layers.pop())
        if cache.sum_layers:
            dx = dx + dhidden
    return embeddings_backward(run, network, tokens.with_padding(dx), cache.embeddings)


def _tokens_of(batch: Batch) -> Tokens:
    mask = batch.attention_mask
    return Tokens(mask, get_xp(mask).flatnonzero(mask))


def _layer(
    run: ForwardPass, network: Network, number: int, x: Array, tokens: Tokens
) -> tuple[Array, LayerCache]:
    """Run one layer on ``x`` (n, C)."""
    name = f"{network.layers}.layer.{number}"
    heads = network.size.num_attention_heads
    config, (examples, length) = network.config, tokens.mask.shape
    rate, eps = config.hidden_dropout, config.layer_norm_eps
    site = EMBEDDING_SITE + 1 + number * SITES_PER_LAYER

    scores = heads * length * length  # of an example
    bits = run.dropout_bits(network, site, examples, scores, config.attention_dropout)
    h, query_key_value = run.linear(f"{name}.attention.query_key_value", x)
    h, attention = run.backend.attention(
        h, tokens.mask, heads, bits, config.attention_dropout, run.with_caches
    )
    h, attention_output = run.linear(f"{name}.attention.output", h)
    bits = _bits_of_tokens(run, network, site + 1, tokens)
    x, attention_layer_norm = run.dropout_add_layer_norm(
        f"{name}.attention.layer_norm", h, x, bits, rate, eps
    )
    h, intermediate = run.linear(f"{name}.intermediate", x)
    h, gelu = run.backend.gelu(h)
    h, output = run.linear(f"{name}.output", h)
    bits = _bits_of_tokens(run, network, site + 2, tokens)
    x, layer_norm = run.dropout_add_layer_norm(f"{name}.layer_norm", h, x, bits, rate, eps)
    return x, LayerCache(
        query_key_value, attention, attention_output, attention_layer_norm,
        intermediate, gelu, output, layer_norm,
    )  # fmt: skip


def _bits_of_tokens(run: ForwardPass, network: Network, site: int, tokens: Tokens) -> Bits:
    """Return the bits of a ``site`` whose rows (n, C) are those of the tokens."""
    (examples, length), width = tokens.mask.shape, network.size.hidden_size
    rate = network.config.hidden_dropout
    bits = run.dropout_bits(network, site, examples, length * width, rate)
    if bits is None or tokens.rows.size == tokens.mask.size:
        return bits
    return run.backend.bits_of_rows(bits, tokens.rows, tokens.mask.size)


def _layer_backward(
    run: BackwardPass, network: Network, number: int, dx: Array, cache: LayerCache
) -> Array:
    name = f"{network.layers}.layer.{number}"
    dh, dx = run.dropout_add_layer_norm(f"{name}.layer_norm", dx, cache.layer_norm)
    dh = run.linear(f"{name}.output", dh, cache.output)
    dh = run.backend.gelu_backward(dh, cache.gelu)
    dx = run.linear(f"{name}.intermediate", dh, cache.intermediate, dx)
    dh, dx = run.dropout_add_layer_norm(
        f"{name}.attention.layer_norm", dx, cache.attention_layer_norm
    )
    dh = run.linear(f"{name}.attention.output", dh, cache.attention_output)
    dh = run.backend.attention_backward(dh, cache.attention)
    return run.linear(f"{name}.attention.query_key_value", dh, cache.query_key_value, dx)
