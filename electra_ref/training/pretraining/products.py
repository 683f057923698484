"""The matrix products of a training step and their floating-point operations, from settings alone.

A product (M, K) x (K, N) is 2 M K N FLOP. Every linear map has three of the same size:

    y = x W,    dx = dy Wᵀ,    dW = xᵀ dy

Attention has six for each row and head, of 2 T T D FLOP: S = q kᵀ and A v forward, and
dv = Aᵀ dcontext, dA = dcontext vᵀ, dq = dS k, dk = dSᵀ q backward. The cost of all else in a step
(layer norm, GELU, softmax, dropout, the optimizer) is proportional to its input and is not counted.
A layer has W = 4 C^2 + 2 C F weights. The FLOP of a token are:

    6 W + 12 T C   a layer,   6 E V M / T   for the scores of the vocabulary

So only attention grows faster than the number of tokens. What runs in a step:

    objective                generator                     full-size network
    electra, electra-15      words at the M masked slots   detection at every token
    mlm                      none                          words at the M masked slots
    replace-mlm              words at the M masked slots   words at the M masked slots
    all-tokens-mlm           words at the M masked slots   detection and words at every token

* Words at every token: their scores are computed again in the backward pass, 8 E V a token.
* ``uniform_generator``: no generator.
* ``two_stage_steps``: first the generator alone, then its forward pass and the other network.
* ``discriminator_input = paired``: the generator reads rows of T tokens, the full-size network rows
  of 2 T - 1.
* ``adversarial = reinforce``: a linear map to one number, the baseline, at the M masked slots.
* ``adversarial = gumbel-softmax``: the probabilities p (M, V) mix the rows of the table E (V, E).
  Forward p E, and backward ddelta Eᵀ and pᵀ ddelta: 6 E V a slot. With ``straight_through`` the
  row of the sampled token is read, and only ddelta Eᵀ is left: 2 E V.

``sharing`` changes which weights are multiplied, not how often.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from electra_ref.config.model import EncoderSize, discriminator_size, generator_size
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.masking import masked_slots

BACKWARD = "_backward"  # how the names of the backend's backward functions end


class Product(NamedTuple):
    """``repeats`` equal products of stacks of (rows, inner) and (inner, columns)."""

    name: str
    operation: str  # the backend's name for what computes it
    repeats: int
    stack: int
    rows: int
    inner: int
    columns: int
    left_transposed: bool = False  # stored as (inner, rows)
    right_transposed: bool = False  # stored as (columns, inner)

    @property
    def flop(self) -> int:
        return 2 * self.repeats * self.stack * self.rows * self.inner * self.columns


class NetworkPass(NamedTuple):
    """One network in a training step, and where its heads are. All counts are those of one row."""

    network: str
    size: EncoderSize
    length: int  # tokens of a row
    words: int  # positions with the scores of the vocabulary
    detections: int  # positions with the score of detection
    slots: int  # masked slots with an adversarial gradient
    trained: bool = True  # or forward only
    scores_again: bool = False  # those of the vocabulary are computed again in the backward pass


def network_passes(config: PretrainingConfig, step: int = 0) -> list[NetworkPass]:
    """Return the networks that run in the step that comes after ``step`` steps.

    Raises UserError if no token of a row can be masked.
    """
    rows, slots = config.row_length, masked_slots(config.row_length, config.mask_probability)
    passes = []
    first_stage, two_stages = step < config.two_stage_steps, config.two_stage_steps > 0
    if config.why_no_generator is None:
        adversarial = slots if config.adversarial != "none" else 0
        trained, size = first_stage or not two_stages, generator_size(config)
        passes.append(NetworkPass("generator", size, rows, slots, 0, adversarial, trained))
    if not first_stage:
        length = 2 * rows - 1 if config.discriminator_input == "paired" else rows
        words, detections = _heads(config.objective, length, slots)
        size, again = discriminator_size(config), words == length
        passes.append(
            NetworkPass("discriminator", size, length, words, detections, 0, scores_again=again)
        )
    return passes


def step_products(config: PretrainingConfig, step: int = 0) -> list[Product]:
    """Return all matrix products of the step that comes after ``step`` steps, in any order.

    ``config.vocab_size`` must be known. Raises UserError if no token of a row can be masked.
    """
    products = []
    for each in network_passes(config, step):
        products += [
            product
            for product in _products_of(config, each)
            if each.trained or not product.operation.endswith(BACKWARD)
        ]
    return products


def step_flop(config: PretrainingConfig, step: int = 0) -> int:
    """Return the FLOP of the step that comes after ``step`` steps: see ``step_products``."""
    return sum(product.flop for product in step_products(config, step))


def run_flop(config: PretrainingConfig, steps: int | None = None) -> int:
    """Return the FLOP of the first ``steps`` steps of a run, or of all: see ``step_products``."""
    steps = config.steps if steps is None else steps
    first = min(steps, config.two_stage_steps)
    later = (steps - first) * step_flop(config, config.two_stage_steps)
    return first * step_flop(config) + later


def _heads(objective: str, length: int, slots: int) -> tuple[int, int]:
    """Return at how many positions the full-size network has the vocabulary, and detection."""
    if objective in ("mlm", "replace-mlm"):
        return slots, 0
    return (length if objective == "all-tokens-mlm" else 0), length


def _products_of(config: PretrainingConfig, part: NetworkPass) -> Iterator[Product]:
    batch, embedding, name = config.batch_size, config.embedding_size, part.network
    width, slots = part.size.hidden_size, batch * part.slots
    yield from _encoder(name, part.size, batch, part.length, embedding)
    if part.words:
        yield from _vocabulary_head(config, part)
    if part.detections:
        yield from _linear(f"{name}.head.dense", 1, batch * part.detections, width, width)
        yield from _linear(f"{name}.head.output", 1, batch * part.detections, width, 1)
    if part.slots and config.adversarial == "reinforce":
        yield from _linear(f"{name}.head.baseline", 1, slots, width, 1)
    if part.slots and config.adversarial == "gumbel-softmax":
        yield from _mixture(slots, config.vocab_size, embedding, config.straight_through)


def _vocabulary_head(config: PretrainingConfig, part: NetworkPass) -> Iterator[Product]:
    name = f"{part.network}.head" if part.network == "generator" else "encoder.head"
    rows, width = config.batch_size * part.words, part.size.hidden_size
    yield from _linear(f"{name}.dense", 1, rows, width, config.embedding_size)
    operation = "vocabulary_log_likelihood" if part.scores_again else "linear"
    sizes = rows, config.embedding_size, config.vocab_size
    yield from _linear_of_a_table(f"{name}.output", operation, *sizes)
    if part.scores_again:
        again, backward = f"{name}.output y again", f"{operation}{BACKWARD}"
        yield Product(again, backward, 1, 1, *sizes, right_transposed=True)


def _encoder(
    network: str, size: EncoderSize, batch: int, length: int, embedding_size: int
) -> Iterator[Product]:
    tokens, width, layers = batch * length, size.hidden_size, size.num_hidden_layers
    if width != embedding_size:
        yield from _linear(f"{network}.embeddings_project", 1, tokens, embedding_size, width)
    yield from _linear(f"{network}.query_key_value", layers, tokens, width, 3 * width)
    yield from _linear(f"{network}.attention.output", layers, tokens, width, width)
    yield from _linear(f"{network}.intermediate", layers, tokens, width, size.intermediate_size)
    yield from _linear(f"{network}.output", layers, tokens, size.intermediate_size, width)
    heads = batch * size.num_attention_heads
    yield from _attention(
        f"{network}.attention", layers, heads, length, width // size.num_attention_heads
    )


def _linear(name: str, repeats: int, rows: int, inputs: int, outputs: int) -> Iterator[Product]:
    forward, backward = "linear", "linear_backward"
    yield Product(f"{name} y", forward, repeats, 1, rows, inputs, outputs)
    yield Product(f"{name} dx", backward, repeats, 1, rows, outputs, inputs, right_transposed=True)
    yield Product(f"{name} dW", backward, repeats, 1, inputs, rows, outputs, left_transposed=True)


def _attention(
    name: str, repeats: int, heads: int, length: int, head_width: int
) -> Iterator[Product]:
    scores = (repeats, heads, length, head_width, length)
    sums = (repeats, heads, length, length, head_width)
    forward, backward = "attention", "attention_backward"
    yield Product(f"{name} q kT", forward, *scores, right_transposed=True)
    yield Product(f"{name} A v", forward, *sums)
    yield Product(f"{name} dcontext vT", backward, *scores, right_transposed=True)
    yield Product(f"{name} AT dcontext", backward, *sums, left_transposed=True)
    yield Product(f"{name} dS k", backward, *sums)
    yield Product(f"{name} dST q", backward, *sums, left_transposed=True)


def _linear_of_a_table(
    name: str, forward: str, rows: int, inputs: int, outputs: int
) -> Iterator[Product]:
    """Yield the products of a linear map whose weight is a transposed table."""
    backward = f"{forward}{BACKWARD}"
    yield Product(f"{name} y", forward, 1, 1, rows, inputs, outputs, right_transposed=True)
    yield Product(f"{name} dx", backward, 1, 1, rows, outputs, inputs)
    yield Product(f"{name} dE", backward, 1, 1, outputs, rows, inputs, left_transposed=True)


def _mixture(slots: int, entries: int, width: int, straight_through: bool) -> Iterator[Product]:
    """Yield the products of a mixture of the rows of a table (entries, width) in every slot."""
    forward, backward = "relax_embeddings", "relax_embeddings_backward"
    if not straight_through:
        yield Product("mixture y", forward, 1, 1, slots, entries, width)
        yield Product("mixture dE", backward, 1, 1, entries, slots, width, left_transposed=True)
    yield Product("mixture dp", backward, 1, 1, slots, width, entries, right_transposed=True)
