"""F1 of spans against seqeval, whose reading of tags without a given scheme is conlleval's."""

from __future__ import annotations

import numpy as np
import pytest

from electra_ref.training.finetuning.formats.schemes import spans_of
from electra_ref.training.finetuning.scores.entity_f1 import count_spans, span_scores

pytestmark = pytest.mark.oracle
LETTERS = {"iob1": "BI", "iob2": "BI", "iobes": "BIES"}


@pytest.mark.parametrize("scheme", LETTERS)
@pytest.mark.parametrize("seed", range(5))
def test_random_tags_score_as_in_seqeval(scheme: str, seed: int) -> None:
    """Also tags that no scheme would write. Half of the predictions are copied."""
    seqeval = pytest.importorskip("seqeval.metrics", reason="seqeval is not installed")
    random = np.random.default_rng(seed)
    tags = ["O", "O", *(f"{letter}-{kind}" for letter in LETTERS[scheme] for kind in "XYZ")]
    there = [list(map(str, random.choice(tags, 12))) for _ in range(60)]
    found = [
        [own if random.random() < 0.8 else str(random.choice(tags)) for own in sentence]
        for sentence in there
    ]
    scores = span_scores(
        count_spans(
            ([(s.type, s[:2]) for s in spans_of(a)], [(s.type, s[:2]) for s in spans_of(b)])
            for a, b in zip(there, found, strict=True)
        )
    )
    report = seqeval.classification_report(there, found, output_dict=True, zero_division=0)
    for name, key in (("f1", "f1-score"), ("precision", "precision"), ("recall", "recall")):
        assert scores[name] == pytest.approx(report["micro avg"][key], rel=1e-12)
    for kind in "XYZ":
        assert scores[f"f1_{kind}"] == pytest.approx(report[kind]["f1-score"], rel=1e-12)
    assert 0.1 < scores["f1"] < 0.9
