"""What an encoder reads: the embeddings of a network, and their gradient.

    x = dropout(layer_norm(word + position + segment)) [W_project + b]        (N, C)

The projection is there only where the embeddings are not as wide as the network. A network with
read-only embeddings reads their sum with its own: see ``networks``. The words at some places may be
mixtures: see ``relaxation``.
Source: google-research/electra model/modeling.py (``BertModel``, ``embedding_postprocessor``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from electra_ref.arrays import Array
from electra_ref.backends import Cache
from electra_ref.batch import Batch
from electra_ref.model.networks import Network
from electra_ref.model.parameters import ParameterSpec
from electra_ref.model.passes import BackwardPass, ForwardPass, layer_norm_specs, linear_specs
from electra_ref.model.relaxation import Relaxation, RelaxationCache, relax, relax_backward
from electra_ref.model.stopped_gradients import stop_gradient

TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")
EMBEDDING_SITE = 0  # of dropout


def word_embeddings(network: Network) -> str:
    """Return the name of the table (V, E) that embeds words."""
    return f"{network.embeddings}.word_embeddings.weight"


def embeddings_specs(network: Network) -> Iterator[ParameterSpec]:
    """Yield the specs of the tables, their layer norm, and the projection if there is one."""
    width = network.config.embedding_size
    values = "truncated_normal" if network.read_only_embeddings is None else "zeros"
    yield from _table_specs(network, network.embeddings, values)
    yield from layer_norm_specs(f"{network.embeddings}.layer_norm", width)
    if width != network.size.hidden_size:
        name = f"{network.layers}.embeddings_project"
        yield from linear_specs(name, width, network.size.hidden_size, "glorot_uniform")


def read_only_specs(network: Network) -> Iterator[ParameterSpec]:
    """Yield the specs of the tables that ``network`` reads and does not change."""
    if network.read_only_embeddings is not None:
        yield from _table_specs(network, network.read_only_embeddings, "truncated_normal")


def _table_specs(network: Network, prefix: str, initializer: str) -> Iterator[ParameterSpec]:
    config = network.config
    heights = config.vocab_size, config.max_position_embeddings, config.type_vocab_size
    finds = config.initial_attention == "neighbours" and initializer != "zeros"
    finds = finds and config.embedding_size % 2 == 0
    initializers = initializer, "sinusoids" if finds else initializer, initializer
    for table, height, values in zip(TABLES, heights, initializers, strict=True):
        shape = height, config.embedding_size
        yield ParameterSpec(f"{prefix}.{table}.weight", shape, values, decays=True)


class EmbeddingsCache(NamedTuple):
    """One cache for each operation, in the order they run."""

    embed: Cache
    relaxation: RelaxationCache | None  # None where no word is a mixture
    layer_norm: Cache
    dropout: Cache
    project: Cache  # None where there is no projection


def embeddings(
    run: ForwardPass, network: Network, batch: Batch, relaxation: Relaxation | None = None
) -> tuple[Array, EmbeddingsCache]:
    """Return what the first layer reads, (N, C), for ``batch`` on the device."""
    ids, types = batch.input_ids, batch.token_type_ids
    word, position, segment = _tables(run, network.embeddings)
    x, embed = run.backend.embed(word, position, segment, ids, types)
    if network.read_only_embeddings is not None:
        base, position, segment = map(stop_gradient, _tables(run, network.read_only_embeddings))
        x = x + run.backend.embed(base, position, segment, ids, types)[0]
        word = word + base if relaxation is not None else word
    relaxed = None
    if relaxation is not None:
        x, relaxed = relax(run, word, x, relaxation)
    x, norm = run.layer_norm(f"{network.embeddings}.layer_norm", x, network.config.layer_norm_eps)
    examples, rate = batch.input_ids.shape[0], network.config.hidden_dropout
    bits = run.dropout_bits(network, EMBEDDING_SITE, examples, x.size // examples, rate)
    x, dropout = run.backend.dropout(x, bits, rate)
    project = None
    if x.shape[1] != network.size.hidden_size:
        x, project = run.linear(f"{network.layers}.embeddings_project", x)
    return x, EmbeddingsCache(embed, relaxed, norm, dropout, project)


def embeddings_backward(
    run: BackwardPass, network: Network, dx: Array, cache: EmbeddingsCache
) -> Array | None:
    """Add to the gradients what ``dx`` (N, C) implies.

    Return the gradient of the relaxation's logits, None if there was none.
    """
    if cache.project is not None:
        dx = run.linear(f"{network.layers}.embeddings_project", dx, cache.project)
    dx = run.backend.dropout_backward(dx, cache.dropout)
    dx = run.layer_norm(f"{network.embeddings}.layer_norm", dx, cache.layer_norm)
    dlogits = None
    if cache.relaxation is not None:
        dlogits = relax_backward(run, word_embeddings(network), dx, cache.relaxation)
    word, position, segment = (
        run.gradients.sum_of(f"{network.embeddings}.{table}.weight") for table in TABLES
    )
    run.backend.embed_backward(dx, cache.embed, word, position, segment)
    return dlogits


def _tables(run: ForwardPass, prefix: str) -> tuple[Array, Array, Array]:
    """Return the tables behind ``prefix``: of words, positions and segments."""
    word, position, segment = (run.parameters[f"{prefix}.{table}.weight"] for table in TABLES)
    return word, position, segment
