"""The head that guesses words, the generator's.

    logits = layer_norm(gelu(h[positions] W + b)) Eᵀ + b      (B M, V)

E is the table that also embeds the input, so its gradient has a part from here.
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


def vocabulary_head_specs(network: Network) -> Iterator[ParameterSpec]:
    """Yield the specs of the head of ``network``, the table apart."""
    name, width = f"{network.name}.head", network.config.embedding_size
    yield from linear_specs(f"{name}.dense", network.size.hidden_size, width)
    yield from layer_norm_specs(f"{name}.layer_norm", width)
    yield ParameterSpec(f"{name}.output.bias", (network.config.vocab_size,), "zeros", decays=False)


class VocabularyHeadCache(NamedTuple):
    """One cache for each operation of the head, in the order they run."""

    gather: Cache
    dense: Cache
    gelu: Cache
    layer_norm: Cache
    output: Cache


def vocabulary_head(
    run: ForwardPass, network: Network, hidden: Array, positions: Array
) -> tuple[Array, VocabularyHeadCache]:
    """Return the logits (B M, V) of ``hidden`` (N, C) at ``positions`` (B, M)."""
    name = f"{network.name}.head"
    h, gather = run.backend.gather_positions(hidden, positions)
    h, dense = run.linear(f"{name}.dense", h)
    h, gelu = run.backend.gelu(h)
    h, layer_norm = run.layer_norm(f"{name}.layer_norm", h, network.config.layer_norm_eps)
    table, bias = run.parameters[word_embeddings(network)], run.parameters[f"{name}.output.bias"]
    logits, output = run.backend.linear(h, table.T, bias)
    return logits, VocabularyHeadCache(gather, dense, gelu, layer_norm, output)


def vocabulary_head_backward(
    run: BackwardPass, network: Network, dlogits: Array, cache: VocabularyHeadCache
) -> Array:
    """Return dhidden (N, C) for ``dlogits`` (B M, V)."""
    name = f"{network.name}.head"
    dtable = run.gradients.sum_of(word_embeddings(network)).transpose()
    dbias = run.gradients.sum_of(f"{name}.output.bias")
    dh = run.backend.linear_backward(dlogits, cache.output, dtable, dbias)
    dh = run.layer_norm(f"{name}.layer_norm", dh, cache.layer_norm)
    dh = run.backend.gelu_backward(dh, cache.gelu)
    dh = run.linear(f"{name}.dense", dh, cache.dense)
    return run.backend.gather_positions_backward(dh, cache.gather)
