"""The kinds of task by name, and what each is for: a file in ``tasks`` and a line here.

``--help`` shows this table, so it loads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

KINDS: Mapping[str, str] = {
    "classification": "a label for a text or a pair: sentiment, topic, intent, inference",
    "regression": "a number for a text or a pair: similarity",
    "tagging": "a tag for each word: entities, part of speech, slots, semantic roles",
    "span-extraction": "the answer to a question, a part of its text: SQuAD",
    "multiple-choice": "one of several choices",
}
GLUE: Mapping[str, str] = {  # the kind of each task of the benchmark
    **dict.fromkeys(
        ("cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "wnli"), "classification"
    ),
    "stsb": "regression",
}
