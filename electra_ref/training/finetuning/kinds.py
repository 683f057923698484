"""The kinds of task by name, and what each is for: a file in ``tasks`` and a line here.

``--help`` shows these tables, so they load nothing.
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
_TEXT_FILES = (
    "max_length", "file_format", "text_column", "text_pair_column", "label_column", "quoting",
    "glue",
)  # fmt: skip
# The settings that prediction reads and a trained model leaves open. The label's column is there
# so that it is not taken for a text.
SETTABLE: Mapping[str, tuple[str, ...]] = {
    "classification": _TEXT_FILES,
    "regression": (*_TEXT_FILES, "lowest_score", "highest_score"),
    "tagging": ("max_length", "data_format", "word_column", "word_key", "tag_scheme"),
    "span-extraction": (
        "max_length", "doc_stride", "max_query_length", "n_best", "max_answer_length", "beam_size",
        "no_answer", "null_threshold",
    ),
    "multiple-choice": ("max_length", "quoting"),
}  # fmt: skip
GLUE: Mapping[str, str] = {  # the kind of each task of the benchmark
    **dict.fromkeys(
        ("cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "wnli"), "classification"
    ),
    "stsb": "regression",
}
