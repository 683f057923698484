"""The task that tags words: its records, labels, targets, predictions, scores and results."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from electra_ref.config.model import EncoderConfig
from electra_ref.errors import UserError
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.finetuning.formats.sentences import Sentence, sentence_of
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Answered, Feature, Labels, Use
from electra_ref.training.finetuning.tasks import tagging
from electra_ref.training.finetuning.tasks.tagging import Tagged, TaggingConfig
from tests.finetuning_files import written
from tests.tagged_text import file_of

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "d", "e"]
TOKENIZER = WordPiece(VOCABULARY)
IOB1 = "a I-X\nd I-X\ne B-X\n\na O\nd I-Y\n"
PROPS = "1 a X do do.01 (V*)\n2 d X - - (A*\n3 e X - - *)\n"
ENTITY_LABELS = (
    "B-X", "B-Y", "E-X", "E-Y", "I-X", "I-Y", "O", "S-X", "S-Y",
)  # fmt: skip


def records(
    text: str,
    use: Use = "train",
    labels: Labels | None = None,
    name: str = "f.conll",
    tally: Tally | None = None,
    **settings: Any,
) -> list[Sentence]:
    tally = Tally() if tally is None else tally
    return list(tagging.records(file_of(text, name), TaggingConfig(**settings), use, labels, tally))


def trained(text: str, name: str = "f.conll") -> tuple[list[Sentence], TaggingConfig, Labels]:
    """Return the records of training data, the settings that follow from them, and the labels."""
    read = records(text, name=name)
    settings = tagging.settled(read, TaggingConfig())
    return read, settings, tagging.labels_of(read, settings)


def features_of(
    sentences: list[Sentence], settings: TaggingConfig, labels: Labels
) -> list[Feature]:
    return [
        feature
        for number, one in enumerate(sentences)
        for feature in tagging.features(number, one, TOKENIZER, settings, labels, Tally())
    ]


def answer(sentence: Sentence, *labels: str) -> Answered:
    return Answered(sentence, Tagged(labels, (0.5,) * len(labels)))


def test_labels_of_spans_are_those_of_iobes_and_the_scheme_is_kept() -> None:
    _, settings, labels = trained(IOB1)
    assert settings.tag_scheme == "iob1"
    assert labels == ENTITY_LABELS
    assert tagging.labels_of(records(IOB1), TaggingConfig()) == labels
    assert tagging.outputs(settings, labels) == 9


def test_labels_that_are_no_spans_are_the_tags() -> None:
    _, settings, labels = trained("a X\nd Y\ne O\n")
    assert (settings.tag_scheme, labels) == ("none", ("O", "X", "Y"))


def test_spans_are_tags_by_themselves_on_demand() -> None:
    read = records(IOB1, tag_scheme="none")
    labels = tagging.labels_of(read, TaggingConfig(tag_scheme="none"))
    assert labels == ("B-X", "I-X", "I-Y", "O")


@pytest.mark.parametrize("text", ["a O\nd O\n", "a X\n\nd X\n"])
def test_one_label_is_nothing_to_learn(text: str) -> None:
    with pytest.raises(UserError, match=r"all words of the training data have the tag '[OX]': "):
        trained(text)


@pytest.mark.parametrize("use", ["train", "dev"])
@pytest.mark.parametrize(("name", "text"), [("f.conll", "\n\n"), ("f.jsonl", ""), ("f.props", "")])
def test_a_file_without_sentences_is_refused(name: str, text: str, use: Use) -> None:
    with pytest.raises(UserError, match=f"{name} has no sentence to learn from"):
        records(text, use, ENTITY_LABELS, name)
    assert records(text, "predict", ENTITY_LABELS, name) == []


def test_sentences_without_words_are_left_out_where_there_are_tags() -> None:
    tally = Tally()
    text = '{"tokens": [], "tags": []}\n{"tokens": ["a"], "tags": ["O"]}'
    assert len(records(text, name="f.jsonl", tally=tally)) == 1
    assert tally.counts() == {"sentences without words, left out": 1}


def test_tags_that_are_mixed_up_are_refused_with_their_place() -> None:
    with pytest.raises(UserError, match=r"f\.conll, line 3: the tag 'X' has no letter and type"):
        records("a B-X\n\nd O\ne X\n")
    assert len(records("a B-X\n\nd O\ne X\n", tag_scheme="none")) == 2


def test_tags_that_the_scheme_spells_otherwise_are_read_and_counted() -> None:
    tally = Tally()
    records("a B-X\nd I-X\ne B-Y\n\na B-Y\nd O\n\nd I-X\n", tally=tally)
    assert list(tally.lines()) == [
        "1 sentence with tags that iob2 spells otherwise (the first: f.conll, line 8)"
    ]
    chosen = Tally()
    records("a B-X\nd I-X\n", tally=chosen, tag_scheme="iobes")
    assert list(chosen.counts()) == ["sentences with tags that iobes spells otherwise"]


def test_a_label_of_dev_alone_is_counted_and_scored_as_missed() -> None:
    _, settings, labels = trained(IOB1)
    tally = Tally()
    text = "a I-Z\nd O\n" + "\na I-X\n" * 9
    read = records(text, "dev", labels, tally=tally)
    assert list(tally.lines()) == [
        "1 word with a tag that the training data do not have, missed (the first: 'I-Z' in the "
        "sentence of f.conll, line 1)"
    ]
    targets = tagging.targets(features_of(read, settings, labels), 8)
    assert targets.weights[0].tolist() == [False, True]
    right = [answer(read[0], "O", "O"), *(answer(one, "S-X") for one in read[1:])]
    assert tagging.scores(right, settings, labels)["recall"] == 0.9


def test_too_many_unknown_labels_are_an_error() -> None:
    text = "a I-Z\nd O\n" + "\na I-X\n" * 8
    message = (
        r"f\.conll: 1 of 9 tagged words have tags that the training data do not have, the first "
        r"'I-Z' in the sentence of f\.conll, line 1: correct the file"
    )
    with pytest.raises(UserError, match=message):
        records(text, "dev", ENTITY_LABELS)
    assert len(records(text, "dev", ENTITY_LABELS, unseen_share=0.12)) == 9


def test_unknown_labels_are_never_more_than_the_words_they_are_counted_among() -> None:
    message = r"f\.conll: 3 of 4 tagged words have tags that the training data do not have"
    with pytest.raises(UserError, match=message):  # of parts of speech O is a tag as any other
        records("a O\nd O\na NOUN\nd ADJ\n", "dev", ("NOUN", "VERB"))


def test_a_word_without_a_tag_is_no_unknown_label() -> None:
    tally = Tally()
    text = '{"tokens": ["a", "d"], "tags": ["", "B-X"]}'
    read = records(text, "dev", ENTITY_LABELS, "f.jsonl", tally)
    assert tally.counts() == {"words without a tag, not learned": 1}
    (feature,) = features_of(read, TaggingConfig(), ENTITY_LABELS)
    assert feature.detail.labels.tolist() == [-1, ENTITY_LABELS.index("S-X")]


def test_dev_may_spell_spans_in_another_scheme() -> None:
    _, settings, labels = trained(IOB1)
    (one,) = records("a B-X\nd I-X\ne I-X\n", "dev", labels)
    (feature,) = features_of([one], settings, labels)
    assert [labels[i] for i in feature.detail.labels] == ["B-X", "I-X", "E-X"]


def test_targets_have_a_slot_for_each_word() -> None:
    """Words without a label have no weight; neither have slots without a word."""
    labels = ("O", "X")
    settings = TaggingConfig(tag_scheme="none")
    sentences = [
        sentence_of("one", ["ab", "d", "e"], ["X", "", "O"]),
        sentence_of("two", ["e"], None),
    ]
    targets = tagging.targets(features_of(sentences, settings, labels), 8)
    assert targets.positions.tolist() == [[1, 3, 4], [1, 0, 0]]
    assert targets.labels.tolist() == [[1, 0, 0], [0, 0, 0]]
    assert targets.weights.tolist() == [[True, False, True], [False] * 3]
    assert [array.dtype for array in targets] == [np.int32, np.int32, bool]


def test_answers_are_the_most_probable_labels() -> None:
    settings = TaggingConfig(tag_scheme="none")
    sentences = [sentence_of("1", ["a", "d"], None), sentence_of("2", ["e"], None)]
    labels = ("O", "X", "Y")
    features = features_of(sentences, settings, labels)
    logits = np.log([[0.2, 0.5, 0.3], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [1.0, 1.0, 1.0]])
    found = tagging.answers((logits + 1000.0).astype(np.float64), features)
    assert [[label for label, _ in row] for row in found] == [[1, 0], [2]]
    np.testing.assert_allclose([p for row in found for _, p in row], [0.5, 0.8, 0.8], rtol=1e-12)
    prediction = tagging.predict(sentences[0], features[:1], found[:1], settings, labels)
    assert prediction.labels == ("X", "O")


def test_windows_are_put_together_in_the_order_of_words() -> None:
    settings = TaggingConfig(tag_scheme="none", max_length=8)
    sentence = sentence_of("here", ["a", "ab", "d", "e"] * 5, None)
    labels = tuple(f"T{number:02}" for number in range(20))
    features = features_of([sentence], settings, labels)
    assert len(features) > 2
    most = max(feature.detail.words.size for feature in features)
    logits = np.zeros((len(features), most, 20))
    for row, feature in enumerate(features):
        for slot, word in enumerate(feature.detail.words):
            logits[row, slot, word] = 5.0
    found = tagging.answers(logits.reshape(-1, 20), features)
    order = [2, 0, 1, *range(3, len(features))]  # the rest of the program may sort them
    prediction = tagging.predict(
        sentence, [features[i] for i in order], [found[i] for i in order], settings, labels
    )
    assert prediction.labels == labels


def test_accuracy_leaves_out_words_without_a_tag() -> None:
    settings = TaggingConfig(tag_scheme="none")
    sentence = sentence_of("1", ["a", "b", "c", "d"], ["X", "", "Y", "X"])
    answered = [answer(sentence, "X", "X", "Y", "Y")]
    assert tagging.scores(answered, settings, ("X", "Y")) == {"accuracy": 2 / 3}
    assert tagging.scores([], settings, ("X", "Y")) == {"accuracy": 0.0}


def test_entities_are_scored_by_their_spans_whatever_the_scheme() -> None:
    _, settings, labels = trained(IOB1)
    one, two = records(IOB1, "dev", labels)
    answered = [answer(one, "B-X", "E-X", "S-X"), answer(two, "S-Y", "S-Y")]
    scores = tagging.scores(answered, settings, labels)
    assert next(iter(scores)) == "f1"
    assert scores["precision"] == 0.75
    assert scores["recall"] == 1.0
    assert scores["f1_X"] == 1.0


def test_words_without_a_tag_are_in_no_span_that_is_scored() -> None:
    _, settings, labels = trained(IOB1)
    sentence = sentence_of("1", ["a", "b", "c"], ["S-X", "", "O"])
    scores = tagging.scores([answer(sentence, "S-X", "S-X", "O")], settings, labels)
    assert (scores["precision"], scores["recall"]) == (1.0, 1.0)
    scores = tagging.scores([answer(sentence, "S-X", "S-X", "S-X")], settings, labels)
    assert (scores["precision"], scores["recall"]) == (0.5, 1.0)


def test_results_have_the_scheme_of_the_training_data_and_places_in_the_text() -> None:
    _, settings, labels = trained(IOB1)
    (one,) = records('{"text": "A  d, e", "id": 3}', "predict", labels, "f.jsonl")
    prediction = Tagged(("I-X", "E-X", "O", "B-X"), (0.25, 1.0, 0.123456, 0.5))
    assert tagging.result(one, prediction, settings, labels) == {
        "id": 3,
        "text": "A  d, e",
        "words": ("A", "d", ",", "e"),
        "tags": ["I-X", "I-X", "O", "I-X"],
        "probabilities": [0.25, 1.0, 0.1235, 0.5],
        "offsets": ((0, 1), (3, 4), (4, 5), (6, 7)),
        "spans": [
            {"type": "X", "words": [0, 2], "offset": [0, 4], "text": "A  d"},
            {"type": "X", "words": [3, 4], "offset": [6, 7], "text": "e"},
        ],
    }
    written = [
        tagging.result(one, prediction, dataclasses.replace(settings, tag_scheme=scheme), labels)
        for scheme in ("auto", "iobes")
    ]
    assert [found["tags"] for found in written] == [
        ["B-X", "I-X", "O", "B-X"], ["B-X", "E-X", "O", "S-X"],
    ]  # fmt: skip


def test_results_of_tags_that_are_no_spans() -> None:
    settings = TaggingConfig(tag_scheme="none")
    one = sentence_of("here", ["a"], None)
    found = tagging.result(one, Tagged(("X",), (1.0,)), settings, ("O", "X"))
    assert (found["tags"], "spans" in found, "id" in found) == (("X",), False, False)


def test_a_sentence_without_words_has_a_result() -> None:
    (one,) = records("\n", "predict", ENTITY_LABELS, "standard input")
    prediction = tagging.predict(one, [], [], TaggingConfig(), ENTITY_LABELS)
    found = tagging.result(one, prediction, TaggingConfig(), ENTITY_LABELS)
    assert (found["words"], found["tags"], found["spans"]) == ((), [], [])


def test_semantic_roles_from_end_to_end() -> None:
    read, settings, labels = trained(PROPS, "f.props")
    assert settings.tag_scheme == "iob2"
    assert settings.predicates == "yes"
    (feature,) = features_of(read, settings, labels)
    assert feature.rows[0].segments.tolist() == [0, 1, 0, 0, 0]
    assert [labels[i] for i in feature.detail.labels] == ["S-V", "B-A", "E-A"]
    answered = [answer(read[0], "S-V", "B-A", "E-A")]
    assert tagging.scores(answered, settings, labels) == {
        "f1": 1.0, "precision": 1.0, "recall": 1.0, "f1_A": 1.0,
    }  # fmt: skip
    missed = [answer(read[0], "S-V", "S-A", "S-C-A")]  # two parts are no one part
    assert tagging.scores(missed, settings, labels)["f1"] == 0.0
    assert tagging.result(read[0], answered[0].prediction, settings, labels)["predicate"] == 0
    assert written(tagging.OUTPUTS["conll"], answered, settings, labels) == [
        "a V B-V", "d - B-A", "e - I-A", "",
    ]  # fmt: skip


@pytest.mark.parametrize("kept", [{"predicates": "yes"}, {}])  # models of older versions: by V
def test_roles_want_a_predicate(kept: dict[str, Any]) -> None:
    labels = ("B-V", "O", "S-A")
    with pytest.raises(UserError, match="standard input, line 2: the model tags the roles of a "):
        records("\na d\n", "predict", labels, "standard input", **kept)
    for use in ("train", "dev"):
        with pytest.raises(UserError, match=r"f\.txt, line 1: the model tags the roles of a "):
            records("a O\nd O\n", use, None, "f.txt", predicates="yes")
    assert len(records("a O\nd O\n", "train", None, "f.txt")) == 1
    text = '{"words": ["a", "d"], "predicate": 1}'
    assert records(text, "predict", labels, "f.jsonl", **kept)[0].predicate == 1


@pytest.mark.parametrize("text", ["a B-V\nd O\n\nd B-N\n", "a AUX-V\nd N\n\nd N\n"])
def test_tags_that_look_like_those_of_predicates_are_learned_and_asked_about(text: str) -> None:
    """Chunks and parts of speech may have a V, too."""
    _, settings, labels = trained(text)
    assert any(label.endswith("-V") for label in labels)
    assert settings.predicates == "no"
    kept: dict[str, Any] = {"predicates": settings.predicates, "tag_scheme": settings.tag_scheme}
    assert len(records(text, "dev", labels, **kept)) == 2
    assert len(records("a d\n", "predict", labels, "standard input", **kept)) == 1


def test_what_sentences_with_and_without_predicates_teach_needs_none() -> None:
    with_one = '{"words": ["a"], "tags": ["B-V"], "predicate": 0}\n'
    _, settings, _ = trained(with_one + '{"words": ["a"], "tags": ["O"]}\n', "f.jsonl")
    assert settings.predicates == "no"
    assert trained(with_one * 2 + with_one.replace("V", "A"), "f.jsonl")[1].predicates == "yes"


def test_lines_of_conll_can_be_read_again() -> None:
    """A space within a word would be another column."""
    _, settings, labels = trained(IOB1)
    one = sentence_of("here", ["New York", "\u00a0", "d"], None)
    answered = [answer(one, "S-X", "O", "S-X"), answer(one, "O", "O", "O")]
    lines = written(tagging.OUTPUTS["conll"], answered, settings, labels)
    assert lines == ["New_York I-X", "_ O", "d I-X", "", "New_York O", "_ O", "d O", ""]
    assert len(records("\n".join(lines))) == 2
    assert list(tagging.OUTPUTS) == ["conll"]


def test_columns_are_counted_from_one() -> None:
    with pytest.raises(UserError, match="word_column = 0: columns are counted from 1"):
        TaggingConfig(word_column=0)
    with pytest.raises(UserError, match="tag_column = 0: columns are counted from 1"):
        TaggingConfig(tag_column=0)


def test_the_recipe_is_the_original_one_of_chunks() -> None:
    settings = TaggingConfig(**tagging.recipe({}, EncoderConfig()))
    assert (settings.epochs, settings.batch_size, settings.max_length) == (3.0, 32, 128)
    assert tagging.TABLE is TaggingConfig
    assert len(tagging.augmented(records(IOB1), settings)) == 2
