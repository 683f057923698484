"""What is written of a tagged sentence: an object of JSON, or lines of columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from electra_ref.training.finetuning.formats.schemes import Span
from electra_ref.training.finetuning.formats.sentences import Sentence
from electra_ref.training.finetuning.scores.role_f1 import PREDICATE


def json_object(
    sentence: Sentence,
    tags: Sequence[str],
    probabilities: Sequence[float],
    spans: Sequence[Span] | None,
) -> dict[str, Any]:
    """Return the words of ``sentence`` with what is said of them; ``spans`` if there can be some.

    Offsets are [start, end) in characters of ``text``.
    """
    found: dict[str, Any] = {} if sentence.id is None else {"id": sentence.id}
    found |= {"text": sentence.text, "words": sentence.words}
    if sentence.predicate is not None:
        found["predicate"] = sentence.predicate
    found |= {
        "tags": tags,
        "probabilities": [round(p, 4) for p in probabilities],
        "offsets": sentence.offsets,
    }
    if spans is not None:
        found["spans"] = [_placed(sentence, span) for span in spans]
    return found


def conll_lines(sentence: Sentence, tags: Sequence[str]) -> Iterator[str]:
    """Yield a word and its tag a line, then a blank line.

    Semantic roles have a column between them: V at the predicate, else a hyphen. A space within a
    word becomes an underscore.
    """
    for number, (word, tag) in enumerate(zip(sentence.words, tags, strict=True)):
        columns = ["_".join(word.split()) or "_", tag]
        if sentence.predicate is not None:
            columns.insert(1, PREDICATE if number == sentence.predicate else "-")
        yield " ".join(columns)
    yield ""


def _placed(sentence: Sentence, span: Span) -> dict[str, Any]:
    start, end = sentence.offsets[span.start][0], sentence.offsets[span.end - 1][1]
    words, offset = [span.start, span.end], [start, end]
    return {"type": span.type, "words": words, "offset": offset, "text": sentence.text[start:end]}
