"""The post-LN BERT encoder of either network, and its gradient.

    x = dropout(layer_norm(word + position + segment)) [W_project + b]        (N, C)
    twelve times or so:
        x = layer_norm(x + dropout(attention(x W_qkv + b) W_o + b))
        x = layer_norm(x + dropout(gelu(x W_1 + b) W_2 + b))

The backward functions are the forward ones read upward, line for line. The embeddings and their
layer norm are shared by generator and discriminator, so their gradients add up.
Source: Devlin et al. 2019, arXiv:1810.04805, section 3; google-research/electra model/modeling.py
(``BertModel``, ``transformer_model``).
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.arrays import Array
from electra_ref.backends import Backend, Bits, Cache
from electra_ref.config import EncoderSize
from electra_ref.model.parameters import (
    POSITION_EMBEDDINGS,
    TOKEN_TYPE_EMBEDDINGS,
    WORD_EMBEDDINGS,
    FlatGradients,
    FlatParameters,
)
from electra_ref.rng import RandomStream

EMBEDDING_SITE = 0  # dropout sites of a network: the embeddings, then three in each layer
SITES_PER_LAYER = 3


class Dropout(NamedTuple):
    """How one network drops: rates, and the random stream its sites draw from."""

    hidden_rate: float
    attention_rate: float
    stream: RandomStream | None  # of site 0; None in evaluation, which drops nothing

    def bits(self, backend: Backend, site: int, examples: int, count: int, rate: float) -> Bits:
        """Return the bits of ``site``, ``count`` for each of ``examples`` rows of the batch.

        None, which drops nothing, where the ``rate`` is 0 and in evaluation.
        """
        if self.stream is None or rate == 0.0:
            return None
        stream = self.stream._replace(purpose=self.stream.purpose + site)
        return backend.dropout_bits(stream, examples, count)


class Encoder(NamedTuple):
    """What the functions below need to know of a network, besides its parameters."""

    network: str  # "generator" or "discriminator": the prefix of its parameters' names
    size: EncoderSize
    layer_norm_eps: float


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


class EncoderCache(NamedTuple):
    """One cache for each operation of the encoder, in the order they run."""

    embed: Cache
    layer_norm: Cache
    dropout: Cache
    embeddings_project: Cache  # None where the embeddings are as wide as the encoder
    layers: list[LayerCache]  # emptied from the back by ``encode_backward``, to free memory


def encode(
    backend: Backend,
    parameters: FlatParameters,
    encoder: Encoder,
    input_ids: Array,
    token_type_ids: Array,
    attention_mask: Array,
    dropout: Dropout,
) -> tuple[Array, EncoderCache]:
    """Return the hidden states (N, C) of ``input_ids`` (B, T); all integers are (B, T)."""
    examples, length = input_ids.shape
    x, embed_cache = backend.embed(
        parameters[WORD_EMBEDDINGS],
        parameters[POSITION_EMBEDDINGS],
        parameters[TOKEN_TYPE_EMBEDDINGS],
        input_ids,
        token_type_ids,
    )
    x, layer_norm_cache = backend.layer_norm(
        x,
        parameters["embeddings.layer_norm.weight"],
        parameters["embeddings.layer_norm.bias"],
        encoder.layer_norm_eps,
    )
    bits = dropout.bits(backend, EMBEDDING_SITE, examples, length * x.shape[1], dropout.hidden_rate)
    x, dropout_cache = backend.dropout(x, bits, dropout.hidden_rate)
    project_cache = None
    if x.shape[1] != encoder.size.hidden_size:
        x, project_cache = _linear(backend, parameters, f"{encoder.network}.embeddings_project", x)
    layers = []
    for number in range(encoder.size.num_hidden_layers):
        x, layer_cache = _layer(backend, parameters, encoder, number, x, attention_mask, dropout)
        layers.append(layer_cache)
    return x, EncoderCache(embed_cache, layer_norm_cache, dropout_cache, project_cache, layers)


def encode_backward(
    backend: Backend, gradients: FlatGradients, encoder: Encoder, dx: Array, cache: EncoderCache
) -> None:
    """Add to ``gradients`` what ``dx`` (N, C), the gradient of the hidden states, implies."""
    for number in reversed(range(encoder.size.num_hidden_layers)):
        dx = _layer_backward(backend, gradients, encoder, number, dx, cache.layers.pop())
    if cache.embeddings_project is not None:
        name = f"{encoder.network}.embeddings_project"
        dx = _linear_backward(backend, gradients, name, dx, cache.embeddings_project)
    dx = backend.dropout_backward(dx, cache.dropout)
    dx, dgamma, dbeta = backend.layer_norm_backward(dx, cache.layer_norm)
    gradients.add("embeddings.layer_norm.weight", dgamma)
    gradients.add("embeddings.layer_norm.bias", dbeta)
    dword, dposition, dsegment = backend.embed_backward(dx, cache.embed)
    gradients.add(WORD_EMBEDDINGS, dword)
    gradients.add(POSITION_EMBEDDINGS, dposition)
    gradients.add(TOKEN_TYPE_EMBEDDINGS, dsegment)


def _layer(
    backend: Backend,
    parameters: FlatParameters,
    encoder: Encoder,
    number: int,
    x: Array,
    attention_mask: Array,
    dropout: Dropout,
) -> tuple[Array, LayerCache]:
    name = f"{encoder.network}.layer.{number}"
    heads, width = encoder.size.num_attention_heads, encoder.size.hidden_size
    examples, length = attention_mask.shape
    site = EMBEDDING_SITE + 1 + number * SITES_PER_LAYER
    scores, hidden = heads * length * length, length * width  # elements of a row of the batch
    probability_bits = dropout.bits(backend, site, examples, scores, dropout.attention_rate)
    attention_bits = dropout.bits(backend, site + 1, examples, hidden, dropout.hidden_rate)
    output_bits = dropout.bits(backend, site + 2, examples, hidden, dropout.hidden_rate)

    h, query_key_value_cache = _linear(backend, parameters, f"{name}.attention.query_key_value", x)
    h, attention_cache = backend.attention(
        h, attention_mask, heads, probability_bits, dropout.attention_rate
    )
    h, attention_output_cache = _linear(backend, parameters, f"{name}.attention.output", h)
    x, attention_layer_norm_cache = backend.dropout_add_layer_norm(
        h,
        x,
        parameters[f"{name}.attention.layer_norm.weight"],
        parameters[f"{name}.attention.layer_norm.bias"],
        attention_bits,
        dropout.hidden_rate,
        encoder.layer_norm_eps,
    )
    h, intermediate_cache = _linear(backend, parameters, f"{name}.intermediate", x)
    h, gelu_cache = backend.gelu(h)
    h, output_cache = _linear(backend, parameters, f"{name}.output", h)
    x, layer_norm_cache = backend.dropout_add_layer_norm(
        h,
        x,
        parameters[f"{name}.layer_norm.weight"],
        parameters[f"{name}.layer_norm.bias"],
        output_bits,
        dropout.hidden_rate,
        encoder.layer_norm_eps,
    )
    return x, LayerCache(
        query_key_value_cache,
        attention_cache,
        attention_output_cache,
        attention_layer_norm_cache,
        intermediate_cache,
        gelu_cache,
        output_cache,
        layer_norm_cache,
    )


def _layer_backward(
    backend: Backend,
    gradients: FlatGradients,
    encoder: Encoder,
    number: int,
    dx: Array,
    cache: LayerCache,
) -> Array:
    name = f"{encoder.network}.layer.{number}"
    dh, dx, dgamma, dbeta = backend.dropout_add_layer_norm_backward(dx, cache.layer_norm)
    gradients.add(f"{name}.layer_norm.weight", dgamma)
    gradients.add(f"{name}.layer_norm.bias", dbeta)
    dh = _linear_backward(backend, gradients, f"{name}.output", dh, cache.output)
    dh = backend.gelu_backward(dh, cache.gelu)
    dx += _linear_backward(backend, gradients, f"{name}.intermediate", dh, cache.intermediate)
    dh, dx, dgamma, dbeta = backend.dropout_add_layer_norm_backward(dx, cache.attention_layer_norm)
    gradients.add(f"{name}.attention.layer_norm.weight", dgamma)
    gradients.add(f"{name}.attention.layer_norm.bias", dbeta)
    dh = _linear_backward(
        backend, gradients, f"{name}.attention.output", dh, cache.attention_output
    )
    dh = backend.attention_backward(dh, cache.attention)
    dx += _linear_backward(
        backend, gradients, f"{name}.attention.query_key_value", dh, cache.query_key_value
    )
    return dx


def _linear(
    backend: Backend, parameters: FlatParameters, name: str, x: Array
) -> tuple[Array, Cache]:
    return backend.linear(x, parameters[f"{name}.weight"], parameters[f"{name}.bias"])


def _linear_backward(
    backend: Backend, gradients: FlatGradients, name: str, dy: Array, cache: Cache
) -> Array:
    dx, dweight, dbias = backend.linear_backward(dy, cache)
    gradients.add(f"{name}.weight", dweight)
    gradients.add(f"{name}.bias", dbias)
    return dx
