"""A saved model as a library: rows of token ids in, logits, losses and gradients out.

Nothing is dropped, and nothing learns. The arrays of an output and the gradients are on the device
of the model; ``saved.opened.backend.to_host`` brings them back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from electra_ref.arrays import get_xp
from electra_ref.batch import Batch
from electra_ref.errors import UserError
from electra_ref.model.objectives.output import Output
from electra_ref.model.objectives.table import objective_of
from electra_ref.model.parameters import Gradients
from electra_ref.model.passes import BackwardPass, ForwardPass
from electra_ref.rng import Purpose, RandomStream
from electra_ref.text.examples import assemble
from electra_ref.training.saved_model import SavedModel


def batch_of(saved: SavedModel, rows: Sequence[Sequence[int]]) -> Batch:
    """Return ``rows`` of token ids as [CLS] ids [SEP], padded to the longest; on the host.

    Raises UserError for no row, for an id that the model does not know, and for a row that is
    longer than it can read.
    """
    tokens = np.array([token for row in rows for token in row], np.int64)
    entries, longest = len(saved.tokenizer.vocab), saved.config.max_position_embeddings
    if len(rows) == 0:
        raise UserError("there is no row of token ids")
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < entries:
        raise UserError(f"token ids are 0 to {entries - 1}, got {tokens.min()} to {tokens.max()}")
    lengths = np.array([len(row) for row in rows], np.int64)
    length = int(lengths.max()) + 2
    if length > longest:
        raise UserError(f"a row has {length - 2} token ids; the model reads {longest - 2} at most")
    ends = np.cumsum(lengths)
    examples = np.stack([ends - lengths, ends, ends], axis=1)
    return assemble(tokens, examples, length, saved.tokenizer.special_tokens)


def loss_and_gradients(saved: SavedModel, batch: Batch, seed: int = 0) -> tuple[Output, Gradients]:
    """Return the output of the model's objective for ``batch``, and the gradients of its loss.

    ``seed`` names masks and samples. The model must have been opened whole, not one ``part`` of it.
    The gradients are the twins of ``saved.parameters``, by the same names.
    """
    backend, vector = saved.opened.backend, saved.parameters.vector
    objective = objective_of(saved.config)
    model = objective.at_step(saved.model, saved.step)
    run = ForwardPass(backend, saved.parameters, None)
    output, cache = objective.forward(run, model, batch, RandomStream(seed, Purpose.MASK, 0))
    gradients = Gradients(saved.parameters.specs, get_xp(vector).zeros_like(vector))
    counts = objective.count_losses(model, batch)
    objective.backward(BackwardPass(backend, gradients), model, counts, cache)
    for name in objective.unchanged(model):
        gradients.sum_of(name).add_nothing()
    return output, gradients
