"""Logits without what a backward pass needs: no caches, no dropout.

    detection_logits = detection head(hidden states)                     (N,)
    word_logits      = vocabulary head(hidden states at the positions)   (B M, V)

The operations are those of training. Only the activations of one layer are held at a time.

On the backends ``cpu``, in float32 and with bfloat16 products, the bits of a token are those of the
training forward pass that drops nothing. They depend on its row and on the padded length T alone,
not on the rows beside it, their number, or that of the threads: every number is summed in an order
that does not depend on N. In float32 they do not depend on T either. On ``reference`` and ``gpu`` a
library multiplies matrices. It may choose the order of a sum by the number of rows, so there other
rows change the result within rounding.
"""

from __future__ import annotations

from electra_ref.arrays import Array
from electra_ref.batch import Batch
from electra_ref.model.encoder import hidden_states
from electra_ref.model.heads.detection import detection_head
from electra_ref.model.heads.vocabulary import vocabulary_head
from electra_ref.model.networks import Network
from electra_ref.model.passes import ForwardPass


def detection_logits(run: ForwardPass, network: Network, batch: Batch) -> Array:
    """Return one logit (N,) for each token of ``batch``; positive means replaced.

    ``batch`` holds arrays on the device; those of padding mean nothing. Dropout is left out,
    whatever the stream of ``run``. Raises what the operations raise: ValueError if a row is longer
    than there are position embeddings, IndexError if an id is not in its table.
    """
    run = run._replace(stream=None, with_caches=False)
    logits, _ = detection_head(run, network, hidden_states(run, network, batch))
    return logits


def word_logits(run: ForwardPass, network: Network, batch: Batch, positions: Array) -> Array:
    """Return the logits (B M, V) of all words at ``positions`` (B, M) of ``batch``.

    Both hold arrays on the device. Raises what ``detection_logits`` raises.
    """
    run = run._replace(stream=None, with_caches=False)
    logits, _ = vocabulary_head(run, network, hidden_states(run, network, batch), positions)
    return logits
