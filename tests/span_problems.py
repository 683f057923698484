"""A head for spans on a tiny encoder: rows with an answer, without one, and with nothing known."""

from __future__ import annotations

from typing import Any

import numpy as np

from electra_ref.batch import Batch
from electra_ref.model.heads.span import SpanOptions, SpanTargets
from electra_ref.model.labelled import FineTuned, Head, LabelledBatch
from electra_ref.model.networks import full_size_encoder
from electra_ref.model.objectives import fine_tuning
from electra_ref.model.parameters import FlatParameters
from electra_ref.rng import Purpose, RandomStream
from tests.tiny_electra import SPECIAL_TOKENS, VOCAB_SIZE, tiny_config
from tests.variants import VariantProblem

OPTIONS = SpanOptions(answerable_weight=0.7, beam=4, width=6)
LENGTHS = (12, 9, 11, 7, 12)
CONTEXTS = (4, 3, 5, 2, 4)  # where the second text of each row begins
TARGETS = SpanTargets(  # an answer, an impossible question, a window without the answer, nothing
    starts=np.array([6, 0, 0, 0, 11], np.int32),
    ends=np.array([8, 0, 0, 0, 11], np.int32),
    impossible=np.array([0, 1, 0, 1, 0], np.int32),
    weights=np.array([1, 1, 1, 0, 1], np.int32),
)


SHIFTS: dict[str, dict[str, str]] = {  # a softmax over places does not see what moves them all
    "original": {
        "task.start.bias": "task.start.weight",
        "task.end.output.bias": "task.end.output.weight",
    },
    "huggingface": {
        "task.output.bias": "task.output.weight",
        "encoder.layer.0.layer_norm.bias": "encoder.layer.0.layer_norm.weight",
    },
}


def span_problem(
    form: str, scale: float, seed: int, *, padding: int = 2, all_places: bool = False
) -> VariantProblem:
    """Draw parameters of standard deviation ``scale`` and the ids of the rows.

    With ``all_places`` an answer may be anywhere: nothing is padded, and there is no question.
    """
    config = tiny_config(
        num_hidden_layers=1, max_position_embeddings=20, max_length=20, embedding_size=4,
        hidden_size=6, intermediate_size=5,
    )  # fmt: skip
    head = Head("span-extraction", form, 2, 0.1, 3.0, OPTIONS)
    model = FineTuned(full_size_encoder(config), head)
    specs = fine_tuning.parameter_specs(model)
    random = np.random.default_rng(seed)
    count = sum(int(np.prod(spec.shape)) for spec in specs)
    parameters = FlatParameters(specs, scale * random.standard_normal(count))
    for spec in specs:
        if spec.initializer == "ones":
            parameters[spec.name][...] += 1.0
    places = np.arange(max(LENGTHS) + padding)
    is_token = (places < np.array(LENGTHS)[:, None]) | all_places
    segments = (is_token & ((places >= np.array(CONTEXTS)[:, None]) | all_places)).astype(np.int32)
    ids = np.where(is_token, random.integers(5, VOCAB_SIZE, is_token.shape), 0).astype(np.int32)
    ids[:, 0] = SPECIAL_TOKENS.cls
    batch = LabelledBatch(Batch(ids, segments, is_token), TARGETS)
    stream = RandomStream(seed, Purpose.MASK, 5)
    objective: Any = fine_tuning  # it has the functions that are used, for batches with labels
    rows: Any = batch
    return VariantProblem(
        config, objective, model, specs, parameters.vector, rows, stream, SHIFTS[form]
    )
