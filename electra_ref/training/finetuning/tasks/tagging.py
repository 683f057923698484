"""A tag for each word: named entities, parts of speech, chunks, slots, semantic roles.

Tags that spell spans (``formats.schemes``) are read in any scheme, learned as IOBES, as in the
original, and written in the scheme that the settings name: that of the training data if they are
``settled``, otherwise iob2. The tag of a word is the most probable one, whatever its neighbours
have. The tags of a sentence are then read by the rule of ``formats.schemes``, by which all
sequences have spans, and written anew, so they are well formed.

Semantic roles have a sentence for each predicate, whose pieces have segment 1. A model that was
trained on such sentences alone wants a predicate in each sentence, as ``predicates`` tells. Where
nothing does, in models of older versions, the type V among its labels does: PropBank marks the
predicate by it.

Labels are those of the training data. A label that only other data have can never be predicted:
it counts as missed. Such words are counted, and more than ``unseen_share`` of them are an error,
since then the files probably do not fit.

Source: google-research/electra finetune/tagging. Differences: there, labels come from all files,
what does not fit into a row is cut off, and all tokens have segment 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from electra_ref.config.finetuning import (
    NARROW,
    FinetuningConfig,
    idle_dropout,
    misfits_of_token_head,
)
from electra_ref.config.model import EncoderConfig
from electra_ref.config.settings import setting, share
from electra_ref.errors import UserError
from electra_ref.model.heads.tagging import TagTargets
from electra_ref.model.labelled import Answers
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.finetuning.formats.schemes import (
    NONE,
    OUTSIDE,
    SCHEMES,
    detect,
    spans_of,
)
from electra_ref.training.finetuning.formats.sentences import UNTAGGED, Columns, Sentence
from electra_ref.training.finetuning.formats.tagged_files import FORMATS, read_sentences
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.plain import augmented, options
from electra_ref.training.finetuning.scores.entity_f1 import count_spans, span_scores
from electra_ref.training.finetuning.scores.role_f1 import PREDICATE, arguments_of
from electra_ref.training.finetuning.tag_labels import (
    AUTO,
    check_labels,
    check_scheme,
    find_labels,
    label_numbers,
    scheme_of,
    written_tags,
)
from electra_ref.training.finetuning.tag_results import conll_lines, json_object
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Answered, Feature, Labels, Output, Use
from electra_ref.training.finetuning.word_rows import word_rows

__all__ = [
    "OUTPUTS", "TABLE", "answers", "augmented", "features", "labels_of", "options", "outputs",
    "predict", "recipe", "records", "result", "scores", "settled", "targets",
]  # fmt: skip

YES, NO = "yes", "no"


@dataclasses.dataclass(frozen=True)
class TaggingConfig(FinetuningConfig):
    """A run that learns to tag words."""

    data_format: str = setting(
        AUTO, "format of the files; auto: by the ending of their names", choices=(AUTO, *FORMATS)
    )
    word_column: int = setting(
        1, "column of the words of conll, counted from 1, or from the end if negative"
    )
    tag_column: int = setting(-1, "column of the tags of conll, counted in the same way")
    word_key: str = setting("", "column, field or key of the words of tsv, conllu, jsonl")
    tag_key: str = setting("", "column, field or key of the tags of tsv, conllu, jsonl")
    tag_scheme: str = setting(
        AUTO,
        "how tags spell spans; none: they do not; auto: found out from the training data",
        choices=(AUTO, NONE, *SCHEMES),
    )
    predicates: str = setting(
        AUTO,
        "whether each sentence must have a predicate, whose semantic roles the tags are; auto: "
        "found out from the training data",
        choices=(AUTO, YES, NO),
    )
    unseen_share: float = share(
        0.1, "of the tagged words of a file, how many may have tags that were not trained on"
    )

    def _misfits(self) -> Iterator[str]:
        for name in ("word_column", "tag_column"):
            if getattr(self, name) == 0:
                yield f"{name} = 0: columns are counted from 1, or from the end by -1"
        yield from misfits_of_token_head(self)

    def idle(self, chosen: Collection[str]) -> Iterator[str]:
        yield from idle_dropout(self, chosen, with_dropout=("huggingface",))


TABLE = TaggingConfig


class Slots(NamedTuple):
    """The m words of a row that are learned and answered in it."""

    words: npt.NDArray[np.int64]  # (m)  their numbers in the sentence
    positions: npt.NDArray[np.int64]  # (m)  column of the first piece
    labels: npt.NDArray[np.int64]  # (m)  -1 where there is none


class Tagged(NamedTuple):
    """What a model says of the n words of a sentence."""

    labels: tuple[str, ...]  # (n)  the most probable one of each
    probabilities: tuple[float, ...]  # (n)  of these


def recipe(settings: Mapping[str, Any], model: EncoderConfig) -> Mapping[str, Any]:
    """Return the original's settings for chunks; there a row has 256 tokens and long ones end.

    Narrow models read the data more often. The slots of SNIPS, F1 with the preset laptop: 0.69
    after 3 epochs, 0.79 after 10.
    """
    del settings
    epochs = 10.0 if model.hidden_size < NARROW else 3.0
    return {"epochs": epochs, "batch_size": 32, "max_length": 128}


def records(
    file: InputFile, settings: TaggingConfig, use: Use, labels: Labels | None, tally: Tally
) -> Iterator[Sentence]:
    """Yield the sentences of ``file``; of semantic roles one for each predicate.

    Raises UserError for what a format cannot read, a file without sentences, tags of which only
    some are spans, too many unknown tags, and a sentence without predicate where one is needed.
    """
    tagged = use != "predict"
    columns = Columns(
        settings.word_column, settings.tag_column, settings.word_key, settings.tag_key
    )
    read: list[Sentence] = []
    for sentence in read_sentences(file, settings.data_format, columns, tagged=tagged, tally=tally):
        _check_predicate(sentence, settings, labels)
        if tagged and not sentence.words:
            tally.add("sentences without words, left out", sentence.place)
            continue
        if tagged:
            read.append(sentence)
        yield sentence
    if tagged and not read:
        raise UserError(f"{file.name} has no sentence to learn from")
    if tagged:
        check_scheme(read, settings.tag_scheme, tally)
    if tagged and labels is not None:
        scheme, allowed = settings.tag_scheme, settings.unseen_share
        check_labels(file.name, read, scheme, labels, allowed, tally)


def labels_of(records: Sequence[Sentence], settings: TaggingConfig) -> Labels:
    """Return the labels of the training data. Raises UserError if there are fewer than two."""
    scheme = settled(records, settings).tag_scheme
    return find_labels([record.tags or () for record in records], scheme)


def settled(records: Sequence[Sentence], settings: TaggingConfig) -> TaggingConfig:
    """Return ``settings`` with what the training data tell, so that it is kept.

    It is their scheme, and whether all sentences have a predicate.
    """
    scheme, predicates = settings.tag_scheme, settings.predicates
    if scheme == AUTO:
        scheme = detect([record.tags or () for record in records])
    if predicates == AUTO:
        predicates = YES if all(record.predicate is not None for record in records) else NO
    return dataclasses.replace(settings, tag_scheme=scheme, predicates=predicates)


def outputs(settings: TaggingConfig, labels: Labels) -> int:
    """Return how many labels there are."""
    del settings
    return len(labels)


def features(
    number: int,
    record: Sentence,
    tokenizer: WordPiece,
    settings: TaggingConfig,
    labels: Labels,
    tally: Tally,
) -> list[Feature]:
    """Return the rows of the sentence: one, or several windows."""
    tags = (UNTAGGED,) * len(record.words) if record.tags is None else record.tags
    known = np.array(label_numbers(tags, settings.tag_scheme, labels), np.int64)
    return [
        Feature(number, (row,), Slots(words, positions, known[words]))
        for row, words, positions in word_rows(record, tokenizer, settings.max_length, tally)
    ]


def targets(features: Sequence[Feature], length: int) -> TagTargets:
    """Return where the words of ``features`` stand, and their labels."""
    del length
    shape = len(features), _most_words(features)
    positions, labels = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    weights = np.zeros(shape, bool)
    for row, feature in enumerate(features):
        slots: Slots = feature.detail
        count = slots.words.size
        positions[row, :count] = slots.positions
        labels[row, :count] = np.maximum(slots.labels, 0)
        weights[row, :count] = slots.labels >= 0
    return TagTargets(positions, labels, weights)


def answers(answers: Answers, features: Sequence[Feature]) -> list[list[tuple[int, float]]]:
    """Return the most probable label of each word of ``features``, and its probability."""
    logits = np.asarray(answers, np.float64).reshape(len(features), _most_words(features), -1)
    found = []
    for row, feature in zip(logits, features, strict=True):
        own = row[: feature.detail.words.size]
        best = own.argmax(axis=-1)
        shifted = np.exp(own - own.max(axis=-1, keepdims=True))
        probabilities = 1.0 / shifted.sum(axis=-1)
        found.append(list(zip(best.tolist(), probabilities.tolist(), strict=True)))
    return found


def predict(
    record: Sentence,
    features: Sequence[Feature],
    answers: Sequence[list[tuple[int, float]]],
    settings: TaggingConfig,
    labels: Labels,
) -> Tagged:
    """Return the label of each word, from the window in which it has its place."""
    del settings
    found: dict[int, tuple[int, float]] = {}
    for feature, answer in zip(features, answers, strict=True):
        found.update(zip(feature.detail.words.tolist(), answer, strict=True))
    best = [found[word] for word in range(len(record.words))]
    return Tagged(tuple(labels[label] for label, _ in best), tuple(p for _, p in best))


def scores(
    answered: Sequence[Answered], settings: TaggingConfig, labels: Labels
) -> dict[str, float]:
    """Return F1, precision and recall of spans or of semantic roles, or the share of right tags."""
    if scheme_of(settings.tag_scheme, labels) == NONE:
        right = [
            tag == label
            for record, prediction in answered
            for tag, label in zip(record.tags, prediction.labels, strict=True)
            if tag != UNTAGGED
        ]
        return {"accuracy": sum(right) / max(len(right), 1)}
    return span_scores(
        count_spans(
            (
                _parts_of(record, record.tags),
                _parts_of(record, _where_tagged(record.tags, prediction.labels)),
            )
            for record, prediction in answered
        )
    )


def result(
    record: Sentence, prediction: Tagged, settings: TaggingConfig, labels: Labels
) -> dict[str, Any]:
    """Return the words with their tags, probabilities and places in the text, and the spans.

    The probability is that of the label before the tags of the sentence were made to fit.
    """
    tags = written_tags(prediction.labels, settings.tag_scheme, labels)
    has_spans = scheme_of(settings.tag_scheme, labels) != NONE
    spans = spans_of(prediction.labels) if has_spans else None
    return json_object(record, tags, prediction.probabilities, spans)


def in_columns(
    number: int, one: Answered, settings: TaggingConfig, labels: Labels
) -> Iterator[str]:
    """Return a sentence in columns, with a blank line after it."""
    del number
    tags = written_tags(one.prediction.labels, settings.tag_scheme, labels)
    return conll_lines(one.record, tags)


OUTPUTS: Mapping[str, Output] = {"conll": Output(in_columns)}


def wants_predicate(settings: TaggingConfig, labels: Labels) -> bool:
    """Return whether a model tells the roles of a predicate; ``labels`` are () before training."""
    if settings.predicates != AUTO:
        return settings.predicates == YES
    return any(label.endswith(f"-{PREDICATE}") for label in labels)


def _most_words(features: Sequence[Feature]) -> int:
    return int(max([1, *(feature.detail.words.size for feature in features)]))


def _where_tagged(tags: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Return ``labels``, OUTSIDE for words of which no tag is known: these are in no span."""
    pairs = zip(tags, labels, strict=True)
    return [OUTSIDE if tag == UNTAGGED else label for tag, label in pairs]


def _parts_of(record: Sentence, tags: Sequence[str]) -> list[tuple[str, Any]]:
    """Return what is scored: the spans, or the arguments of a predicate."""
    spans = spans_of(tags)
    if record.predicate is not None:
        return list(arguments_of(spans))
    return [(span.type, (span.start, span.end)) for span in spans]


def _check_predicate(sentence: Sentence, settings: TaggingConfig, labels: Labels | None) -> None:
    if not sentence.words or sentence.predicate is not None:
        return
    if wants_predicate(settings, labels or ()):
        raise UserError(
            f"{sentence.place}: the model tags the roles of a predicate, and this sentence has "
            'none: name it as {"words": [...], "predicate": 2}, or use the format props'
        )
