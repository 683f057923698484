"""The head that guesses words: the generator's, and that of a full-size encoder that guesses.

    h = layer_norm(gelu(x W + b))                             x: (N, C) at chosen rows, or at all
    logits = h Eᵀ + b                                         (B M, V)  at the masked positions
    log q[n] = log softmax(h[n] Eᵀ + b)[label n]              (N,)      at all tokens

E is the table that also embeds the input, so its gradient has a part from here; without
``tie_word_embeddings`` it is a table of the head's own. At all tokens the logits are never held at
once.
Source: Clark et al. 2020, arXiv:2003.10555, section 2; google-research/electra
pretrain/run_pretraining.py (``_get_masked_lm_output``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from electra_ref.arrays import Array
from electra_ref.backends import Cache
from electra_ref.model.embeddings import word_embeddings
from electra_ref.model.networks import Network
from electra_ref.model.parameters import ParameterSpec
from electra_ref.model.passes import BackwardPass, ForwardPass, layer_norm_specs, linear_specs


def output_embeddings(network: Network) -> str:
    """Return the name of the table (V, E) that ``network`` guesses words by."""
    if network.tie_word_embeddings:
        return word_embeddings(network)
    return f"{network.name}.head.output_embeddings.weight"


def vocabulary_head_specs(network: Network) -> Iterator[ParameterSpec]:
    """Yield the specs of the head of ``network``; a table that it shares belongs to the encoder."""
    name, width = f"{network.name}.head", network.config.embedding_size
    entries = network.config.vocab_size
    yield from linear_specs(f"{name}.dense", network.size.hidden_size, width)
    yield from layer_norm_specs(f"{name}.layer_norm", width)
    yield ParameterSpec(f"{name}.output.bias", (entries,), "zeros", decays=False)
    if not network.tie_word_embeddings:
        table = output_embeddings(network)
        yield ParameterSpec(table, (entries, width), "truncated_normal", decays=True)


class TransformCache(NamedTuple):
    """One cache for each operation before the output matrix, in the order they run."""

    dense: Cache
    gelu: Cache
    layer_norm: Cache


class VocabularyHeadCache(NamedTuple):
    """One cache for each operation of the head, in the order they run."""

    gather: Cache
    transform: TransformCache
    output: Cache


class LogLikelihoodCache(NamedTuple):
    """One cache for each part of the head at all tokens."""

    transform: TransformCache
    output: Cache


def vocabulary_head(
    run: ForwardPass, network: Network, hidden: Array, positions: Array
) -> tuple[Array, VocabularyHeadCache]:
    """Return the logits (B M, V) of ``hidden`` (N, C) at ``positions`` (B, M)."""
    h, gather = run.backend.gather_positions(hidden, positions)
    h, transform = _transform(run, network, h)
    table, bias = _output_matrix(run, network)
    logits, output = run.backend.linear(h, table.T, bias)
    return logits, VocabularyHeadCache(gather, transform, output)


def vocabulary_head_backward(
    run: BackwardPass, network: Network, dlogits: Array, cache: VocabularyHeadCache
) -> Array:
    """Return dhidden (N, C) for ``dlogits`` (B M, V)."""
    dtable = run.gradients.sum_of(output_embeddings(network)).transpose()
    dbias = run.gradients.sum_of(f"{network.name}.head.output.bias")
    dh = run.backend.linear_backward(dlogits, cache.output, dtable, dbias)
    dh = _transform_backward(run, network, dh, cache.transform)
    return run.backend.gather_positions_backward(dh, cache.gather)


def log_likelihood_head(
    run: ForwardPass, network: Network, hidden: Array, labels: Array
) -> tuple[Array, LogLikelihoodCache]:
    """Return the log probabilities (N,) of ``labels`` (N,) by ``hidden`` (N, C)."""
    h, transform = _transform(run, network, hidden)
    table, bias = _output_matrix(run, network)
    log_likelihoods, output = run.backend.vocabulary_log_likelihood(h, table, bias, labels)
    return log_likelihoods, LogLikelihoodCache(transform, output)


def log_likelihood_head_backward(
    run: BackwardPass, network: Network, dlog_likelihoods: Array, cache: LogLikelihoodCache
) -> Array:
    """Return dhidden (N, C) for ``dlog_likelihoods`` (N,)."""
    dtable = run.gradients.sum_of(output_embeddings(network))
    dbias = run.gradients.sum_of(f"{network.name}.head.output.bias")
    dh = run.backend.vocabulary_log_likelihood_backward(
        dlog_likelihoods, cache.output, dtable, dbias
    )
    return _transform_backward(run, network, dh, cache.transform)


def _transform(run: ForwardPass, network: Network, x: Array) -> tuple[Array, TransformCache]:
    name = f"{network.name}.head"
    h, dense = run.linear(f"{name}.dense", x)
    h, gelu = run.backend.gelu(h)
    h, layer_norm = run.layer_norm(f"{name}.layer_norm", h, network.config.layer_norm_eps)
    return h, TransformCache(dense, gelu, layer_norm)


def _transform_backward(
    run: BackwardPass, network: Network, dh: Array, cache: TransformCache
) -> Array:
    name = f"{network.name}.head"
    dh = run.layer_norm(f"{name}.layer_norm", dh, cache.layer_norm)
    dh = run.backend.gelu_backward(dh, cache.gelu)
    return run.linear(f"{name}.dense", dh, cache.dense)


def _output_matrix(run: ForwardPass, network: Network) -> tuple[Array, Array]:
    """Return the table (V, E) and the bias (V,)."""
    table = run.parameters[output_embeddings(network)]
    return table, run.parameters[f"{network.name}.head.output.bias"]
