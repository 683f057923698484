"""Classification, regression and multiple choice: from records to targets, scores and results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref.config.model import EncoderConfig
from electra_ref.config.settings import resolve
from electra_ref.errors import UserError
from electra_ref.model.heads.choice import ChoiceTargets
from electra_ref.model.heads.classification import LabelSetTargets, LabelTargets
from electra_ref.model.heads.regression import ScoreTargets
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.finetuning.formats.choice_record import ChoiceRecord
from electra_ref.training.finetuning.formats.text_record import TextRecord
from electra_ref.training.finetuning.scores.labels import label_set_scores
from electra_ref.training.finetuning.scores.numbers import number_scores
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Answered, Feature, Labels, Task, Use
from electra_ref.training.finetuning.tasks import classification, multiple_choice, regression
from tests.finetuning_files import read, write, written

VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh")
TOKENIZER = WordPiece(VOCABULARY)
TASKS: dict[str, Task] = {
    "classification": classification,
    "regression": regression,
    "multiple-choice": multiple_choice,
}
PLACE = "f.tsv, line 2"


def settings_of(task: str, **settings: Any) -> Any:
    module = TASKS[task]
    return module.TABLE(
        **{"max_length": 16, **module.recipe(settings, EncoderConfig()), **settings}
    )


def records(
    folder: Path,
    task: str,
    name: str,
    text: str,
    use: Use = "train",
    labels: Labels | None = None,
    **settings: Any,
) -> list[Any]:
    def read_records(file: Any, tally: Tally) -> Any:
        return TASKS[task].records(file, settings_of(task, **settings), use, labels, tally)

    return read(write(folder, name, text), read_records)[0]


def error(folder: Path, *arguments: Any, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        records(folder, *arguments, **settings)
    return str(caught.value).removeprefix(str(folder))


def text_record(label: Any, text: str = "a", **values: Any) -> TextRecord:
    return TextRecord(text, values.get("pair"), label, values.get("id"), PLACE)


def features_of(task: str, found: Sequence[Any], labels: Labels, **settings: Any) -> list[Feature]:
    table = settings_of(task, **settings)
    tally = Tally()
    return [
        feature
        for number, record in enumerate(found)
        for feature in TASKS[task].features(number, record, TOKENIZER, table, labels, tally)
    ]


def words(feature: Feature, row: int = 0) -> str:
    return " ".join(VOCABULARY[i] for i in feature.rows[row].ids)


def answered(
    task: str, found: Sequence[Any], logits: Any, labels: Labels, **settings: Any
) -> list[Answered]:
    """Return what the task says where the head gave ``logits``, a number or K numbers a row."""
    module, table = TASKS[task], settings_of(task, **settings)
    features = features_of(task, found, labels, **settings)
    heads = module.answers(np.array(logits, np.float32), features)
    return [
        Answered(record, module.predict(record, [feature], [head], table, labels))
        for record, feature, head in zip(found, features, heads, strict=True)
    ]


@pytest.mark.parametrize("task", TASKS)
def test_settings_are_those_of_the_published_recipe(task: str) -> None:
    table = settings_of(task)
    usual = (3.0, 16 if task == "multiple-choice" else 32)
    assert (table.epochs, table.batch_size) == usual
    if task != "multiple-choice":
        assert table.swap_pairs is False
    chosen: Any = resolve(TASKS[task].TABLE, {}, settings=["quoting=none"])
    assert chosen.quoting == "none"


def test_recipes_of_glue() -> None:
    assert settings_of("classification", glue="rte").epochs == 10.0
    assert settings_of("classification", glue="mrpc").swap_pairs is True
    assert settings_of("classification", glue="mrpc", swap_pairs=False).swap_pairs is False
    similarity = settings_of("regression", glue="stsb")
    assert (similarity.epochs, similarity.swap_pairs) == (10.0, True)
    assert (similarity.lowest_score, similarity.highest_score) == (0.0, 5.0)


@pytest.mark.parametrize(("task", "glue"), [("classification", "stsb"), ("regression", "cola")])
def test_a_task_of_glue_of_another_kind(task: str, glue: str) -> None:
    with pytest.raises(UserError, match=f"glue = '{glue}' is none of"):
        settings_of(task, glue=glue)


def test_labels_of_classification(tmp_path: Path) -> None:
    found = records(tmp_path, "classification", "a.tsv", "text\tlabel\na\t yes\nb\tno\n")
    assert [record.label for record in found] == ["yes", "no"]
    assert classification.labels_of(found, settings_of("classification")) == ("no", "yes")


def test_labels_that_are_numbers_are_in_their_order() -> None:
    found = [text_record(label) for label in ("10", "9", "1", "9")]
    assert classification.labels_of(found, settings_of("classification")) == ("1", "9", "10")
    found.append(text_record("x"))
    assert classification.labels_of(found, settings_of("classification")) == ("1", "10", "9", "x")


def test_labels_of_very_many_digits_are_names() -> None:
    found = [text_record(label) for label in ("9" * 5000, "10", "2")]
    labels = classification.labels_of(found, settings_of("classification"))
    assert labels == ("10", "2", "9" * 5000)


def test_labels_of_glue_are_its_own() -> None:
    found = [text_record("neutral")]
    order = ("contradiction", "entailment", "neutral")
    assert classification.labels_of(found, settings_of("classification", glue="mnli")) == order


def test_one_label_teaches_nothing() -> None:
    with pytest.raises(UserError, match="the training data have only the label 'x'"):
        classification.labels_of([text_record("x")] * 2, settings_of("classification"))
    with pytest.raises(UserError, match="the training data have no label"):
        classification.labels_of([text_record(())], settings_of("classification", multi_label=True))


def test_an_unknown_label(tmp_path: Path) -> None:
    text = "text\tlabel\na\tyes\nb\tmaybe\n"
    arguments = ("classification", "a.tsv", text, "dev", ("no", "yes"))
    assert error(tmp_path, *arguments) == (
        "/a.tsv, line 3: the label 'maybe' does not occur in the training data, which has 'no', "
        "'yes'"
    )
    many = tuple(map(str, range(25)))
    assert error(tmp_path, "classification", "a.tsv", text, "dev", many).endswith(
        "'18', '19' and 5 more"
    )


def test_an_unknown_label_of_glue_in_json(tmp_path: Path) -> None:
    text = '{"sentence1": "a", "sentence2": "b", "label": "maybe"}\n'
    message = error(tmp_path, "classification", "a.jsonl", text, glue="rte")
    assert message == (
        "/a.jsonl, line 1: the label 'maybe' does not occur in RTE, which has 'entailment', "
        "'not_entailment'"
    )


@pytest.mark.parametrize("label", ["", " ", "null"])
def test_a_missing_label(tmp_path: Path, label: str) -> None:
    if label == "null":
        text = '{"text": "a", "label": null}\n'
        assert error(tmp_path, "classification", "a.jsonl", text).endswith("line 1: no label")
    else:
        text = f"text\tlabel\na\t{label}\n"
        assert error(tmp_path, "classification", "a.tsv", text).endswith("line 2: no label")


def test_sets_of_labels(tmp_path: Path) -> None:
    table = "text\tlabels\na\tx, y\nb\t\nc\ty,y\n"
    found = records(tmp_path, "classification", "a.tsv", table, multi_label=True)
    assert [record.label for record in found] == [("x", "y"), (), ("y",)]
    settings = settings_of("classification", multi_label=True)
    assert classification.labels_of(found, settings) == ("x", "y")
    objects = '{"text": "a", "labels": ["x y", "z"]}\n{"text": "b", "labels": "x y"}\n'
    found = records(tmp_path, "classification", "a.jsonl", objects, multi_label=True)
    assert [record.label for record in found] == [("x y", "z"), ("x y",)]
    found = records(
        tmp_path, "classification", "a.jsonl", objects, multi_label=True, label_separator=" "
    )
    assert found[1].label == ("x", "y")
    message = error(tmp_path, "classification", "a.jsonl", objects)
    assert message.endswith("line 1: an array of labels; --set multi_label=true reads these")
    objects = '{"text": "a", "labels": ["x"]}\n{"text": "b", "lables": ["x"]}\n'
    message = error(tmp_path, "classification", "a.jsonl", objects, multi_label=True)
    assert message.endswith("a.jsonl, line 2: no 'labels'; its keys are 'text', 'lables'")
    objects = '{"text": "a", "labels": ["x"]}\n{"text": "b", "labels": null}\n'
    found = records(tmp_path, "classification", "a.jsonl", objects, multi_label=True)
    assert found[1].label == ()
    arguments = ("classification", "a.tsv", table, "dev", ("x",))
    assert "the label 'y' does not occur" in error(tmp_path, *arguments, multi_label=True)


def test_rows_and_targets_of_classification() -> None:
    labels = ("no", "yes")
    found = [text_record("yes", "a b"), text_record(None, "a", pair="c"), text_record("no", " \t")]
    features = features_of("classification", found, labels)
    assert [feature.record for feature in features] == [0, 1, 2]
    assert [words(feature) for feature in features] == [
        "[CLS] a b [SEP]", "[CLS] a [SEP] c [SEP]", "[CLS] [SEP]",
    ]  # fmt: skip
    targets = classification.targets(features, 6)
    assert isinstance(targets, LabelTargets)
    assert targets.labels.tolist() == [1, 0, 0]
    assert targets.weights.tolist() == [True, False, True]
    assert targets.labels.dtype == np.int32
    assert classification.outputs(settings_of("classification"), labels) == 2


def test_targets_of_sets() -> None:
    found = [text_record(("z", "x")), text_record(None), text_record(())]
    features = features_of("classification", found, ("x", "y", "z"), multi_label=True)
    targets = classification.targets(features, 3)
    assert isinstance(targets, LabelSetTargets)
    assert targets.has_label.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert targets.weights.tolist() == [True, False, True]


def test_long_texts_are_cut_and_counted() -> None:
    tally = Tally()
    record = text_record("no", "a " * 20, pair="b " * 20)
    settings = settings_of("classification")
    (feature,) = classification.features(0, record, TOKENIZER, settings, ("no", "x"), tally)
    assert words(feature) == "[CLS] a a a a a a a [SEP] b b b b b b [SEP]"
    assert list(tally.lines()) == [f"1 row cut to 16 tokens (the first: {PLACE})"]


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_training_data_tell_how_many_texts_an_example_has(task: str) -> None:
    settings = TASKS[task].settled([text_record("1")], settings_of(task))
    assert settings.texts_per_example == "one"


def test_pairs_are_swapped_where_that_is_asked_for() -> None:
    record = text_record("1", "a", pair="b")
    for task in ("classification", "regression"):
        assert TASKS[task].augmented([record], settings_of(task)) == [record]
        both = TASKS[task].augmented([record], settings_of(task, swap_pairs=True))
        assert [(one.text, one.pair) for one in both] == [("a", "b"), ("b", "a")]


def test_predictions_and_scores_of_classification() -> None:
    labels = ("0", "1")
    found = [text_record(label, id=n) for n, label in enumerate("0111")]
    logits = [[0.0, np.log(3)], [0.0, 1.0], [2.0, 1.0], [-5.0, 5.0]]  # says 1, 1, 0, 1
    done = answered("classification", found, logits, labels)
    settings = settings_of("classification")
    assert classification.result(*done[0], settings, labels) == {
        "id": 0, "label": "1", "probabilities": {"0": 0.25, "1": 0.75},
    }  # fmt: skip
    (large,) = answered("classification", found[:1], [[1e4] * 3], ("0", "1", "2"))
    probabilities = classification.result(*large, settings, ("0", "1", "2"))["probabilities"]
    assert probabilities == dict.fromkeys("012", 0.333333)
    f1_of_1 = 2 * 2 / (2 * 2 + 1 + 1)
    scores = classification.scores(done, settings, labels)
    assert scores == {"accuracy": 0.5, "macro_f1": pytest.approx(f1_of_1 / 2, rel=1e-12)}
    glue = classification.scores(done, settings_of("classification", glue="mrpc"), labels)
    assert glue == {"accuracy": 0.5, "f1": pytest.approx(f1_of_1, rel=1e-12)}
    cola = classification.scores(done, settings_of("classification", glue="cola"), labels)
    assert list(cola) == ["matthews_correlation", "accuracy"]
    assert cola["matthews_correlation"] == pytest.approx((2 * 0 - 1 * 1) / 3, rel=1e-12)


@pytest.mark.parametrize("glue", ["", "cola", "qqp"])
def test_scores_that_are_not_defined_are_0(glue: str) -> None:
    done = answered("classification", [text_record("0")] * 2, [[1.0, 0.0]] * 2, ("0", "1"))
    scores = classification.scores(done, settings_of("classification", glue=glue), ("0", "1"))
    expected = {"": [1.0, 1.0], "cola": [0.0, 1.0], "qqp": [1.0, 0.0]}
    assert list(scores.values()) == expected[glue]


def test_predictions_and_scores_of_sets() -> None:
    labels = ("x", "y", "z")
    found = [text_record(("x", "z")), text_record(()), text_record(("y",))]
    logits = [[np.log(3), -np.log(3), 1e4], [-1.0, 0.0, -1e4], [1.0, 1.0, -1.0]]
    done = answered("classification", found, logits, labels, multi_label=True)
    settings = settings_of("classification", multi_label=True)
    assert [one.prediction.labels for one in done] == [(0, 2), (), (0, 1)]
    assert classification.result(*done[0], settings, labels) == {
        "labels": ["x", "z"], "probabilities": {"x": 0.75, "y": 0.25, "z": 1.0},
    }  # fmt: skip
    assert classification.scores(done, settings, labels) == {
        "micro_f1": pytest.approx(6 / 7, rel=1e-12),
        "macro_f1": pytest.approx((2 / 3 + 1 + 1) / 3, rel=1e-12),
        "exact_match": pytest.approx(2 / 3, rel=1e-12),
    }
    with pytest.raises(UserError, match="multi_label = true"):
        classification.glue_lines(0, done[0], settings, labels)


def test_scores_of_sets_without_labels_are_0() -> None:
    none = np.zeros((2, 3), bool)
    assert label_set_scores(none, none) == {"micro_f1": 0.0, "macro_f1": 0.0, "exact_match": 1.0}


def test_scores_of_sets_of_a_single_label_are_its_f1() -> None:
    right = np.array([[1], [0], [0], [0], [1]], bool)
    predicted = np.array([[1], [0], [0], [1], [0]], bool)
    assert label_set_scores(right, predicted) == {
        "micro_f1": 0.5, "macro_f1": 0.5, "exact_match": 0.6,
    }  # fmt: skip


def test_a_label_that_never_occurs_has_no_part_in_the_mean_of_f1() -> None:
    right = np.array([[1, 0, 0, 0], [1, 0, 1, 0]], bool)
    predicted = np.array([[1, 0, 0, 0], [1, 0, 0, 1]], bool)
    assert label_set_scores(right, predicted) == {
        "micro_f1": 4 / 6, "macro_f1": 1 / 3, "exact_match": 0.5,
    }  # fmt: skip


def test_submissions_to_glue() -> None:
    labels = ("entailment", "not_entailment")
    found = [text_record(None, id="7"), text_record(None, id="9")]
    done = answered("classification", found, [[1.0, 0.0], [0.0, 1.0]], labels)
    expected = ["index\tprediction", "7\tentailment", "9\tnot_entailment"]
    settings = settings_of("classification")
    assert written(classification.OUTPUTS["glue"], done, settings, labels) == expected
    settings = settings_of("regression", glue="stsb")
    done = answered("regression", [text_record(None)] * 3, [-0.1, 0.5123456, 1.2], (), glue="stsb")
    expected = ["index\tprediction", "0\t0.000", "1\t2.562", "2\t5.000"]
    assert written(regression.OUTPUTS["glue"], done, settings, ()) == expected


def test_records_of_regression(tmp_path: Path) -> None:
    table = "text\tlabel\tscore\na\tx\t-1\nb\ty\t2.5\n"
    found = records(tmp_path, "regression", "a.tsv", table, lowest_score=-1.0, highest_score=4.0)
    assert [record.label for record in found] == [-1.0, 2.5]
    objects = '{"text": "a", "score": 0.25}\n'
    (record,) = records(tmp_path, "regression", "a.jsonl", objects)
    assert record.label == 0.25
    (record,) = records(tmp_path, "regression", "a.jsonl", objects, "predict")
    assert record.label is None


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ("x", "the score 'x' is no number"),
        ("nan", "the score 'nan' is no number"),
        ("inf", "the score 'inf' is no number"),
        ("1_0", "the score '1_0' is no number"),
        ("", "the score '' is no number"),
        ("5.5", "the score 5.5 is not between 0 and 1; --set lowest_score=..."),
        ("-0.1", "the score -0.1 is not between 0 and 1; --set lowest_score=..."),
    ],
)
def test_wrong_scores(tmp_path: Path, score: str, message: str) -> None:
    table = f"text\tscore\na\t1\nb\t{score}\n"
    assert error(tmp_path, "regression", "a.tsv", table).startswith(f"/a.tsv, line 3: {message}")


def test_a_range_of_scores_is_not_empty() -> None:
    with pytest.raises(UserError, match="highest_score = 0 is not above lowest_score = 0"):
        settings_of("regression", highest_score=0.0)


def test_targets_predictions_and_scores_of_regression() -> None:
    settings: dict[str, Any] = {"lowest_score": 1.0, "highest_score": 5.0}
    found = [text_record(2.0), text_record(None), text_record(5.0, pair="b", id="q")]
    features = features_of("regression", found, (), **settings)
    targets = regression.targets(features, 3)
    assert isinstance(targets, ScoreTargets)
    assert targets.scores.tolist() == [0.25, 0.0, 1.0]
    assert targets.weights.tolist() == [True, False, True]
    assert words(features[2]) == "[CLS] a [SEP] b [SEP]"
    done = answered("regression", found, [0.5, 0.25, 1.5], (), **settings)
    assert [one.prediction for one in done] == [3.0, 2.0, 7.0]
    table = settings_of("regression", **settings)
    assert regression.result(*done[2], table, ()) == {"id": "q", "score": 7.0}
    assert regression.result(found[0], 1 / 3, table, ()) == {"score": 0.333333}
    scores = regression.scores([done[0], done[2]], table, ())
    assert list(scores) == ["pearson", "spearman", "mean_squared_error"]
    assert scores["mean_squared_error"] == pytest.approx((1 + 4) / 2, rel=1e-12)
    assert regression.outputs(table, ()) == 1
    assert regression.labels_of(found, table) == ()


def test_correlations() -> None:
    right, predicted = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 1.0, 3.0, 2.0])
    scores = number_scores(right, predicted)
    assert scores["pearson"] == pytest.approx(0.8, rel=1e-12)
    assert number_scores(right, right**3)["spearman"] == pytest.approx(1.0, rel=1e-12)
    assert number_scores(right, right**3)["pearson"] < 0.95
    for constant in ((right, np.ones(4)), (np.ones(4), right), (np.ones(1), np.zeros(1))):
        undefined = number_scores(*constant)
        assert (undefined["pearson"], undefined["spearman"]) == (0.0, 0.0)


def choice_record(
    context: str, question: str, choices: tuple[str, ...], label: int | None = 0
) -> ChoiceRecord:
    return ChoiceRecord(context, question, choices, label, None, PLACE)


@pytest.mark.parametrize(
    ("context", "question", "expected"),
    [
        ("a b", "c", ("a b", "c h")),
        ("a b", "", ("a b", "h")),
        (" ", "c", ("c", "h")),
        ("", "", ("h", None)),
        ("a", "b _ c", ("a", "b h c")),
        ("a", "b ___.", ("a", "b h.")),
        ("", "_ b", ("h b", None)),
        ("a", "my_name", ("a", "my_name h")),
        ("a", r"\1 _", ("a", r"\1 h")),
    ],
)
def test_texts_of_a_choice(context: str, question: str, expected: tuple[str, str]) -> None:
    record = choice_record(context, question, ("h", "g"))
    assert multiple_choice.texts_of_choice(record, "h") == expected


def test_a_choice_is_put_into_a_blank_as_it_is() -> None:
    record = choice_record("", r"a _", (r"\1", "g"))
    assert multiple_choice.texts_of_choice(record, r"\1") == (r"a \1", None)


def test_rows_and_targets_of_multiple_choice() -> None:
    found = [
        choice_record("a", "b", ("c", "d", "e"), 2),
        choice_record("a", "", ("f", "g"), None),
        choice_record("", "b", ("f", "g"), 1),
    ]
    features = features_of("multiple-choice", found, ())
    assert [words(features[0], row) for row in range(3)] == [
        f"[CLS] a [SEP] b {choice} [SEP]" for choice in "cde"
    ]
    assert words(features[2]) == "[CLS] b [SEP] f [SEP]"
    targets = multiple_choice.targets(features, 6)
    assert isinstance(targets, ChoiceTargets)
    assert targets.rows.tolist() == [[0, 1, 2], [3, 4, 0], [5, 6, 0]]
    assert targets.is_choice.tolist() == [[True] * 3, [True, True, False], [True, True, False]]
    assert targets.labels.tolist() == [2, 0, 1]
    assert targets.weights.tolist() == [True, False, True]
    assert targets.rows.dtype == targets.labels.dtype == np.int32


def test_predictions_and_scores_of_multiple_choice() -> None:
    found = [choice_record("a", "b", ("c", "d", "e"), 2), choice_record("a", "", ("f", "g"), 1)]
    done = answered("multiple-choice", found, [0.0, np.log(2), 0.0, -1.0, 1.0], ())
    settings = settings_of("multiple-choice")
    assert multiple_choice.result(*done[0], settings, ()) == {
        "choice": 1, "text": "d", "probabilities": [0.25, 0.5, 0.25],
    }  # fmt: skip
    assert multiple_choice.scores(done, settings, ()) == {"accuracy": 0.5}
    (large,) = answered("multiple-choice", found[:1], [1e4, 1e4, 1e4], ())
    probabilities = multiple_choice.result(*large, settings, ())["probabilities"]
    assert probabilities == [0.333333] * 3
    assert multiple_choice.augmented(found, settings) == found
    assert multiple_choice.outputs(settings, ()) == 1
    assert multiple_choice.labels_of(found, settings) == ()


def test_records_of_multiple_choice(tmp_path: Path) -> None:
    question = {"id": [1], "question": "b", "choices": ["c", "d"], "label": 1}
    (record,) = records(tmp_path, "multiple-choice", "a.jsonl", json.dumps(question))
    assert record[:5] == ("", "b", ("c", "d"), 1, [1])
    done = answered("multiple-choice", [record], [0.0, 1.0], ())
    assert multiple_choice.result(*done[0], settings_of("multiple-choice"), ())["id"] == [1]


@pytest.mark.parametrize("task", TASKS)
def test_texts_without_a_word_are_counted(task: str) -> None:
    tally = Tally()
    record: Any = text_record(None, "\x00\u200b ")
    if task == "multiple-choice":
        record = choice_record("\x00", "\u200b", (" ", "a"), None)
    TASKS[task].features(0, record, TOKENIZER, settings_of(task), ("0", "1"), tally)
    assert tally.counts() == {"rows without a single word": 1}


@pytest.mark.parametrize("task", TASKS)
def test_all_results_are_json(task: str) -> None:
    record: Any = text_record(None)
    logits: Any = [[0.0, 1.0]] if task == "classification" else [0.5]
    if task == "multiple-choice":
        record, logits = choice_record("a", "b", ("c", "d"), None), [0.0, 1.0]
    ((_, prediction),) = answered(task, [record], logits, ("x", "y"))
    result = TASKS[task].result(record, prediction, settings_of(task), ("x", "y"))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
