"""The task of finding answers: its settings, its labels, its targets, its results, its files."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import numpy as np
import pytest

from electra_ref.config.model import EncoderConfig
from electra_ref.errors import UserError
from electra_ref.model.heads.joint_span import Beam
from electra_ref.model.heads.span import SpanLogits, SpanOptions
from electra_ref.model.labelled import Head
from electra_ref.training.finetuning.formats.squad import Question
from electra_ref.training.finetuning.learning import model_of
from electra_ref.training.finetuning.span_decoding import Candidate, SpanPrediction
from electra_ref.training.finetuning.span_windows import Window
from electra_ref.training.finetuning.table import task_of
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Answered, Feature
from electra_ref.training.finetuning.tasks import span_extraction as task
from electra_ref.training.finetuning.tasks.span_extraction import SpanConfig
from tests.finetuning_files import written
from tests.test_span_windows import TOKENIZER
from tests.test_squad_format import BORN, NONE, file_of, squad_of

SETTINGS = SpanConfig(null_threshold=-1.0, no_answer=True, task="span-extraction")
ALWAYS = dataclasses.replace(SETTINGS, no_answer=False)
CAT = Candidate("cat", 4, 7, -0.5, 0.75)
DOG = Candidate("dog", 0, 3, -2.0, 0.25)


def answered(
    number: str, null_odds: float, *found: Candidate, gold: tuple[str, ...] = ()
) -> Answered:
    question = Question(number, "?", "dog cat", gold, None, not gold, True)
    return Answered(question, SpanPrediction(found, null_odds))


def test_settings_are_the_original_s() -> None:
    config = SpanConfig()
    named = {
        "doc_stride": 128, "max_query_length": 64, "n_best": 20, "max_answer_length": 30,
        "beam_size": 20, "answerable_weight": 0.5, "null_threshold": -2.75,
    }  # fmt: skip
    assert {key: getattr(config, key) for key in named} == named
    assert task.recipe({}, EncoderConfig()) == {"epochs": 2.0, "max_length": 512}
    assert task.recipe({"head": "original"}, EncoderConfig()) == task.recipe({}, EncoderConfig())
    assert task.recipe({"head": "huggingface"}, EncoderConfig())["null_threshold"] == 0.0
    with pytest.raises(UserError, match="n_best"):
        SpanConfig(n_best=0)
    assert task_of("span-extraction").TABLE is SpanConfig


def test_settings_reach_the_head() -> None:
    settings = SpanConfig(beam_size=7, answerable_weight=0.25, task="span-extraction")
    head: Head = model_of(task_of("span-extraction"), settings, ()).head
    assert head.options == SpanOptions(answerable_weight=0.25, beam=7, width=512)
    assert (head.kind, head.outputs) == ("span-extraction", 2)


def test_the_training_data_tell_whether_some_questions_have_no_answer() -> None:
    with_none = list(
        task.records(file_of(json.dumps(squad_of(BORN, NONE))), SETTINGS, "train", None, Tally())
    )
    assert task.settled(with_none, ALWAYS) == SETTINGS
    assert task.settled(with_none[:1], ALWAYS) == ALWAYS
    assert task.settled(with_none[:1], SETTINGS) == SETTINGS  # it was asked for
    assert task.labels_of(with_none, SETTINGS) == ()
    assert task.augmented(with_none, SETTINGS) == with_none


def test_features_keep_to_the_settings() -> None:
    question = Question("q", "who what who", "b c d e f . b c d", (), None, False, False)
    settings = SpanConfig(max_length=9, max_query_length=2, doc_stride=1)
    features = task.features(3, question, TOKENIZER, settings, (), Tally())
    assert {len(feature.rows[0].ids) for feature in features} == {9}
    assert [feature.detail.offsets[0, 0] for feature in features] == [0, 2, 4, 6, 8, 10]


def feature_of(answer: tuple[int, int], impossible: bool, is_labelled: bool) -> Feature:
    window = Window(3, np.zeros((4, 2), np.int32), (0, 4), answer, impossible, is_labelled)
    return Feature(0, (), window)


def test_targets() -> None:
    features = [
        feature_of((3, 5), False, True), feature_of((0, 0), True, True),
        feature_of((0, 0), False, True), feature_of((0, 0), False, False),
    ]  # fmt: skip
    targets = task.targets(features, 16)
    assert targets.starts.tolist() == [3, 0, 0, 0]
    assert targets.ends.tolist() == [5, 0, 0, 0]
    assert targets.impossible.tolist() == [0, 1, 0, 0]
    assert targets.weights.tolist() == [1, 1, 1, 0]


def test_answers_are_split_by_row() -> None:
    features = [feature_of((0, 0), False, False)] * 2
    shapes = ((2, 3), (2, 3), (2, 3, 3), (2, 3, 3), (2,))
    beam = Beam(*(np.arange(np.prod(shape)).reshape(shape) for shape in shapes))
    _, second = task.answers(beam, features)
    assert isinstance(second, Beam)
    assert second.starts.tolist() == [3, 4, 5]
    assert second.ends.shape == (3, 3)
    assert second.impossible == 1
    logits = SpanLogits(np.zeros((2, 5)), np.ones((2, 5)))
    (one, _) = task.answers(logits, features)
    assert isinstance(one, SpanLogits)
    assert one.ends.shape == (5,)


def test_predictions_are_decoded_with_the_settings() -> None:
    window = Window(3, np.array([[0, 3], [4, 7]], np.int32), (0, 2), (0, 0), False, False)
    logits = SpanLogits(
        np.array([0, 0, 0, 3, 2, 0], np.float32), np.array([0, 0, 0, 1, 4, 0], np.float32)
    )
    question = Question("q", "?", "dog cat", (), None, False, False)
    found = [
        task.predict(
            question, [Feature(0, (), window)], [logits],
            SpanConfig(n_best=n_best, max_answer_length=longest), (),
        ).candidates
        for n_best, longest in ((20, 30), (20, 1), (1, 30))
    ]  # fmt: skip
    assert [[one.text for one in best] for best in found] == [
        ["dog cat", "cat", "dog"], ["cat", "dog"], ["dog cat"],
    ]  # fmt: skip


def test_scores_are_those_of_the_best_spans() -> None:
    answers = [
        answered("a", -3.0, CAT, DOG, gold=("cat",)),
        answered("b", -2.0, DOG),
        answered("c", 0.0, DOG),
    ]
    scores = task.scores(answers, SETTINGS, ())
    assert scores["exact"] == pytest.approx(200 / 3)
    assert scores["best_exact"] == 100.0
    assert scores["best_exact_thresh"] == -3.0
    never_nothing = task.scores(answers, ALWAYS, ())
    assert never_nothing["exact"] == pytest.approx(100 / 3)
    assert "best_exact" not in never_nothing


def result_of(one: Answered, settings: SpanConfig = SETTINGS) -> dict[str, Any]:
    return task.result(one.record, one.prediction, settings, ())


def test_a_result_has_the_answer_and_its_place() -> None:
    assert result_of(answered("a", -3.0, CAT, DOG)) == {
        "id": "a", "answer": "cat", "start": 4, "end": 7, "score": -0.5, "null_odds": -3.0,
        "best": [
            {"text": "cat", "start": 4, "end": 7, "score": -0.5, "probability": 0.75},
            {"text": "dog", "start": 0, "end": 3, "score": -2.0, "probability": 0.25},
        ],
    }  # fmt: skip


def test_above_the_threshold_there_is_no_answer() -> None:
    result = result_of(answered("a", -0.5, CAT))
    nothing = {"answer": "", "start": None, "end": None, "score": None}
    assert {key: result[key] for key in nothing} == nothing
    assert result["best"][0]["text"] == "cat"
    assert result_of(answered("a", -1.0, CAT))["answer"] == "cat"  # at the threshold
    assert result_of(answered("a", 9.0, CAT), ALWAYS)["answer"] == "cat"
    assert result_of(answered("a", -9.0), ALWAYS)["start"] is None  # no span at all


def test_files_of_predictions_are_one_object_over_many_lines() -> None:
    answers = [answered('a"', -3.0, CAT, DOG), answered("b", 0.0, DOG), answered("c\u00e9", -2.0)]
    files = {
        name: json.loads("\n".join(written(output, answers, SETTINGS, ())))
        for name, output in task.OUTPUTS.items()
    }
    assert files["squad"] == {'a"': "cat", "b": "", "c\u00e9": ""}
    assert files["squad-null-odds"] == {'a"': -3.0, "b": 0.0, "c\u00e9": -2.0}
    assert [best["text"] for best in files["squad-nbest"]['a"']] == ["cat", "dog"]
    assert files["squad-nbest"]["c\u00e9"] == []
    for output in task.OUTPUTS.values():
        assert json.loads("\n".join(written(output, [], SETTINGS, ()))) == {}


def test_a_dropout_that_does_nothing_is_refused() -> None:
    for form in ("original", "huggingface"):
        settings = SpanConfig(task="span-extraction", head=form, head_dropout=0.5)
        (misfit,) = settings.idle(["head_dropout", "n_best"])
        assert re.search(f"does nothing with head = '{form}' .*: leave it out$", misfit)
        assert [*settings.idle(["n_best"])] == []  # a run of an older version may have it


@pytest.mark.parametrize("setting", [{"beam_size": 7}, {"answerable_weight": 0.25}])
def test_what_only_the_originals_head_reads_is_refused_with_the_other(
    setting: dict[str, Any],
) -> None:
    message = "does nothing with head = 'huggingface': leave it out, or choose head = 'original'"
    settings = SpanConfig(task="span-extraction", head="huggingface", **setting)
    (misfit,) = settings.idle(setting)
    assert re.search(f"{next(iter(setting))} = .* {message}", misfit)
    assert [*settings.idle([])] == []
    assert [*SpanConfig(task="span-extraction", **setting).idle(setting)] == []
