"""The two heads: the generator's scores of words, the discriminator's score of each token.

    generator:      layer_norm(gelu(h[positions] W + b)) Eᵀ + b      (B M, V)
    discriminator:  gelu(h W + b) w + b                              (N,)   positive = replaced

E is the word embedding table. Source: Clark et al. 2020, arXiv:2003.10555, section 2;
google-research/electra pretrain/run_pretraining.py (``_get_masked_lm_output``,
``_get_discriminator_output``).
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.arrays import Array
from electra_ref.backends import Backend, Cache
from electra_ref.model.parameters import WORD_EMBEDDINGS, FlatGradients, FlatParameters

DENSE = "generator.head.dense"
LAYER_NORM = "generator.head.layer_norm"
OUTPUT_BIAS = "generator.head.output.bias"
DISCRIMINATOR_DENSE = "discriminator.head.dense"
DISCRIMINATOR_OUTPUT = "discriminator.head.output"


class GeneratorHeadCache(NamedTuple):
    """One cache for each operation of the head, in the order they run."""

    gather: Cache
    dense: Cache
    gelu: Cache
    layer_norm: Cache
    vocabulary_logits: Cache


def generator_head(
    backend: Backend, parameters: FlatParameters, hidden: Array, positions: Array, eps: float
) -> tuple[Array, GeneratorHeadCache]:
    """Return the logits (B M, V) of ``hidden`` (N, C) at ``positions`` (B, M)."""
    h, gather = backend.gather_positions(hidden, positions)
    h, dense = backend.linear(h, parameters[f"{DENSE}.weight"], parameters[f"{DENSE}.bias"])
    h, gelu = backend.gelu(h)
    gamma, beta = parameters[f"{LAYER_NORM}.weight"], parameters[f"{LAYER_NORM}.bias"]
    h, layer_norm = backend.layer_norm(h, gamma, beta, eps)
    logits, vocabulary_logits = backend.vocabulary_logits(
        h, parameters[WORD_EMBEDDINGS], parameters[OUTPUT_BIAS]
    )
    return logits, GeneratorHeadCache(gather, dense, gelu, layer_norm, vocabulary_logits)


def generator_head_backward(
    backend: Backend, gradients: FlatGradients, dlogits: Array, cache: GeneratorHeadCache
) -> Array:
    """Return dhidden (N, C) for ``dlogits`` (B M, V); add the head's own ``gradients``."""
    dh, dword, dbias = backend.vocabulary_logits_backward(dlogits, cache.vocabulary_logits)
    gradients.add(WORD_EMBEDDINGS, dword)
    gradients.add(OUTPUT_BIAS, dbias)
    dh, dgamma, dbeta = backend.layer_norm_backward(dh, cache.layer_norm)
    gradients.add(f"{LAYER_NORM}.weight", dgamma)
    gradients.add(f"{LAYER_NORM}.bias", dbeta)
    dh = backend.gelu_backward(dh, cache.gelu)
    dh, dweight, dbias = backend.linear_backward(dh, cache.dense)
    gradients.add(f"{DENSE}.weight", dweight)
    gradients.add(f"{DENSE}.bias", dbias)
    return backend.gather_positions_backward(dh, cache.gather)


class DiscriminatorHeadCache(NamedTuple):
    """One cache for each operation of the head, in the order they run."""

    dense: Cache
    gelu: Cache
    output: Cache


def discriminator_head(
    backend: Backend, parameters: FlatParameters, hidden: Array
) -> tuple[Array, DiscriminatorHeadCache]:
    """Return one logit (N,) for each row of ``hidden`` (N, C); positive means replaced."""
    weight = parameters[f"{DISCRIMINATOR_DENSE}.weight"]
    h, dense = backend.linear(hidden, weight, parameters[f"{DISCRIMINATOR_DENSE}.bias"])
    h, gelu = backend.gelu(h)
    weight = parameters[f"{DISCRIMINATOR_OUTPUT}.weight"]
    logits, output = backend.linear(h, weight, parameters[f"{DISCRIMINATOR_OUTPUT}.bias"])
    return logits[:, 0], DiscriminatorHeadCache(dense, gelu, output)


def discriminator_head_backward(
    backend: Backend, gradients: FlatGradients, dlogits: Array, cache: DiscriminatorHeadCache
) -> Array:
    """Return dhidden (N, C) for ``dlogits`` (N,); add the head's own ``gradients``."""
    dh, dweight, dbias = backend.linear_backward(dlogits[:, None], cache.output)
    gradients.add(f"{DISCRIMINATOR_OUTPUT}.weight", dweight)
    gradients.add(f"{DISCRIMINATOR_OUTPUT}.bias", dbias)
    dh = backend.gelu_backward(dh, cache.gelu)
    dh, dweight, dbias = backend.linear_backward(dh, cache.dense)
    gradients.add(f"{DISCRIMINATOR_DENSE}.weight", dweight)
    gradients.add(f"{DISCRIMINATOR_DENSE}.bias", dbias)
    return dh
